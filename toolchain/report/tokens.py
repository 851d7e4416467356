"""One token in time: figures and tables about the cycles of a decode step."""

from __future__ import annotations

from dataclasses import dataclass

from sim.latency import LatencyReport
from sim.profile import Profile, RoleCost
from toolchain.report.lanes import Detail, LaneFigure, block_detail, overview
from toolchain.report.scale import TIMES, count, decimal, percent
from toolchain.report.source import PageSource


@dataclass(frozen=True, slots=True)
class OpRow:
    """The ops of a role, in all blocks together, with what bounds them."""

    name: str
    kind: str
    times: str
    cycles: str
    percent: str
    bar: str  # width of the bar, percent of the longest
    cores: str  # work, barriers included
    overhead: str  # of that: barriers and cold code
    dma: str
    engine: str
    bound_by: str


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
    weights: str
    kv_cache: str
    tables: str
    cycles: str


@dataclass(frozen=True, slots=True)
class LaneRow:
    """How long a lane is busy during the token."""

    name: str
    cycles: str
    percent: str
    bar: str


@dataclass(frozen=True, slots=True)
class TokenView:
    """The section about time."""

    position: int
    reading: str
    cycles: str
    prefill_cycles: str
    overview: LaneFigure
    detail: Detail | None
    dearest: list[OpRow]
    kinds: list[KindRow]
    links: list[LinkRow]
    lanes: list[LaneRow]
    bound: str
    bound_percent: str
    port_percent: str  # of the engine's busy cycles; empty without an engine
    not_modelled: tuple[str, ...]
    assumed: tuple[str, ...]


def token_view(source: PageSource) -> TokenView | None:
    """None without an estimate."""
    profile = source.profile
    if profile is None:
        return None
    latency, port = profile.latency, profile.latency.engine_port_share
    return TokenView(
        position=latency.position,
        reading=latency.reading.value,
        cycles=count(latency.cycles_per_token),
        prefill_cycles=count(profile.prefill.cycles_per_token),
        overview=overview(latency, source.timeline),
        detail=block_detail(source.program, source.timeline),
        dearest=_dearest(profile),
        kinds=_kinds(latency),
        links=_links(latency),
        lanes=_lanes(latency),
        bound=count(latency.bound_cycles),
        bound_percent=percent(latency.bound_cycles, latency.cycles_per_token),
        port_percent="" if port is None else percent(port, 1),
        not_modelled=latency.not_modelled,
        assumed=latency.assumed,
    )


def _dearest(profile: Profile) -> list[OpRow]:
    longest = profile.dearest[0].cycles
    return [_op_row(cost, longest) for cost in profile.dearest]


def _op_row(cost: RoleCost, longest: int) -> OpRow:
    return OpRow(
        name=cost.role,
        kind=cost.kind,
        times=f"{cost.count} {TIMES}",
        cycles=count(cost.cycles),
        percent=percent(cost.share, 1),
        bar=decimal(100 * cost.cycles / longest),
        cores=count(cost.compute_cycles),
        overhead=count(cost.overhead_cycles),
        dma=count(cost.dma_cycles),
        engine=count(cost.engine_cycles),
        bound_by=cost.bound_by.replace("_", " "),
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


def _links(latency: LatencyReport) -> list[LinkRow]:
    return [
        LinkRow(
            link.link.replace("_", " "),
            count(link.weights),
            count(link.kv_cache),
            count(link.tables),
            count(link.cycles),
        )
        for link in latency.links
    ]


def _lanes(latency: LatencyReport) -> list[LaneRow]:
    total = latency.cycles_per_token
    return [
        LaneRow(
            lane.replace("_", " "),
            count(cycles),
            percent(cycles, total),
            decimal(min(100.0, 100 * cycles / total)),
        )
        for lane, cycles in latency.lanes().items()
    ]
