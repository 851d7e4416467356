"""Cycles of all ops of one decode step, at one position or at many.

Ops run one by one, or several as one function (memory_planner/fused_ops.py) where the target has
costs for that. Ops with the same role, layout and regions cost the same, so one of each is
computed. Of all ops attention alone depends on the position, which makes sums over positions cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from memory_planner.fused_ops import FusedBlock, FusedOp, fused_block
from memory_planner.plan import Plan
from memory_planner.target import Reading, TargetSpec
from sim.cycle_model import chain_of, op_cycles
from sim.fused_cycles import fused_cycles
from sim.op_cycles import Context, OpCycles
from sim.streams import Waits, stream_waits
from toolchain.model.program import Layout, Op, OpKind, Program
from toolchain.model.silent_parts import whole_block


@dataclass(frozen=True, slots=True)
class CostKey:
    """What the cycles of an op depend on, within one plan and at one position."""

    role: str
    layout: Layout | None
    chain: tuple[object, ...]  # of a linear on the engine: jobs and layouts of those beside it
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """Ops that run as one function, or a single one; `first` counts in the program."""

    first: int
    ops: tuple[Op, ...]
    fused: FusedOp | None = None


@dataclass(frozen=True)
class Step:
    """The ops of one token in cycles, and the streams that they wait for."""

    context: Context
    cycles: tuple[OpCycles, ...]  # by op of the program
    streams: Waits
    block: FusedBlock  # what runs as one

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
        return _step(context, self.cycles_at(position), self.block)

    def cycles_at(self, position: int) -> tuple[OpCycles, ...]:
        """By op: what it costs for another token, without streams."""
        context = replace(self.context, position=position)
        cycles = list(self.cycles)
        for places in self.attention.values():
            found = _unit_cycles(context, places[0])
            for unit in places:
                cycles[unit.first : unit.first + len(found)] = found
        return tuple(cycles)

    @cached_property
    def attention(self) -> Mapping[tuple[CostKey, ...], Sequence[Unit]]:
        """Units with attention, by what they cost."""
        found: dict[tuple[CostKey, ...], list[Unit]] = {}
        for unit in schedule_units(self.context.program, self.block):
            if any(op.kind is OpKind.ATTENTION for op in unit.ops):
                key = tuple(cost_key(self.context, op) for op in unit.ops)
                found.setdefault(key, []).append(unit)
        return found


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
    costs = context.target.costs.fused
    block = fused_block(program, plan) if costs else FusedBlock()
    units = schedule_units(program, block)
    cycles = list(_cycles(context, units))
    if costs and block.ops:
        last = next(index for index, op in enumerate(program.ops) if op.layer >= 0) - 1
        cycles[last] = _longer(cycles[last], costs.fixed["token"])
    return _step(context, tuple(cycles), block)


def schedule_units(program: Program, block: FusedBlock) -> Iterator[Unit]:
    """The schedule in order, as the generated code runs it."""
    roles = [op.role for op in whole_block(program)] if block.ops else []
    starts = {roles[item.first]: item for item in block.ops}
    behind = max((i for i, op in enumerate(program.ops) if op.layer >= 0), default=-1) + 1
    index = 0
    while index < len(program.ops):
        op = program.ops[index]
        fused = starts.get(op.role) if op.layer >= 0 else None
        if index == behind:
            fused = block.head
        end = index + (fused.last - fused.first if fused else 1)
        yield Unit(index, program.ops[index:end], fused)
        index = end


def _cycles(context: Context, units: Iterable[Unit]) -> Iterator[OpCycles]:
    """The cycles of their ops."""
    known: dict[tuple[CostKey, ...], tuple[OpCycles, ...]] = {}
    for unit in units:
        key = tuple(cost_key(context, op) for op in unit.ops)
        if key not in known:
            known[key] = _unit_cycles(context, unit)
        yield from known[key]


def _unit_cycles(context: Context, unit: Unit) -> tuple[OpCycles, ...]:
    if unit.fused:
        return fused_cycles(context, unit.fused, unit.ops)
    return (op_cycles(context, unit.ops[0]),)


def _longer(each: OpCycles, cycles: float) -> OpCycles:
    """An op with more to do that grows with nothing."""
    overhead, compute = each.overhead + cycles, each.compute + cycles
    return replace(each, overhead=overhead, compute=compute, total=each.total + cycles)


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


def _step(context: Context, cycles: tuple[OpCycles, ...], block: FusedBlock) -> Step:
    waits = stream_waits(context.program, context.plan, context.target, cycles)
    return Step(context, cycles, waits, block)
