"""Cycles of all ops of one decode step, at one position or at many.

Ops with the same role, layout and regions cost the same, so one of each is computed. Of all ops
attention alone depends on the position, which makes sums over positions cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memory_planner.plan import Plan
from memory_planner.target import Reading, TargetSpec
from sim.cycle_model import Context, OpCycles, chain_of, op_cycles
from sim.streams import Waits, stream_waits
from toolchain.model.program import Layout, Op, OpKind, Program


@dataclass(frozen=True, slots=True)
class CostKey:
    """What the cycles of an op depend on, within one plan and at one position."""

    role: str
    layout: Layout | None
    chain: tuple[object, ...]  # of a linear on the engine: jobs and layouts of those beside it
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """The ops of one token in cycles, and the streams that they wait for."""

    context: Context
    cycles: tuple[OpCycles, ...]  # by op of the program
    streams: Waits

    @property
    def waits(self) -> tuple[int, ...]:
        """By op: cycles of it in which off-chip weights are under way."""
        ops = self.context.program.ops
        waits = [self.streams.of(op.id) for op in ops]
        return (*waits[:-1], waits[-1] + self.streams.behind)

    @property
    def totals(self) -> tuple[int, ...]:
        """By op: whole cycles, waiting included."""
        pairs = zip(self.waits, self.cycles, strict=True)
        return tuple(wait + round(each.total) for wait, each in pairs)

    @property
    def total(self) -> int:
        """Cycles of the token."""
        return sum(self.totals)

    def at(self, position: int) -> Step:
        """The same step for another token."""
        context = replace(self.context, position=position)
        return _step(context, self.cycles_at(position))

    def cycles_at(self, position: int) -> tuple[OpCycles, ...]:
        """By op: what it costs for another token, without streams."""
        context = replace(self.context, position=position)
        known: dict[CostKey, OpCycles] = {}
        cycles = list(self.cycles)
        for index, op in enumerate(context.program.ops):
            if op.kind is OpKind.ATTENTION:
                key = cost_key(context, op)
                if key not in known:
                    known[key] = op_cycles(context, op)
                cycles[index] = known[key]
        return tuple(cycles)


def decode_step(
    program: Program,
    plan: Plan,
    target: TargetSpec,
    position: int,
    reading: Reading = Reading.SIMULATOR,
) -> Step:
    """The step of the token at `position`, 0 to context - 1; ValueError beyond.

    Of linears that cost the same, the plan needs the tiles of the first one alone.
    """
    if not 0 <= position < program.shape.context:
        raise ValueError(f"position {position} is outside 0..{program.shape.context - 1}")
    context = Context(program, plan, target.read_as(reading), position)
    known: dict[CostKey, OpCycles] = {}
    cycles = []
    for op in program.ops:
        key = cost_key(context, op)
        if key not in known:
            known[key] = op_cycles(context, op)
        cycles.append(known[key])
    return _step(context, tuple(cycles))


def cost_key(context: Context, op: Op) -> CostKey:
    """Ops with equal keys cost the same."""
    program, places = context.program, context.plan.placements
    layout = program.weight_of(op).layout if op.kind is OpKind.LINEAR else None
    regions = tuple(places[name].region for name in (*op.inputs, *op.outputs))
    chain = chain_of(context.plan, op)
    beside: tuple[object, ...] = ()
    if chain:
        layouts = tuple(program.tensors[each.weight].layout for each in chain.linears)
        beside = (tuple(job.cycles for job in chain.jobs), *layouts)
    return CostKey(op.role, layout, beside, regions)


def _step(context: Context, cycles: tuple[OpCycles, ...]) -> Step:
    waits = stream_waits(context.program, context.plan, context.target, cycles)
    return Step(context, cycles, waits)
