"""The latency estimate of many designs: the same figures as sim/latency.py, without its tables.

Ops with the same role, layout and regions cost the same, so one of each is computed. A design that
does not fit is computed as if its memories were larger; what does not fit streams from off-chip
memory, and that time is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from memory_planner.tiling import plan_linears
from sim.cycle_model import Context, op_cycles
from sim.latency import LatencyReport
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Op, OpKind, Program

# One 8-bit DDR HyperBus; nobody published its clock on Siracusa. Plausible: 100 to 400 MB/s.
OFF_CHIP_BYTES_PER_SECOND = 200_000_000


@dataclass(frozen=True, slots=True)
class Speed:
    """Estimate for the token at `position`; `off_chip_size` bytes stream once per token."""

    position: int
    cycles_per_token: int  # on chip
    bound_cycles: int  # of the busiest link
    clock_hz: int
    off_chip_size: int = 0

    @property
    def off_chip_seconds(self) -> float:
        """Time of the stream, not overlapped with anything."""
        return self.off_chip_size / OFF_CHIP_BYTES_PER_SECOND

    @property
    def tokens_per_second(self) -> float:
        """The estimate at the target's clock."""
        return 1.0 / (self.cycles_per_token / self.clock_hz + self.off_chip_seconds)

    @property
    def bound_tokens_per_second(self) -> float:
        """What the memories allow, were all work free."""
        return 1.0 / (self.bound_cycles / self.clock_hz + self.off_chip_seconds)


def speed_of(latency: LatencyReport) -> Speed:
    """The figures of a full latency report."""
    return Speed(latency.position, latency.cycles_per_token, latency.bound_cycles, latency.clock_hz)


def decode_speed(program: Program, plan: Plan, target: TargetSpec, position: int) -> Speed:
    """The estimate for a plan that has the linears of `with_sample_linears`, or all of them."""
    context = Context(program, plan, target, position)
    total, moved = 0, {link.name: 0 for link in target.links}
    for op, count in _op_counts(program, plan):
        cycles = op_cycles(context, op)
        total += count * round(cycles.total)
        for link, size in cycles.moved:
            moved[link] += count * size
    links = [round(moved[link.name] / link.bytes_per_cycle) for link in target.links]
    excess = sum(max(0, -region.free) for region in plan.regions)
    return Speed(position, total, max(1, *links), target.clock_hz, excess)


def with_sample_linears(
    program: Program, plan: Plan, target: TargetSpec, halvings: Mapping[str, int]
) -> Plan:
    """A draft with the transfers of one linear of each kind: enough for `decode_speed`."""
    samples = tuple(op for op, _ in _op_counts(program, plan) if op.kind is OpKind.LINEAR)
    offsets = {name: place.offset for name, place in plan.placements.items()}
    linears = plan_linears(replace(program, ops=samples), target, halvings, offsets)
    return replace(plan, linears=linears)


@dataclass(frozen=True, slots=True)
class _Cost:
    """What the cycles of an op depend on."""

    role: str
    layout: WeightLayout | None
    regions: tuple[str, ...]


def _op_counts(program: Program, plan: Plan) -> list[tuple[Op, int]]:
    """The first op of each cost, with how many there are."""
    first: dict[_Cost, Op] = {}
    counts: dict[str, int] = {}
    for op in program.ops:
        layout = program.layout_of(op) if op.kind is OpKind.LINEAR else None
        regions = tuple(plan.placements[name].region for name in (*op.inputs, *op.outputs))
        sample = first.setdefault(_Cost(op.role, layout, regions), op)
        counts[sample.id] = counts.get(sample.id, 0) + 1
    return [(op, counts[op.id]) for op in first.values()]
