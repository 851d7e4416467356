"""What tokens cost: both readings, a prompt, energy, and growth with the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_planner.target import Span
from sim.energy import EnergyReport
from sim.latency import LatencyReport
from sim.profile import CurvePoint, Profile
from toolchain.report.figure import CHART, CHART_HEIGHT, HEADROOM, LineChart, axis_ticks
from toolchain.report.scale import Axis, count, decimal, percent
from toolchain.report.source import PageSource


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """One token in a reading."""

    name: str
    cycles: str
    rate: str
    bound: str
    percent: str


@dataclass(frozen=True, slots=True)
class EnergyRow:
    """A contribution in microjoules."""

    name: str
    low: str
    nominal: str
    high: str
    basis: str


@dataclass(frozen=True, slots=True)
class EnergyView:
    """The table of energy and what it rests on."""

    rows: list[EnergyRow]
    total: EnergyRow
    power: str
    published: str
    assumed: tuple[str, ...]
    not_included: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Curve(LineChart):
    """Cycles of one token over the length of the cache."""

    bound: str  # points
    bound_y: str
    bound_text: str


@dataclass(frozen=True, slots=True)
class CostView:
    """The section about cost."""

    position: int
    readings: list[ReadingRow]
    prefill: str
    energy: EnergyView | None
    curve: Curve


def cost_view(source: PageSource) -> CostView | None:
    """None without an estimate."""
    profile = source.profile
    if profile is None:
        return None
    return CostView(
        position=profile.latency.position,
        readings=[_reading_row(each) for each in profile.readings],
        prefill=_prefill(profile),
        energy=_energy(profile.energy) if profile.energy else None,
        curve=cost_curve(profile.curve),
    )


def _reading_row(latency: LatencyReport) -> ReadingRow:
    return ReadingRow(
        name=latency.reading.value,
        cycles=count(latency.cycles_per_token),
        rate=f"{latency.tokens_per_second:,.1f}",
        bound=count(latency.bound_cycles),
        percent=percent(latency.bound_cycles, latency.cycles_per_token),
    )


def _prefill(profile: Profile) -> str:
    prefill = profile.prefill
    tokens = "1 token" if prefill.tokens == 1 else f"{count(prefill.tokens)} tokens"
    return (
        f"A prompt of {tokens}: {count(prefill.cycles)} cycles, "
        f"{prefill.tokens_per_second:,.1f} tokens/s, {prefill.method}."
    )


def _energy(report: EnergyReport) -> EnergyView:
    power = report.power
    return EnergyView(
        rows=[_energy_row(part.name, part.energy, part.basis) for part in report.parts],
        total=_energy_row("one token", report.total, ""),
        power=f"{power.nominal:,.0f} mW ({power.low:,.0f} to {power.high:,.0f})",
        published=f"{report.average:g} mW: {report.average_source}",
        assumed=report.assumed,
        not_included=report.not_included,
    )


def _energy_row(name: str, span: Span, basis: str) -> EnergyRow:
    low, nominal, high = (f"{value:,.4g}" for value in (span.low, span.nominal, span.high))
    return EnergyRow(name.replace("_", " "), low, nominal, high, basis)


def cost_curve(points: Sequence[CurvePoint]) -> Curve:
    """Cycles and bound of one token, from the first row of the cache to the last."""
    last = points[-1]
    x = CHART.x_axis(0, last.length)
    y = CHART.y_axis(0, HEADROOM * max(point.cycles for point in points))
    line = _points(x, y, [(point.length, point.cycles) for point in points])
    floor, ends = decimal(y.at(0)), [decimal(x.at(end.length)) for end in (points[0], last)]
    return Curve(
        frame=CHART.text(),
        height=decimal(CHART_HEIGHT),
        line=line,
        area=f"{ends[0]},{floor} {line} {ends[1]},{floor}",
        bound=_points(x, y, [(point.length, point.bound_cycles) for point in points]),
        end_x=decimal(x.at(last.length)),
        end_y=decimal(y.at(last.cycles)),
        end_text=f"{count(last.cycles)} cycles at {count(last.length)} positions",
        bound_y=decimal(y.at(points[0].bound_cycles)),
        bound_text=f"bandwidth bound, {count(last.bound_cycles)} at {count(last.length)}",
        x_ticks=axis_ticks(x, 8),
        y_ticks=axis_ticks(y, 7),
    )


def _points(x: Axis, y: Axis, values: Sequence[tuple[int, int]]) -> str:
    return " ".join(f"{decimal(x.at(place))},{decimal(y.at(value))}" for place, value in values)
