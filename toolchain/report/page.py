"""report.html: one self-contained page about a program on a target, for screens and for paper.

Every figure on it is a value of the plan, the latency report or the other reports; this package
only places and sums them. The page loads nothing, works without its small script, and is the same
bytes for the same input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sim.timeline import Event
from toolchain.report.blocks import block_rows, dearest_ops, matrices, matrix_rows, snr_heat
from toolchain.report.growth import kv_growth
from toolchain.report.lanes import block_detail, overview
from toolchain.report.memory_map import arena_maps, blob_strips, buffer_rows
from toolchain.report.palette import COLOURS
from toolchain.report.regions import region_cards
from toolchain.report.scale import count, decimal, percent
from toolchain.report.source import PageSource


@dataclass(frozen=True, slots=True)
class Fact:
    """A number of the header with what it is."""

    value: str
    unit: str
    name: str


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


def render_report(source: PageSource, timeline: Sequence[Event]) -> str:
    """The page; `timeline` is that of the latency report's position."""
    found = matrices(source)
    values: dict[str, Any] = {
        "colours": COLOURS,
        "title": source.title,
        "origin": _origin(source),
        "facts": _facts(source),
        "regions": region_cards(source.plan, source.target),
        "maps": arena_maps(source.program, source.plan, source.target),
        "strips": blob_strips(source.program, source.plan),
        "buffers": buffer_rows(source.program, source.plan),
        "overview": overview(source.latency),
        "detail": block_detail(source.program, timeline),
        "dearest": dearest_ops(source.program, source.latency),
        "kinds": _kinds(source),
        "links": [
            LinkRow(link.link, count(link.size), count(link.cycles))
            for link in source.latency.links
        ],
        "latency": source.latency,
        "blocks": block_rows(source, found),
        "matrices": matrix_rows(found),
        "heat": snr_heat(source.program, found),
        "growth": kv_growth(source.program, source.plan),
    }
    return _environment().get_template("page.html.j2").render(values)


def _origin(source: PageSource) -> list[tuple[str, str]]:
    """Where the page comes from: name and value."""
    shape = source.program.shape
    layers = f"{shape.layers} blocks, hidden {shape.hidden}, FFN {shape.ffn}"
    heads = f"{shape.heads} heads of {shape.head_dim} on {shape.kv_heads} KV heads"
    target = f"{source.target.name}: {source.target.description}"
    read = source.model_hash or "none: no weights were read, this is a fit without a compile"
    return [
        ("shape", f"{layers}, {heads}, vocabulary {count(shape.vocab)}"),
        ("context", f"{count(shape.context)} positions"),
        ("bits", _bits(source)),
        ("target", f"{target}; {source.plan.cores} cores at {source.target.clock_hz / 1e6:g} MHz"),
        ("checkpoint", f"SHA-256 {read}" if source.model_hash else read),
        ("made by", f"edgec {source.version}"),
    ]


def _bits(source: PageSource) -> str:
    """Bits of the matrices: how many matrices of how many bits, widest first."""
    counts: dict[int, int] = {}
    for bits in source.bits.values():
        counts[bits] = counts.get(bits, 0) + 1
    return ", ".join(
        f"{bits} ({number} {'matrix' if number == 1 else 'matrices'})"
        for bits, number in sorted(counts.items(), reverse=True)
    )


def _facts(source: PageSource) -> list[Fact]:
    fit, latency = source.fit, source.latency
    estimate = fit["estimate"]
    fullest = max(source.plan.regions, key=lambda region: region.used / region.capacity)
    return [
        Fact(count(fit["parameters"]["kept"]), "parameters", "model"),
        Fact(count(fit["bytes"]["packed"]), "bytes", "packed weights and scales"),
        Fact(
            percent(fullest.used, fullest.capacity), "%", f"of {fullest.name}, the fullest region"
        ),
        Fact(count(fit["kv_cache_bytes_per_position"]), "bytes", "KV cache per position"),
        Fact(
            count(estimate["cycles_per_token"]),
            "cycles",
            f"per token at position {latency.position} (estimate)",
        ),
        Fact(f"{estimate['tokens_per_second']:,}", "tokens/s", "at the target's clock (estimate)"),
        Fact(
            f"{estimate['bound_tokens_per_second']:,}",
            "tokens/s",
            "bandwidth bound, were all work free",
        ),
        Fact(
            count(sum(region.arena_size - region.peak for region in source.plan.regions)),
            "bytes",
            "of arenas above their lower bounds",
        ),
    ]


def _kinds(source: PageSource) -> list[KindRow]:
    cycles = source.latency.cycles_by_kind()
    longest = max(cycles.values())
    return [
        KindRow(
            kind,
            count(spent),
            percent(spent, source.latency.cycles_per_token),
            decimal(100 * spent / longest),
        )
        for kind, spent in cycles.items()
    ]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("templates", "report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
    )
