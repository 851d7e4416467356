"""The latency estimate of many designs: the same figures as sim/latency.py, without its tables.

Ops with the same role, layout and regions cost the same, so one of each is computed. A design that
does not fit is computed as if its memories were larger; what does not fit streams from off-chip
memory, and that time is added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memory_planner.engine_job_plan import plan_engine
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from memory_planner.tiling import plan_linears
from sim.cycle_model import Context, OpCycles, op_cycles
from sim.latency import LatencyReport, engine_use
from sim.streams import stream_link, stream_waits
from toolchain.model.program import Layout, Op, OpKind, Program

# One 8-bit DDR HyperBus; nobody published its clock on Siracusa. Plausible: 100 to 400 MB/s.
OFF_CHIP_BYTES_PER_SECOND = 200_000_000


@dataclass(frozen=True, slots=True)
class Speed:
    """Estimate for the token at `position`.

    Streams of the plan are part of the cycles; `missing` bytes, for which a region is too small,
    are not, and stream once per token.
    """

    position: int
    cycles_per_token: int
    bound_cycles: int  # of the busiest link
    clock_hz: int
    missing: int = 0
    streamed: int = 0  # bytes of the plan that cross the off-chip link
    stream_cycles: int = 0  # of that link
    exposed_cycles: int = 0  # of the streams: what the cores wait for

    @property
    def off_chip_size(self) -> int:
        """Bytes from off-chip memory per token."""
        return self.streamed + self.missing

    @property
    def missing_seconds(self) -> float:
        """Time of the bytes without a place, not overlapped with anything."""
        return self.missing / OFF_CHIP_BYTES_PER_SECOND

    @property
    def off_chip_seconds(self) -> float:
        """Time on the off-chip link, overlapped or not."""
        return self.stream_cycles / self.clock_hz + self.missing_seconds

    @property
    def exposed_seconds(self) -> float:
        """Time for which the cores wait for streams, or for what has no place."""
        return self.exposed_cycles / self.clock_hz + self.missing_seconds

    @property
    def tokens_per_second(self) -> float:
        """The estimate at the target's clock."""
        return 1.0 / (self.cycles_per_token / self.clock_hz + self.missing_seconds)

    @property
    def bound_tokens_per_second(self) -> float:
        """What the memories allow, were all work free."""
        return 1.0 / (self.bound_cycles / self.clock_hz + self.missing_seconds)


def speed_of(latency: LatencyReport) -> Speed:
    """The figures of a full latency report."""
    outside = [link for link in latency.links if link.off_chip]
    return Speed(
        position=latency.position,
        cycles_per_token=latency.cycles_per_token,
        bound_cycles=latency.bound_cycles,
        clock_hz=latency.clock_hz,
        streamed=sum(link.size for link in outside),
        stream_cycles=sum(link.cycles for link in outside),
        exposed_cycles=sum(op.stream_wait for op in latency.ops),
    )


def decode_speed(program: Program, plan: Plan, target: TargetSpec, position: int) -> Speed:
    """The estimate for a plan that has the linears of `with_sample_linears`, or all of them."""
    context = Context(program, plan, target, position)
    total, moved = 0, {link.name: 0 for link in target.links}
    costs: dict[_Cost, OpCycles] = {}
    each = []
    for op in program.ops:
        cost = _cost_of(program, plan, op)
        if cost not in costs:
            costs[cost] = op_cycles(context, op)
        each.append(costs[cost])
    for cycles in each:
        total += round(cycles.total)
        for name, size in cycles.moved:
            moved[name] += size
    link, exposed = stream_link(plan, target), 0
    for stream in stream_waits(program, plan, target, each).streams:
        exposed += stream.exposed
        moved[link.name if link else ""] += stream.size
    total += exposed
    links = [round(moved[link.name] / link.bytes_per_cycle) for link in target.links]
    words = [use.cycles for use in engine_use(program, plan)]
    outside = target.off_chip.region if target.off_chip else None
    lacking = [region for region in plan.regions if region.name != outside]
    bus = {link.name for link in target.links if outside in link.sources}
    return Speed(
        position=position,
        cycles_per_token=total,
        bound_cycles=max(1, *links, *words),
        clock_hz=target.clock_hz,
        missing=sum(max(0, -region.free) for region in lacking),
        streamed=sum(moved[name] for name in bus),
        stream_cycles=max(
            (n for n, k in zip(links, target.links, strict=True) if k.name in bus), default=0
        ),
        exposed_cycles=exposed,
    )


def with_sample_linears(program: Program, plan: Plan, target: TargetSpec) -> Plan:
    """A draft with the transfers of one linear of each kind: enough for `decode_speed`."""
    samples = tuple(op for op, _ in _op_counts(program, plan) if op.kind is OpKind.LINEAR)
    on_engine = any(program.engine_layout_of(op) for op in program.ops)
    linears = plan_linears(program if on_engine else replace(program, ops=samples), target, plan)
    plan = replace(plan, linears=linears)
    return replace(plan, engine=plan_engine(program, target, plan))


@dataclass(frozen=True, slots=True)
class _Cost:
    """What the cycles of an op depend on."""

    role: str
    layout: Layout | None
    chain: tuple[Layout | None, ...]  # layouts of the linears that share its jobs
    regions: tuple[str, ...]


def _op_counts(program: Program, plan: Plan) -> list[tuple[Op, int]]:
    """The first op of each cost, with how many there are."""
    first: dict[_Cost, Op] = {}
    counts: dict[str, int] = {}
    for op in program.ops:
        sample = first.setdefault(_cost_of(program, plan, op), op)
        counts[sample.id] = counts.get(sample.id, 0) + 1
    return [(op, counts[op.id]) for op in first.values()]


def _cost_of(program: Program, plan: Plan, op: Op) -> _Cost:
    layout = program.weight_of(op).layout if op.kind is OpKind.LINEAR else None
    regions = tuple(plan.placements[name].region for name in (*op.inputs, *op.outputs))
    return _Cost(op.role, layout, _chain_of(program, plan, op), regions)


def _chain_of(program: Program, plan: Plan, op: Op) -> tuple[Layout | None, ...]:
    if program.engine_layout_of(op) is None or plan.engine is None:
        return ()
    for chain in plan.engine.chains:
        if any(each.op == op.id for each in chain.linears):
            return tuple(program.tensors[each.weight].layout for each in chain.linears)
    return ()
