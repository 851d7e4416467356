"""`edgec simulate --profile` on a terminal: where the time and the energy of a token go."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from memory_planner.target import Span
from sim.energy import EnergyReport
from sim.latency import LatencyReport
from sim.profile import Profile
from toolchain.tables import bar, stdout

CURVE_ROWS = 9  # at most


def print_profile(profile: Profile) -> None:
    """Tables with bars; every figure is also in the JSON."""
    console, latency = stdout(), profile.latency
    console.print(
        f"{latency.target}, {latency.cores} cores, {latency.clock_hz / 1e6:g} MHz; one token at "
        f"context {latency.position + 1:,}; estimate, {latency.reading.value} reading"
    )
    console.print(_readings(profile))
    console.print(_lanes(latency))
    console.print(_dearest(profile))
    console.print(_links(latency))
    if profile.energy:
        console.print(_energy(profile.energy))
    console.print(_curve(profile))
    _print_closing(console, profile)


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(first, title=title)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _readings(profile: Profile) -> Table:
    table = _table("Token", "reading", "cycles", "tokens/s", "bound, cycles", "bound, %")
    for each in profile.readings:
        table.add_row(
            each.reading.value,
            f"{each.cycles_per_token:,}",
            f"{each.tokens_per_second:,.1f}",
            f"{each.bound_cycles:,}",
            f"{100 * each.bound_share:.1f}",
        )
    return table


def _lanes(latency: LatencyReport) -> Table:
    table = _table("Lanes (they overlap)", "lane", "busy cycles", "% of the token")
    table.add_column("")
    for lane, cycles in latency.lanes().items():
        share = f"{100 * cycles / latency.cycles_per_token:.1f}"
        table.add_row(lane, f"{cycles:,}", share, bar(cycles, latency.cycles_per_token))
    return table


def _dearest(profile: Profile) -> Table:
    table = _table("Most expensive ops, all blocks together", "op", "times", "cycles", "%")
    for name in ("", "bound by"):
        table.add_column(name)
    for cost in profile.dearest:
        table.add_row(
            cost.role,
            str(cost.count),
            f"{cost.cycles:,}",
            f"{100 * cost.share:.1f}",
            bar(cost.cycles, profile.dearest[0].cycles),
            cost.bound_by,
        )
    return table


def _links(latency: LatencyReport) -> Table:
    columns = ("weights", "KV cache", "tables", "B/cycle", "cycles at least")
    table = _table("Bytes that one token must read", "link", *columns)
    for link in latency.links:
        table.add_row(
            link.link,
            f"{link.weights:,}",
            f"{link.kv_cache:,}",
            f"{link.tables:,}",
            f"{link.bytes_per_cycle:g}",
            f"{link.cycles:,}",
        )
    return table


def _energy(energy: EnergyReport) -> Table:
    table = _table("Energy, uJ per token", "part", "low", "nominal", "high")
    table.add_column("")
    table.add_column("nominal is")
    total = energy.total
    for part in energy.parts:
        share = bar(round(1000 * part.energy.nominal), round(1000 * total.nominal))
        table.add_row(part.name, *_span(part.energy), share, part.basis)
    table.add_section()
    table.add_row("one token", *_span(total), "", "")
    return table


def _span(span: Span) -> tuple[str, str, str]:
    low, nominal, high = (f"{value:,.4g}" for value in (span.low, span.nominal, span.high))
    return low, nominal, high


def _curve(profile: Profile) -> Table:
    table = _table("Cost against context", "rows of KV cache", "cycles", "bound, cycles")
    table.add_column("")
    points = profile.curve
    step = -(-(len(points) - 1) // (CURVE_ROWS - 1)) or 1
    for point in (*points[:-1:step], points[-1]):
        cells = (f"{point.length:,}", f"{point.cycles:,}", f"{point.bound_cycles:,}")
        table.add_row(*cells, bar(point.cycles, points[-1].cycles))
    return table


def _print_closing(console: Console, profile: Profile) -> None:
    latency, prefill, energy = profile.latency, profile.prefill, profile.energy
    decode = f"{latency.cycles_per_token:,} cycles, {latency.tokens_per_second:,.1f} tokens/s"
    prompt = (
        f"{prefill.cycles:,} cycles, {prefill.tokens_per_second:,.1f} tokens/s ({prefill.method})"
    )
    lines = [
        f"decode at context {latency.position + 1:,}: {decode}",
        f"prefill of {prefill.tokens:,} tokens: {prompt}",
    ]
    if latency.engine_port_share is not None:
        share = f"{100 * latency.engine_port_share:.1f} %"
        lines.append(f"engine: {share} of its busy cycles read weights, all at its bandwidth bound")
    if energy:
        power = energy.power
        lines.append(
            f"average power: {power.nominal:,.0f} mW ({power.low:,.0f} to {power.high:,.0f}); "
            f"published: {energy.average:g} mW, {energy.average_source}"
        )
        lines += [f"energy: {text}" for text in energy.not_included]
        lines += [f"assumed: {text}" for text in energy.assumed]
    else:
        lines.append("energy: nobody has published figures of this target")
    lines += [f"not modelled: {text}" for text in latency.not_modelled]
    lines += [f"assumed: {text}" for text in latency.assumed]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
