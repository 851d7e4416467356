"""One token in time: figures and tables about the cycles of a decode step."""

from __future__ import annotations

from dataclasses import dataclass

from sim.latency import LatencyReport
from toolchain.report.blocks import OpRow, dearest_ops
from toolchain.report.lanes import Detail, LaneFigure, block_detail, overview
from toolchain.report.scale import count, decimal, percent
from toolchain.report.source import PageSource


@dataclass(frozen=True, slots=True)
class KindRow:
    """Cycles of all ops of a kind."""

    kind: str
    cycles: str
    percent: str
    bar: str


@dataclass(frozen=True, slots=True)
class LinkRow:
    """Bytes of one token over a link."""

    name: str
    size: str
    cycles: str


@dataclass(frozen=True, slots=True)
class TokenView:
    """The section about time."""

    position: int
    cycles: str
    prefill_cycles: str
    overview: LaneFigure
    detail: Detail | None
    dearest: list[OpRow]
    kinds: list[KindRow]
    links: list[LinkRow]
    not_modelled: tuple[str, ...]
    assumed: tuple[str, ...]


def token_view(source: PageSource) -> TokenView | None:
    """None without an estimate."""
    latency = source.latency
    if latency is None:
        return None
    return TokenView(
        position=latency.position,
        cycles=count(latency.cycles_per_token),
        prefill_cycles=count(latency.prefill_cycles_per_token),
        overview=overview(latency, source.timeline),
        detail=block_detail(source.program, source.timeline),
        dearest=dearest_ops(source.program, latency),
        kinds=_kinds(latency),
        links=[LinkRow(link.link, count(link.size), count(link.cycles)) for link in latency.links],
        not_modelled=latency.not_modelled,
        assumed=latency.assumed,
    )


def _kinds(latency: LatencyReport) -> list[KindRow]:
    cycles = latency.cycles_by_kind()
    longest = max(cycles.values())
    return [
        KindRow(
            kind,
            count(spent),
            percent(spent, latency.cycles_per_token),
            decimal(100 * spent / longest),
        )
        for kind, spent in cycles.items()
    ]
