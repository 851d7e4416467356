"""The latency estimate of one decode step, beside the bound that no schedule can beat.

Cycles come from sim/step.py and the constants of the target file, the bound from sim/bound.py;
nothing here was run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from memory_planner.plan import Plan
from memory_planner.target import CORES, ENGINE, Constant, Reading, Status, TargetSpec
from sim.bound import LinkUse, bound_cycles, link_uses
from sim.op_cycles import OpCycles
from sim.step import Step, decode_step
from sim.streams import StreamCycles
from toolchain.model.program import Op, Program

NOT_MODELLED = (
    "the start of the cores; instruction cache misses, but for the conservative reading",
    "which memory bank an access meets: contention is a factor, and 1 in the simulator's reading",
    "wake-up, wait states and refresh of non-volatile memory beyond the load cycles given",
    "stores that wait, branches that depend on data, saturation paths",
    "tokenizer, sampling, application and interrupts",
)


class Bound(StrEnum):
    """What an op spends most cycles on; several may go on at the same time."""

    CORES = "cores"  # work
    BARRIER = "barrier"  # waiting for each other, fetching cold code
    DMA = "dma"  # transfers on the chip
    OFF_CHIP = "off_chip"  # transfers from outside, streams of the block included
    ENGINE_PORT = "engine_port"  # the engine, mostly reading words of weights
    ENGINE_LOAD = "engine_load"  # the engine, mostly loading inputs, starting, writing outputs


@dataclass(frozen=True, slots=True)
class OpLatency:
    """One op of the schedule, in cycles."""

    id: str
    kind: str
    engine: str  # what multiplies: cores, or the name of the engine
    compute_cycles: int
    dma_cycles: int  # sum of its transfers, most of which run beside the work
    total_cycles: int  # what the step waits for
    bound_by: str
    stream_wait: int = 0  # of the total: off-chip weights are under way
    overhead_cycles: int = 0  # of the computation: barriers and cold code
    engine_cycles: int = 0  # of the jobs for which the op waits
    engine_words: int = 0  # of these: cycles in which a word of weights is read


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Estimate for one token at `position` (the KV cache holds position + 1 rows)."""

    target: str
    reading: Reading
    position: int
    cores: int
    clock_hz: int
    ops: tuple[OpLatency, ...]
    links: tuple[LinkUse, ...]
    cycles_per_token: int
    bound_cycles: int  # of the busiest link
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

    @property
    def bound_share(self) -> float:
        """The bound over the estimate: 1 would be as fast as the memories allow."""
        return self.bound_cycles / self.cycles_per_token

    @property
    def engine_port_share(self) -> float | None:
        """Of the engine's busy cycles those in which it reads weights: 1 is its bandwidth bound."""
        busy = sum(op.engine_cycles for op in self.ops)
        return sum(op.engine_words for op in self.ops) / busy if busy else None

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
        engine = {ENGINE: sum(op.engine_cycles for op in self.ops)}
        return {
            **(engine if engine[ENGINE] else {}),
            "cores": sum(op.compute_cycles for op in self.ops),
            "dma": sum(op.dma_cycles for op in self.ops),
            **(streams if self.streams else {}),
        }

    def to_dict(self) -> dict[str, object]:
        """The report as JSON values; every figure is an estimate."""
        share = self.engine_port_share
        return {
            "estimate": True,
            "target": self.target,
            "reading": self.reading.value,
            "position": self.position,
            "cores": self.cores,
            "clock_hz": self.clock_hz,
            "cycles_per_token": self.cycles_per_token,
            "tokens_per_second": round(self.tokens_per_second, 3),
            "bound_cycles": self.bound_cycles,
            "bound_tokens_per_second": round(self.bound_tokens_per_second, 3),
            "bound_share": round(self.bound_share, 6),
            "engine_port_share": share if share is None else round(share, 6),
            "lanes": self.lanes(),
            "lane_shares": {
                lane: round(cycles / self.cycles_per_token, 6)
                for lane, cycles in self.lanes().items()
            },
            "by_kind": self.cycles_by_kind(),
            "links": [link.to_dict() for link in self.links],
            "ops": [{**asdict(op), "share": round(self.share(op), 6)} for op in self.ops],
            "overlap": "first transfer of an op exposed, then the longer of tile and next transfer",
            "not_modelled": list(self.not_modelled),
            "assumed": list(self.assumed),
        }


def estimate(
    program: Program,
    plan: Plan,
    target: TargetSpec,
    position: int,
    reading: Reading = Reading.SIMULATOR,
) -> LatencyReport:
    """The estimate for the token at `position`, 0 to context - 1; ValueError beyond."""
    return latency_of(decode_step(program, plan, target, position, reading), reading)


def latency_of(step: Step, reading: Reading) -> LatencyReport:
    """The report on a step, whose target was read as `reading`."""
    context, target = step.context, step.context.target
    links = link_uses(step)
    off_chip = {link.link for link in links if link.off_chip}
    engine = context.plan.engine.name if context.plan.engine else ""
    ops = tuple(
        _op_latency(op, each, wait, off_chip, engine)
        for op, each, wait in zip(context.program.ops, step.cycles, step.waits, strict=True)
    )
    return LatencyReport(
        target=target.name,
        reading=reading,
        position=context.position,
        cores=target.cores,
        clock_hz=target.clock_hz,
        ops=ops,
        links=links,
        cycles_per_token=step.total,
        bound_cycles=bound_cycles(links),
        not_modelled=NOT_MODELLED,
        assumed=assumptions(target.constants, reading),
        streams=step.streams.streams,
    )


def _op_latency(op: Op, cycles: OpCycles, wait: int, off_chip: set[str], engine: str) -> OpLatency:
    outside = any(name in off_chip for name, _ in cycles.moved)
    spent = {
        Bound.CORES: cycles.compute - cycles.overhead,
        Bound.BARRIER: cycles.overhead,
        Bound.DMA: 0.0 if outside else cycles.dma,
        Bound.OFF_CHIP: wait + (cycles.dma if outside else 0.0),
    }
    at_port = 2 * cycles.engine_words >= cycles.engine_busy
    spent[Bound.ENGINE_PORT if at_port else Bound.ENGINE_LOAD] = cycles.engine_busy
    return OpLatency(
        id=op.id,
        kind=op.kind.value,
        engine=engine if cycles.on_engine else CORES,
        compute_cycles=round(cycles.compute),
        dma_cycles=round(cycles.dma),
        total_cycles=wait + round(cycles.total),
        bound_by=max(spent, key=lambda bound: spent[bound]).value,
        stream_wait=wait,
        overhead_cycles=round(cycles.overhead),
        engine_cycles=round(cycles.engine_busy),
        engine_words=cycles.engine_words,
    )


def assumptions(constants: Mapping[str, Constant], reading: Reading) -> tuple[str, ...]:
    """A line per constant that nobody has measured or documented; energy has its own report."""
    return tuple(
        f"{path} = {constant.read(reading)} {constant.unit}: {constant.source}"
        for path, constant in constants.items()
        if constant.status is Status.ASSUMED and not path.startswith("energy.")
    )
