"""The estimate of sim/latency.py for a design, whether or not it fits.

A design that does not fit is computed as if its memories were larger; what does not fit streams
from off-chip memory, and that time is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory_planner.engine_job_plan import plan_engine
from memory_planner.plan import Plan
from memory_planner.target import Reading, TargetSpec
from memory_planner.tiling import plan_linears
from sim.energy import EnergyReport, token_energy
from sim.latency import LatencyReport, estimate
from sim.op_cycles import Context
from sim.step import CostKey, cost_key
from toolchain.model.program import Op, OpKind, Program

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
    conservative_cycles: int = 0  # of the token in the slower reading
    energy: EnergyReport | None = None  # of one token; None when the target has no figures

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
    def conservative_tokens_per_second(self) -> float:
        """The estimate where sources differ and the slower one counts."""
        return 1.0 / (self.conservative_cycles / self.clock_hz + self.missing_seconds)

    @property
    def bound_tokens_per_second(self) -> float:
        """What the memories allow, were all work free."""
        return 1.0 / (self.bound_cycles / self.clock_hz + self.missing_seconds)


def speed_of(readings: Sequence[LatencyReport], energy: EnergyReport | None) -> Speed:
    """The figures of latency reports on the same token, the simulator's reading first."""
    latency, slower = readings
    outside = [link for link in latency.links if link.off_chip]
    return Speed(
        position=latency.position,
        cycles_per_token=latency.cycles_per_token,
        bound_cycles=latency.bound_cycles,
        clock_hz=latency.clock_hz,
        streamed=sum(link.size for link in outside),
        stream_cycles=sum(link.cycles for link in outside),
        exposed_cycles=sum(op.stream_wait for op in latency.ops),
        conservative_cycles=slower.cycles_per_token,
        energy=energy,
    )


def decode_speed(program: Program, plan: Plan, target: TargetSpec, position: int) -> Speed:
    """The estimate for a plan that has the linears of `with_sample_linears`, or all of them."""
    outside = target.off_chip.region if target.off_chip else None
    lacking = [region for region in plan.regions if region.name != outside]
    readings = [estimate(program, plan, target, position, reading) for reading in Reading]
    return replace(
        speed_of(readings, token_energy(readings[0], target)),
        missing=sum(max(0, -region.free) for region in lacking),
    )


def with_sample_linears(program: Program, plan: Plan, target: TargetSpec) -> Plan:
    """A draft with the transfers of one linear of each kind: enough for `decode_speed`.

    With linears on an engine it has all of them: jobs are shared.
    """
    context = Context(program, plan, target, 0)
    samples: dict[CostKey, Op] = {}
    for op in program.ops:
        if op.kind is OpKind.LINEAR:
            samples.setdefault(cost_key(context, op), op)
    on_engine = any(program.engine_layout_of(op) for op in program.ops)
    ops = program.ops if on_engine else tuple(samples.values())
    plan = replace(plan, linears=plan_linears(replace(program, ops=ops), target, plan))
    return replace(plan, engine=plan_engine(program, target, plan))
