"""Drafts: places for all tensors, without transfers, whether or not they fit.

A target may want what the cores read often where its tiles lie, as far as there is room: first the
KV cache as a whole, then constants that a token reads as a whole. A draft that fits never becomes
one that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memory_planner.allocate import Allocation, Buffer
from memory_planner.arenas import Arenas, Contents, allocate_all, plan_arenas
from memory_planner.blobs import Blob, place_blobs, place_states
from memory_planner.liveness import folded_roles
from memory_planner.plan import Placement, Plan, RegionPlan
from memory_planner.rows import report_rows
from memory_planner.target import TargetSpec, align_up
from memory_planner.tiling import idle_tables, plan_attention
from toolchain.model.program import Kind, Program


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan without transfers, and what it is made of."""

    arenas: Arenas
    plan: Plan
    aside: bool  # constants leave room for the rest


def draft_on_chip(program: Program, target: TargetSpec, *, aside: bool) -> Draft:
    """The draft without off-chip memory; `aside`: constants leave room for the rest."""
    blobs = place_blobs(program, target, aside=aside)
    contents = Contents(program, target)
    arenas = plan_arenas(contents, blobs, place_states(program, target, blobs))
    return Draft(arenas, draft_plan_of(program, target, blobs, arenas), aside)


def is_enough(plan: Plan, target: TargetSpec) -> bool:
    """Whether nothing lies off chip, by a pin, and no region has too much."""
    outside = target.off_chip.region if target.off_chip else None
    return all(
        region.free >= 0 and not (region.name == outside and region.blob_size)
        for region in plan.regions
    )


def with_near_data(program: Program, target: TargetSpec, draft: Draft) -> Draft:
    """The draft with cache and constants among the tiles, as far as the target wants that."""
    cached = _near_cache(program, target, draft) or draft
    return _near_constants(program, target, cached) or cached


def _near_cache(program: Program, target: TargetSpec, draft: Draft) -> Draft | None:
    """The draft with the KV cache among the tiles, where a target wants that and has the room."""
    tiling = target.tiling
    states = [spec for spec in program.tensors.values() if spec.kind is Kind.STATE]
    if tiling is None or not tiling.near_cache or any(target.pinned(s.name) for s in states):
        return None
    align = target.region(tiling.region).align
    room = draft.plan.region(tiling.region).free
    if sum(align_up(spec.size, align) for spec in states) > room:
        return None
    near = {
        region.name: states if region.name == tiling.region else [] for region in target.regions
    }
    for aside in (False, True):
        blobs = place_blobs(program, target, aside=aside)
        arenas = plan_arenas(Contents(program, target), blobs, near)
        found = Draft(arenas, draft_plan_of(program, target, blobs, arenas), aside)
        if is_enough(found.plan, target):
            return found
    if is_enough(draft.plan, target):  # whatever fits without a near cache fits with one
        return None
    return found if found.plan.region(tiling.region).free >= 0 else None


def _near_constants(program: Program, target: TargetSpec, draft: Draft) -> Draft | None:
    """The draft with constants in what it leaves of the tiles' region; None if nothing changes.

    Linears of the cores need that room rather for prompts in batches.
    """
    tiling = target.tiling
    engine = any(program.engine_layout_of(op) for op in program.ops)
    if tiling is None or not tiling.near_constants or not engine:
        return None
    if draft.plan.region(tiling.region).free < 0:
        return None
    name, arenas = tiling.region, draft.arenas
    taken = align_up(arenas.allocations[name].height, target.region(name).align)
    blobs = place_blobs(program, target, aside=draft.aside, beside={name: taken})
    idle = idle_tables(program, target, blobs[name].offsets)
    held = {
        region: [buffer for buffer in buffers if buffer.name not in idle]
        for region, buffers in arenas.buffers.items()
    }
    arenas = allocate_all(target, held, arenas.tiles, blobs)
    found = Draft(arenas, draft_plan_of(program, target, blobs, arenas), draft.aside)
    kept = is_enough(found.plan, target) or not is_enough(draft.plan, target)
    return found if kept and found.plan.region(name).free >= 0 else None


def draft_plan_of(
    program: Program, target: TargetSpec, blobs: Mapping[str, Blob], arenas: Arenas
) -> Plan:
    """The plan that blobs and arenas make, without transfers."""
    roles = folded_roles(program)
    regions = tuple(
        _region_plan(target, name, blob, arenas.allocations[name]) for name, blob in blobs.items()
    )
    placements = _placements(program, blobs, arenas, regions, len(roles))
    return Plan(
        target=target.name,
        cores=target.cores,
        roles=roles,
        placements=placements,
        linears={},
        attention=plan_attention(program, target, arenas.tiles),
        regions=regions,
        rows=report_rows(program, target, regions, placements, blobs),
        blob_headers={name: blob.header for name, blob in blobs.items() if blob.offsets},
    )


def _region_plan(target: TargetSpec, name: str, blob: Blob, arena: Allocation) -> RegionPlan:
    region = target.region(name)
    return RegionPlan(
        name=name,
        capacity=region.size,
        reserved=region.reserved,
        blob_base=blob.base,
        blob_size=blob.size,
        arena_base=blob.base + blob.size,
        arena_size=align_up(arena.height, region.align),
        peak=arena.bound,
        proven=arena.proven,
    )


def _placements(
    program: Program,
    blobs: Mapping[str, Blob],
    arenas: Arenas,
    regions: tuple[RegionPlan, ...],
    end: int,
) -> dict[str, Placement]:
    """All placements: blobs first, then arenas, each by region and offset."""
    placements = {}
    for blob in blobs.values():
        for name, offset in blob.offsets.items():
            size = program.tensors[name].size
            placements[name] = Placement(name, blob.region, offset, size, 0, end)
    for region in regions:
        offsets = arenas.allocations[region.name].offsets

        def position(buffer: Buffer, offsets: Mapping[str, int] = offsets) -> tuple[int, int, str]:
            return offsets[buffer.name], buffer.first, buffer.name

        for buffer in sorted(arenas.buffers[region.name], key=position):
            offset = region.arena_base + offsets[buffer.name]
            placements[buffer.name] = Placement(
                buffer.name, region.name, offset, buffer.size, buffer.first, buffer.last
            )
    return placements
