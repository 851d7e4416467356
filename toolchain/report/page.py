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

from toolchain.fit.misfit import remedy_groups
from toolchain.model.silent_parts import silent_in
from toolchain.report.blocks import Matrix, block_rows, matrices, matrix_rows, snr_heat
from toolchain.report.cost import cost_view
from toolchain.report.growth import kv_growth
from toolchain.report.memory_map import arena_maps, blob_strips, buffer_rows, map_categories
from toolchain.report.palette import COLOURS
from toolchain.report.regions import region_cards
from toolchain.report.scale import count, percent
from toolchain.report.source import PageSource
from toolchain.report.tokens import token_view


@dataclass(frozen=True, slots=True)
class Fact:
    """A number of the header with what it is."""

    value: str
    unit: str
    name: str


def render_report(source: PageSource) -> str:
    """The page as HTML text."""
    program, plan, found = source.program, source.plan, matrices(source)
    maps, strips = arena_maps(program, plan, source.target), blob_strips(program, plan)
    values: dict[str, Any] = {
        "title": source.title,
        "target": source.target.name,
        "colours": COLOURS,
        "origin": _origin(source, found),
        "facts": _facts(source),
        "problems": source.fit.get("problems", []),
        "fixes": remedy_groups(source.fit.get("remedies", [])),
        "off_chip": _off_chip(source),
        "estimates": source.fit.get("estimates", []),
        "regions": region_cards(plan, source.target),
        "maps": maps,
        "strips": strips,
        "map_categories": map_categories(maps, strips),
        "buffers": buffer_rows(program, plan),
        "timeline": token_view(source),
        "cost": cost_view(source),
        "traced": source.model_hash is not None,  # a bundle's page lies beside its trace
        "blocks": block_rows(source, found),
        "matrices": matrix_rows(found),
        "heat": snr_heat(program, found),
        "kv_formula": source.fit.get("kv_cache", {}).get("formula", ""),
        "growth": kv_growth(program, plan),
    }
    return _environment().get_template("page.html.j2").render(values)


def _origin(source: PageSource, found: Sequence[Matrix]) -> list[tuple[str, str]]:
    """Where the page comes from: name and value."""
    shape, target = source.program.shape, source.target
    blocks = f"{shape.layers} blocks, hidden {shape.hidden}, FFN {shape.ffn}"
    kv_heads = "1 KV head" if shape.kv_heads == 1 else f"{shape.kv_heads} KV heads"
    heads = f"{shape.heads} heads of {shape.head_dim} on {kv_heads}"
    silent = sorted(silent_in(source.program))
    left_out = [("left out, adding 0", ", ".join(silent))] if silent else []
    checkpoint = f"SHA-256 {source.model_hash}"
    if source.model_hash is None:
        checkpoint = "not read: this page follows from config.json alone"
    return [
        ("shape", f"{blocks}, {heads}, vocabulary {count(shape.vocab)}"),
        *left_out,
        ("context", f"{count(shape.context)} positions"),
        ("bits", _bits(found)),
        (
            "target",
            f"{target.description}; {source.plan.cores} cores, {target.clock_hz / 1e6:g} MHz",
        ),
        ("checkpoint", checkpoint),
        ("made by", f"edgec {source.version}"),
    ]


def _bits(found: Sequence[Matrix]) -> str:
    """How many matrices have how many bits, widest first."""
    counts: dict[int, int] = {}
    for matrix in found:
        if matrix.bits is not None:
            counts[matrix.bits] = counts.get(matrix.bits, 0) + 1
    return ", ".join(
        f"{bits} ({number} {'matrix' if number == 1 else 'matrices'})"
        for bits, number in sorted(counts.items(), reverse=True)
    )


def _facts(source: PageSource) -> list[Fact]:
    fit, plan = source.fit, source.plan
    estimate = fit["estimate"]
    fullest = max(plan.regions, key=lambda region: region.used / max(1, region.capacity))
    share = percent(fullest.used, fullest.capacity)
    gap = sum(region.arena_size - region.peak for region in plan.regions)
    token = f"per token at position {estimate['position']} (estimate)"
    bound = f"{estimate['bound_tokens_per_second']:,}"
    return [
        Fact(count(fit["parameters"]["kept"]), "parameters", "model"),
        Fact(count(fit["bytes"]["packed"]), "bytes", "packed weights and scales"),
        Fact(share, "%", f"of {fullest.name}, the fullest region"),
        Fact(count(gap), "bytes", "of arenas above their lower bounds"),
        Fact(count(estimate["cycles_per_token"]), "cycles", token),
        Fact(f"{estimate['tokens_per_second']:,}", "tokens/s", "at the target's clock (estimate)"),
        Fact(bound, "tokens/s", "bandwidth bound, were all work free"),
        Fact(count(source.program.shape.context), "positions", "of context"),
    ]


def _off_chip(source: PageSource) -> str:
    """What streams from outside the chip for every token; empty when nothing does."""
    facts = source.fit.get("off_chip", {})
    if not facts.get("bytes"):
        return ""
    rate = f"an {facts['status']} {facts['bytes_per_second'] / 1e6:g} MB/s"
    waits = f"Blocks wait {facts['exposed_ms_per_token']:,.1f} ms for theirs."
    if facts["missing"]:
        waits = f"{count(facts['missing'])} of them have no place: this is no plan."
    return (
        f"Of the weights, {count(facts['bytes'])} bytes per token come from outside the chip and "
        f"take {facts['ms_per_token']:,.1f} ms at {rate}. {waits}"
    )


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
