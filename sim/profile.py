"""What a model costs on a target: one token at a context, a prompt, energy, and the growth of it.

A prompt runs through the blocks in batches, and through the head with its last token alone
(sim/prefill_cycles.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from memory_planner.plan import Plan
from memory_planner.prompts import PromptChoice, prompt_choice
from memory_planner.target import Reading, TargetSpec
from sim.bound import bound_cycles, link_uses
from sim.energy import EnergyReport, token_energy
from sim.latency import LatencyReport, OpLatency, estimate, latency_of
from sim.prefill_cycles import prefill_cycles
from sim.step import Step, decode_step
from toolchain.model.program import Program

DEAREST = 10
CURVE_POINTS = 33  # at most


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prompt of `tokens` tokens, from an empty cache."""

    tokens: int
    cycles: int
    clock_hz: int
    choice: PromptChoice

    @property
    def method(self) -> str:
        """How, for reports."""
        return f"{self.choice.text}, with the head for the last one alone"

    @property
    def cycles_per_token(self) -> int:
        """Mean."""
        return self.cycles // self.tokens

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens per second at the target's clock."""
        return self.clock_hz * self.tokens / self.cycles


@dataclass(frozen=True, slots=True)
class RoleCost:
    """All ops of a role: the same work in every block."""

    role: str
    kind: str
    engine: str
    count: int
    cycles: int  # of all of them
    share: float  # of the token
    bound_by: str  # of most of these cycles
    compute_cycles: int
    dma_cycles: int
    overhead_cycles: int
    stream_wait: int
    engine_cycles: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One token whose cache holds `length` rows, its own included."""

    length: int
    cycles: int
    bound_cycles: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The estimate in one reading, and the token in the other readings beside it."""

    latency: LatencyReport
    readings: tuple[LatencyReport, ...]  # of the same token, the simulator's first
    prefill: Prefill
    energy: EnergyReport | None
    dearest: tuple[RoleCost, ...]
    curve: tuple[CurvePoint, ...]

    def to_dict(self) -> dict[str, object]:
        """The profile as JSON values, those of the latency report among them."""
        return {
            **self.latency.to_dict(),
            "context": self.latency.position + 1,
            "decode": _short(self.latency),
            "readings": {each.reading.value: _short(each) for each in self.readings},
            "prefill": {
                "tokens": self.prefill.tokens,
                "cycles": self.prefill.cycles,
                "cycles_per_token": self.prefill.cycles_per_token,
                "tokens_per_second": round(self.prefill.tokens_per_second, 3),
                **self.prefill.choice.to_dict(),
                "method": self.prefill.method,
            },
            "energy": self.energy.to_dict() if self.energy else None,
            "dearest": [{**asdict(r), "share": round(r.share, 6)} for r in self.dearest],
            "curve": [asdict(point) for point in self.curve],
        }


def profile(
    program: Program,
    plan: Plan,
    target: TargetSpec,
    position: int,
    reading: Reading = Reading.SIMULATOR,
) -> Profile:
    """The profile at the token at `position`; ValueError outside 0 to context - 1."""
    step = decode_step(program, plan, target, position, reading)
    latency = latency_of(step, reading)
    readings = tuple(
        latency if each is reading else estimate(program, plan, target, position, each)
        for each in Reading
    )
    return Profile(
        latency=latency,
        readings=readings,
        prefill=prefill(step, position + 1),
        energy=token_energy(latency, target),
        dearest=dearest_roles(program, latency),
        curve=length_curve(step),
    )


def prefill(step: Step, tokens: int) -> Prefill:
    """The first `tokens` tokens of a context; `step` is one of them."""
    context = step.context
    choice = prompt_choice(context.program, context.target, context.plan)
    return Prefill(tokens, prefill_cycles(step, tokens), context.target.clock_hz, choice)


def length_curve(step: Step) -> tuple[CurvePoint, ...]:
    """Tokens from the first to the last of the context, evenly spread, both ends included."""
    last = step.context.program.shape.context - 1
    gaps = min(last, CURVE_POINTS - 1)
    points = []
    for position in [last * index // gaps for index in range(gaps + 1)] if gaps else [0]:
        at = step.at(position)
        points.append(CurvePoint(position + 1, at.total, bound_cycles(link_uses(at))))
    return tuple(points)


def dearest_roles(program: Program, latency: LatencyReport) -> tuple[RoleCost, ...]:
    """The roles that cost most, dearest first."""
    by_role: dict[str, list[OpLatency]] = {}
    for op, each in zip(program.ops, latency.ops, strict=True):
        by_role.setdefault(op.role, []).append(each)
    costs = [_role_cost(role, ops, latency) for role, ops in by_role.items()]
    return tuple(sorted(costs, key=lambda cost: -cost.cycles)[:DEAREST])


def _role_cost(role: str, ops: list[OpLatency], latency: LatencyReport) -> RoleCost:
    bounds: dict[str, int] = {}
    for op in ops:
        bounds[op.bound_by] = bounds.get(op.bound_by, 0) + op.total_cycles
    cycles = sum(op.total_cycles for op in ops)
    return RoleCost(
        role=role,
        kind=ops[0].kind,
        engine=" and ".join(dict.fromkeys(op.engine for op in ops)),
        count=len(ops),
        cycles=cycles,
        share=cycles / latency.cycles_per_token,
        bound_by=max(bounds, key=lambda bound: bounds[bound]),
        compute_cycles=sum(op.compute_cycles for op in ops),
        dma_cycles=sum(op.dma_cycles for op in ops),
        overhead_cycles=sum(op.overhead_cycles for op in ops),
        stream_wait=sum(op.stream_wait for op in ops),
        engine_cycles=sum(op.engine_cycles for op in ops),
    )


def _short(latency: LatencyReport) -> dict[str, object]:
    return {
        "cycles_per_token": latency.cycles_per_token,
        "tokens_per_second": round(latency.tokens_per_second, 3),
        "bound_cycles": latency.bound_cycles,
        "bound_share": round(latency.bound_share, 6),
    }
