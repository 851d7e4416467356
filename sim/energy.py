"""Energy of one token: power while something is busy, and energy of every byte that moves.

The cores are awake during the whole token, an engine while it computes; a byte costs what its link
costs. Every constant is the target's (`[energy]`), with the limits within which it is plausible,
so that a result has three values: all constants low, nominal, and high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory_planner.target import CORES, ENGINE, Energy, Span, Status, TargetSpec
from sim.latency import LatencyReport

NOT_INCLUDED = (
    "loads and stores of the cores are part of their power, whatever memory they reach",
    "idle power and leakage of what is not named; cores that wait at a barrier count as busy",
    "wake-up and retention of the memories, the off-chip memory's own standby",
)


@dataclass(frozen=True, slots=True)
class EnergyPart:
    """One contribution, in microjoules."""

    name: str
    energy: Span
    basis: str  # the product that it is


@dataclass(frozen=True, slots=True)
class EnergyReport:
    """Energy of one token."""

    parts: tuple[EnergyPart, ...]
    seconds: float
    average: float  # mW, published
    average_source: str
    assumed: tuple[str, ...]
    not_included: tuple[str, ...] = NOT_INCLUDED

    @property
    def total(self) -> Span:
        """Microjoules of all parts; their limits add up."""
        return Span(
            sum(part.energy.low for part in self.parts),
            sum(part.energy.nominal for part in self.parts),
            sum(part.energy.high for part in self.parts),
        )

    @property
    def power(self) -> Span:
        """Average mW over the token."""
        return _times(self.total, 1e-3 / self.seconds)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON values; every figure is an estimate."""
        return {
            "estimate": True,
            "unit": "uJ per token",
            "total": _rounded(self.total),
            "parts": [
                {"name": part.name, **_rounded(part.energy), "basis": part.basis}
                for part in self.parts
            ],
            "average_mw": _rounded(self.power),
            "published_average_mw": self.average,
            "published_average_source": self.average_source,
            "assumed": list(self.assumed),
            "not_included": list(self.not_included),
        }


def token_energy(latency: LatencyReport, target: TargetSpec) -> EnergyReport | None:
    """The energy of the token that `latency` is about; None when the target has no figures."""
    if target.energy is None:
        return None
    average = target.constants.get("energy.average")
    return EnergyReport(
        parts=tuple(_parts(latency, target.energy)),
        seconds=latency.cycles_per_token / latency.clock_hz,
        average=target.energy.average,
        average_source=average.source if average else "",
        assumed=tuple(
            f"{path} = {constant.value} {constant.unit}"
            + (f" ({constant.span[0]} to {constant.span[1]})" if constant.span else "")
            + f": {constant.source}"
            for path, constant in target.constants.items()
            if path.startswith("energy.") and constant.status is Status.ASSUMED
        ),
    )


def _parts(latency: LatencyReport, energy: Energy) -> Iterator[EnergyPart]:
    busy = {CORES: latency.cycles_per_token, ENGINE: latency.lanes().get(ENGINE, 0)}
    for lane, power in energy.power.items():
        if busy[lane]:
            basis = f"{power.nominal:g} mW for {busy[lane]:,} cycles"
            yield EnergyPart(lane, _times(power, 1e3 * busy[lane] / latency.clock_hz), basis)
    for link in latency.links:
        if link.size:
            cost = energy.per_byte[link.link]
            basis = f"{cost.nominal:g} pJ for each of {link.size:,} bytes"
            yield EnergyPart(link.link, _times(cost, 1e-6 * link.size), basis)


def _times(span: Span, factor: float) -> Span:
    return Span(span.low * factor, span.nominal * factor, span.high * factor)


def _rounded(span: Span) -> dict[str, float]:
    """Four digits: more would pretend to know."""
    values = {"low": span.low, "nominal": span.nominal, "high": span.high}
    return {name: float(f"{value:.4g}") for name, value in values.items()}
