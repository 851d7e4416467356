"""plan_memory: where every byte of a program lives on a target, and how its weights move.

Read-only tensors go to blobs, state and activations to arenas (blobs.py, arenas.py), weights and
cache rows that the cores cannot use in place travel through tiles (tiling.py). The result is
checked by validate.py, which shares no code with the allocator; a plan that exceeds a region
raises PlanDoesNotFitError with the facts; what would help is up to those who know the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from memory_planner.allocate import Allocation, Buffer
from memory_planner.arenas import Arenas, Contents, plan_arenas
from memory_planner.blobs import Blob, place_blobs, place_states
from memory_planner.engine_job_plan import plan_engine
from memory_planner.engines import Assignment, EngineWish, assign_engines
from memory_planner.explain import PlanDoesNotFitError, shortfalls
from memory_planner.limits import check_pins
from memory_planner.liveness import folded_roles
from memory_planner.off_chip import has_room_outside, place_outside
from memory_planner.plan import Placement, Plan, RegionPlan
from memory_planner.prefill import with_batches
from memory_planner.rows import report_rows
from memory_planner.stream_plan import streams_of
from memory_planner.target import OffChip, TargetSpec, align_up
from memory_planner.tiling import max_transfer, plan_attention, plan_linears
from memory_planner.validate import validate_plan
from toolchain.model.errors import ConfigError, DoesNotFitError, InternalError, Problem
from toolchain.model.program import Kind, OpKind, Program


def plan_memory(program: Program, target: TargetSpec, draft: Plan | None = None) -> Plan:
    """The plan of `program` on `target`; the same input gives the same plan.

    `draft` is its `draft_plan`, where that is known already.
    Raises DoesNotFitError when a region is too small, with the region, capacity, need, excess,
    the fullest op and its live buffers; ConfigError when a pin of the target cannot be honoured.
    """
    check_pins(program, target)
    return complete_plan(program, target, draft or draft_plan(program, target))


def complete_plan(program: Program, target: TargetSpec, draft: Plan) -> Plan:
    """The draft of a program with its transfers, validated; raises DoesNotFitError."""
    plan = _moving(program, target, draft)
    roomy = with_batches(program, target, plan)
    if roomy.prefill:
        plan = with_transfers(program, target, roomy)
    problems = validate_plan(program, target, plan)
    if problems:
        raise InternalError("the memory plan is wrong: a defect of edgec, report it", problems)
    return plan


def is_plannable(program: Program, target: TargetSpec) -> bool:
    """Whether `plan_memory` gives a plan, found without batches and the check of the result."""
    try:
        check_pins(program, target)
        _moving(program, target, draft_plan(program, target))
    except (ConfigError, DoesNotFitError):
        return False
    return True


def _moving(program: Program, target: TargetSpec, draft: Plan) -> Plan:
    """The draft of a program with its transfers; raises DoesNotFitError."""
    _check_transfers(program, target)
    lacking = shortfalls(draft, program, target)
    if lacking:
        raise PlanDoesNotFitError(target.name, lacking)
    return with_transfers(program, target, draft)


def with_transfers(program: Program, target: TargetSpec, plan: Plan) -> Plan:
    """The plan with the transfers of its linears and the jobs of the engine."""
    plan = replace(plan, linears=plan_linears(program, target, plan))
    return replace(plan, engine=plan_engine(program, target, plan))


def choose_engines(program: Program, target: TargetSpec, wish: EngineWish) -> Assignment:
    """Where each linear runs, see `assign_engines`; the program to plan is in the result.

    Raises ConfigError for pins, or an engine, that the target does not have.
    """
    check_pins(program, target)
    return assign_engines(program, target, wish, lambda p: draft_plan(p, target))


def draft_plan(program: Program, target: TargetSpec) -> Plan:
    """What the program needs on the target, whether or not there is so much.

    A plan without transfers, in which a region may exceed its capacity.
    """
    draft = _draft_on_chip(program, target)
    if draft is not None:
        return _near_cache(program, target, draft) or draft
    assert target.off_chip is not None
    return _streamed_draft(program, target, target.off_chip)


def has_room(program: Program, target: TargetSpec) -> bool:
    """Whether no region of `draft_plan` has too much, in a part of its time."""
    draft = _draft_on_chip(program, target)
    if draft is None:
        return has_room_outside(program, target)
    return all(region.free >= 0 for region in draft.regions)


def _draft_on_chip(program: Program, target: TargetSpec) -> Plan | None:
    """The draft without off-chip memory; None when that is too little and there is some."""
    if target.off_chip is not None and _exceeds_the_chip(program, target):
        return None
    for aside in (False, True):
        draft = _on_chip(program, target, aside=aside)
        if _is_enough(draft, target):
            return draft
    return None if target.off_chip else draft


def _exceeds_the_chip(program: Program, target: TargetSpec) -> bool:
    """Whether the weights alone are more than the regions on the chip that may hold them."""
    rooms = [target.region(name) for name in target.placement["weights"]]
    sizes = (spec.size for spec in program.tensors.values() if spec.kind is Kind.WEIGHT)
    return sum(sizes) > sum(room.size - room.reserved for room in rooms)


def _streamed_draft(program: Program, target: TargetSpec, off_chip: OffChip) -> Plan:
    outside = place_outside(program, target)
    draft = _draft(program, target, outside.blobs, outside.arenas)
    if not outside.blobs[off_chip.region].offsets:
        return draft
    return replace(draft, streams=streams_of(program, target, outside))


def _on_chip(program: Program, target: TargetSpec, *, aside: bool) -> Plan:
    """The draft without off-chip memory; `aside`: constants leave room for the rest."""
    blobs = place_blobs(program, target, aside=aside)
    contents = Contents(program, target)
    arenas = plan_arenas(contents, blobs, place_states(program, target, blobs))
    return _draft(program, target, blobs, arenas)


def _near_cache(program: Program, target: TargetSpec, draft: Plan) -> Plan | None:
    """The draft with the KV cache among the tiles, where a target wants that and has the room."""
    tiling = target.tiling
    states = [spec for spec in program.tensors.values() if spec.kind is Kind.STATE]
    if tiling is None or not tiling.near_cache or any(target.pinned(s.name) for s in states):
        return None
    align = target.region(tiling.region).align
    if sum(align_up(spec.size, align) for spec in states) > draft.region(tiling.region).free:
        return None
    near = {
        region.name: states if region.name == tiling.region else [] for region in target.regions
    }
    for aside in (False, True):
        blobs = place_blobs(program, target, aside=aside)
        arenas = plan_arenas(Contents(program, target), blobs, near)
        found = _draft(program, target, blobs, arenas)
        if _is_enough(found, target):
            return found
    if _is_enough(draft, target):  # whatever fits without a near cache fits with one
        return None
    return found if found.region(tiling.region).free >= 0 else None


def _is_enough(draft: Plan, target: TargetSpec) -> bool:
    """Whether nothing lies off chip, by a pin, and no region has too much."""
    outside = target.off_chip.region if target.off_chip else None
    return all(
        region.free >= 0 and not (region.name == outside and region.blob_size)
        for region in draft.regions
    )


def _draft(program: Program, target: TargetSpec, blobs: Mapping[str, Blob], arenas: Arenas) -> Plan:
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


def _check_transfers(program: Program, target: TargetSpec) -> None:
    """Refuses matrices and cache rows of which not even one fits a DMA transfer."""
    if target.tiling is None:
        return
    limit = max_transfer(target)
    problems = []
    for op in program.ops:
        size = 0
        if op.kind is OpKind.LINEAR and not program.engine_layout_of(op):
            size = program.layout_of(op).record_size
        elif op.kind is OpKind.ATTENTION:
            size = program.shape.kv_heads * program.shape.head_dim
        if size > limit:
            found = f"{size} bytes per record"
            problems.append(Problem(op.id, found, f"{limit} bytes in one DMA transfer"))
    if problems:
        fix = "use matrices with fewer columns or weights of fewer bits"
        raise DoesNotFitError(f"records of weights cannot be moved on {target.name}", problems, fix)
