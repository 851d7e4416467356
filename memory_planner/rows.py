"""The memory report: bytes of each region by category; the rows of a region sum to its `used`.

Buffers of an arena share bytes at different times. They are counted as they are at the region's
fullest step (the earliest one); what the arena holds beyond that, by alignment and by gaps, is
padding. Tied tensors are one tensor and counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory_planner.allocate import Buffer, peak_time
from memory_planner.blobs import Blob
from memory_planner.footprint import (
    ENGINE_PREFIX,
    PARTIALS,
    PREFILL_PREFIX,
    SCRATCH_PREFIX,
    STREAM_BUFFER,
    TILE_PREFIX,
)
from memory_planner.plan import Placement, RegionPlan, Row
from memory_planner.target import TargetSpec
from toolchain.model.program import Kind, Program

CATEGORIES = (
    "weights",
    "scales",
    "constants",
    "kv_cache",
    "activations",
    "prefill",
    "scratch",
    "dma_buffers",
    "partials",
    "stacks",
    "code",
    "reserved",
    "headers",
    "padding",
)
ARENA_CATEGORIES = (
    "kv_cache",
    "activations",
    "prefill",
    "scratch",
    "dma_buffers",
    "partials",
)


def category(program: Program, name: str) -> str:
    """The report's category of an arena buffer."""
    if name.startswith((SCRATCH_PREFIX, ENGINE_PREFIX)):
        return "scratch"
    if name.startswith(TILE_PREFIX) or name == STREAM_BUFFER:
        return "dma_buffers"
    if name.startswith(PREFILL_PREFIX):
        return "prefill"
    if name == PARTIALS:
        return "partials"
    return "kv_cache" if program.tensors[name].kind is Kind.STATE else "activations"


def report_rows(
    program: Program,
    target: TargetSpec,
    regions: Sequence[RegionPlan],
    placements: Mapping[str, Placement],
    blobs: Mapping[str, Blob],
) -> tuple[Row, ...]:
    """Rows of all regions, in the order of `CATEGORIES`, without those of no bytes."""
    rows = []
    for region in regions:
        sizes = dict.fromkeys(CATEGORIES, 0)
        for part in target.region(region.name).reservations:
            sizes[part.category] += part.size
        _add_blob(program, blobs[region.name], sizes)
        _add_arena(program, region, target.region(region.name).align, placements, sizes)
        sizes["padding"] = region.used - sum(sizes.values())
        rows += [Row(region.name, name, size) for name, size in sizes.items() if size]
    return tuple(rows)


def with_arena_rows(
    program: Program,
    target: TargetSpec,
    region: RegionPlan,
    placements: Mapping[str, Placement],
    rows: Sequence[Row],
) -> tuple[Row, ...]:
    """The rows of a plan, with those of one region's arena counted again."""
    own = {row.category: row.size for row in rows if row.region == region.name}
    sizes = {name: own.get(name, 0) for name in CATEGORIES}
    sizes |= dict.fromkeys((*ARENA_CATEGORIES, "padding"), 0)
    _add_arena(program, region, target.region(region.name).align, placements, sizes)
    sizes["padding"] = region.used - sum(sizes.values())
    counted = [Row(region.name, name, size) for name, size in sizes.items() if size]
    regions = [each.name for each in target.regions]
    others = [row for row in rows if row.region != region.name]
    return tuple(sorted([*others, *counted], key=lambda row: regions.index(row.region)))


def _add_blob(program: Program, blob: Blob, sizes: dict[str, int]) -> None:
    sizes["headers"] += blob.header
    for name in blob.offsets:
        spec = program.tensors[name]
        scales = spec.scale_size
        sizes["scales"] += scales
        sizes["weights" if spec.kind is Kind.WEIGHT else "constants"] += spec.size - scales


def _add_arena(
    program: Program,
    region: RegionPlan,
    align: int,
    placements: Mapping[str, Placement],
    sizes: dict[str, int],
) -> None:
    buffers = [
        Buffer(place.name, place.size, place.first, place.last)
        for place in placements.values()
        if place.region == region.name and place.offset >= region.arena_base
    ]
    peak = peak_time(buffers, align)
    for buffer in buffers:
        if buffer.first <= peak < buffer.last:
            sizes[category(program, buffer.name)] += buffer.size
