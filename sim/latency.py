"""The latency estimate of one decode step, beside the bound that no schedule can beat.

Cycles come from sim/cycle_model.py and the constants of the target file; nothing here was run.
The bandwidth bound is what remains if all work were free: the bytes of weights and KV cache that
must reach the cores for one token, over the rate of their link.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from memory_planner.plan import Plan
from memory_planner.target import Status, TargetSpec
from sim.cycle_model import Context, OpCycles, engine_words, op_cycles
from sim.streams import StreamCycles, stream_link, stream_waits
from toolchain.model.engine_packing import WORD_SIZE
from toolchain.model.program import Op, OpKind, Program

NOT_MODELLED = (
    "instruction cache misses and the start of the cores",
    "contention between cores, DMA and memory banks",
    "wake-up, wait states and refresh of non-volatile memory beyond the load cycles given",
    "stores that wait, branches that depend on data, saturation paths",
    "tokenizer, sampling, application and interrupts",
)


@dataclass(frozen=True, slots=True)
class OpLatency:
    """One op of the schedule, in cycles."""

    id: str
    kind: str
    engine: str  # what multiplies: cores, or the name of the engine
    compute_cycles: int
    dma_cycles: int  # sum of its transfers, most of which run beside the work
    total_cycles: int  # what the step waits for
    bound_by: str  # cores, dma or engine: the longest
    stream_wait: int = 0  # of the total: off-chip weights are under way


@dataclass(frozen=True, slots=True)
class LinkUse:
    """Bytes that must cross a link for one token, and the cycles that this takes at least."""

    link: str
    size: int
    cycles: int
    off_chip: bool = False


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Estimate for one token at `position` (the KV cache holds position + 1 rows)."""

    target: str
    position: int
    cores: int
    clock_hz: int
    ops: tuple[OpLatency, ...]
    links: tuple[LinkUse, ...]
    cycles_per_token: int
    bound_cycles: int  # of the busiest link
    prefill_cycles_per_token: int  # mean of positions 0 .. position: prompts run token by token
    not_modelled: tuple[str, ...]
    assumed: tuple[str, ...]  # constants of the target that nobody has measured or documented
    streams: tuple[StreamCycles, ...] = ()  # off-chip weights

    @property
    def tokens_per_second(self) -> float:
        """The estimate at the target's clock."""
        return self.clock_hz / self.cycles_per_token

    @property
    def bound_tokens_per_second(self) -> float:
        """What the links allow at the target's clock, were all work free."""
        return self.clock_hz / self.bound_cycles

    def share(self, op: OpLatency) -> float:
        """The op's part of the token, 0 to 1."""
        return op.total_cycles / self.cycles_per_token

    def cycles_by_kind(self) -> dict[str, int]:
        """Cycles of all ops of a kind, largest first."""
        sums: dict[str, int] = {}
        for op in self.ops:
            sums[op.kind] = sums.get(op.kind, 0) + op.total_cycles - op.stream_wait
        waited = sum(op.stream_wait for op in self.ops)
        if waited:
            sums["stream"] = waited
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def lanes(self) -> dict[str, int]:
        """Busy cycles of each lane; they overlap, so the sum may exceed the token."""
        streams = {"off_chip": sum(stream.travel for stream in self.streams)}
        return {
            "cores": sum(op.compute_cycles for op in self.ops),
            "dma": sum(op.dma_cycles for op in self.ops),
            **(streams if self.streams else {}),
        }

    def to_dict(self) -> dict[str, object]:
        """The report as JSON values; every figure is an estimate."""
        return {
            "estimate": True,
            "target": self.target,
            "position": self.position,
            "cores": self.cores,
            "clock_hz": self.clock_hz,
            "cycles_per_token": self.cycles_per_token,
            "tokens_per_second": round(self.tokens_per_second, 3),
            "bound_cycles": self.bound_cycles,
            "bound_tokens_per_second": round(self.bound_tokens_per_second, 3),
            "prefill_cycles_per_token": self.prefill_cycles_per_token,
            "lanes": self.lanes(),
            "by_kind": self.cycles_by_kind(),
            "links": [asdict(link) for link in self.links],
            "ops": [{**asdict(op), "share": round(self.share(op), 6)} for op in self.ops],
            "overlap": "first transfer of an op exposed, then the longer of tile and next transfer",
            "not_modelled": list(self.not_modelled),
            "assumed": list(self.assumed),
        }


def estimate(program: Program, plan: Plan, target: TargetSpec, position: int) -> LatencyReport:
    """The estimate for the token at `position`, 0 to context - 1; ValueError beyond."""
    if not 0 <= position < program.shape.context:
        raise ValueError(f"position {position} is outside 0..{program.shape.context - 1}")
    context = Context(program, plan, target, position)
    cycles = [op_cycles(context, op) for op in program.ops]
    waits = stream_waits(program, plan, target, cycles)
    streams, last = waits.streams, program.ops[-1]
    ops = tuple(
        _op_latency(context, op, each, waits.of(op.id) + (waits.behind if op is last else 0))
        for op, each in zip(program.ops, cycles, strict=True)
    )
    moved = [pair for each in cycles for pair in each.moved]
    link = stream_link(plan, target)
    moved += [(link.name, each.size) for each in streams if link]
    links = _link_use(target, moved) + engine_use(program, plan)
    total = sum(op.total_cycles for op in ops)
    return LatencyReport(
        target=target.name,
        position=position,
        cores=target.cores,
        clock_hz=target.clock_hz,
        ops=ops,
        links=links,
        cycles_per_token=total,
        bound_cycles=max(1, *(link.cycles for link in links)),
        prefill_cycles_per_token=_mean_cycles(context, total),
        not_modelled=NOT_MODELLED,
        assumed=_assumptions(target),
        streams=streams,
    )


def engine_use(program: Program, plan: Plan) -> tuple[LinkUse, ...]:
    """The weights that the engine reads, one word per cycle at best."""
    if plan.engine is None:
        return ()
    size = engine_words(program, plan)
    return (LinkUse(f"{plan.engine.name} weights", size, size // WORD_SIZE),)


def _op_latency(context: Context, op: Op, cycles: OpCycles, wait: int) -> OpLatency:
    engine = context.plan.engine if context.program.engine_layout_of(op) else None
    busy = {"cores": cycles.compute, "dma": cycles.dma, "engine": cycles.engine}
    return OpLatency(
        id=op.id,
        kind=op.kind.value,
        engine=engine.name if engine else "cores",
        compute_cycles=round(cycles.compute),
        dma_cycles=round(cycles.dma),
        total_cycles=wait + round(cycles.total),
        stream_wait=wait,
        bound_by=max(busy, key=lambda lane: busy[lane]),
    )


def _link_use(target: TargetSpec, moved: Iterable[tuple[str, int]]) -> tuple[LinkUse, ...]:
    """Links of one name are one bus."""
    sizes = {link.name: 0 for link in target.links}
    rates = {link.name: link.bytes_per_cycle for link in target.links}
    for name, size in moved:
        sizes[name] += size
    region = target.off_chip.region if target.off_chip else None
    outside = {link.name for link in target.links if region in link.sources}
    return tuple(
        LinkUse(name, size, round(size / rates[name]), name in outside)
        for name, size in sizes.items()
    )


def _mean_cycles(context: Context, total: int) -> int:
    """Mean over the positions up to this one; attention alone depends on the position."""
    attention = [op for op in context.program.ops if op.kind is OpKind.ATTENTION]
    if not attention:
        return total

    def of_attention(position: int) -> int:
        at = Context(context.program, context.plan, context.target, position)
        return len(attention) * round(op_cycles(at, attention[0]).total)

    rest = total - of_attention(context.position)
    positions = range(context.position + 1)
    return rest + sum(of_attention(position) for position in positions) // len(positions)


def _assumptions(target: TargetSpec) -> tuple[str, ...]:
    return tuple(
        f"{path} = {constant.value} {constant.unit}: {constant.source}"
        for path, constant in target.constants.items()
        if constant.status is Status.ASSUMED
    )
