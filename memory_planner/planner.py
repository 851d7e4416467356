"""plan_memory: where every byte of a program lives on a target, and how its weights move.

Read-only tensors go to blobs, state and activations to arenas (blobs.py, arenas.py), weights and
cache rows that the cores cannot use in place travel through tiles (tiling.py). The result is
checked by validate.py, which shares no code with the allocator; a plan that exceeds a region
raises PlanDoesNotFitError with the facts; what would help is up to those who know the model.
"""

from __future__ import annotations

from dataclasses import replace

from memory_planner.draft import (
    Draft,
    draft_on_chip,
    draft_plan_of,
    is_enough,
    with_near_data,
)
from memory_planner.engine_job_plan import plan_engine
from memory_planner.engines import Assignment, EngineWish, assign_engines
from memory_planner.explain import PlanDoesNotFitError, shortfalls
from memory_planner.limits import check_pins
from memory_planner.off_chip import has_room_outside, place_outside
from memory_planner.plan import Plan
from memory_planner.prefill import Batched, with_batches
from memory_planner.prompts import check_batch, check_wish, with_copies_that_pay
from memory_planner.stream_plan import streams_of
from memory_planner.target import OffChip, TargetSpec
from memory_planner.tiling import max_transfer, plan_linears
from memory_planner.validate import validate_plan
from toolchain.model.errors import ConfigError, DoesNotFitError, InternalError, Problem
from toolchain.model.program import Kind, OpKind, Program


def plan_memory(
    program: Program,
    target: TargetSpec,
    draft: Plan | None = None,
    batch: int | None = None,
    found: Batched | None = None,
) -> Plan:
    """The plan of `program` on `target`; the same input gives the same plan.

    `draft` is its `draft_plan`, where that is known already; `batch`: tokens of a prompt that go
    together, None for what pays; `found`: its plan with batches, of `choose_engines`.
    Raises DoesNotFitError when a region is too small, with the region, capacity, need, excess,
    the fullest op and its live buffers; ConfigError when a pin of the target cannot be honoured.
    """
    check_pins(program, target)
    return complete_plan(program, target, draft or draft_plan(program, target), batch, found)


def complete_plan(
    program: Program,
    target: TargetSpec,
    draft: Plan,
    batch: int | None = None,
    found: Batched | None = None,
) -> Plan:
    """The draft of a program with its transfers, validated; raises DoesNotFitError.

    ConfigError when a batch that is asked for is not possible.
    """
    found = found or with_batches(program, target, _moving(program, target, draft), batch)
    check_wish(batch, found)
    plan = with_transfers(program, target, found.plan) if found.plan.prefill else found.plan
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

    With second copies of words where prompts gain by them. Raises ConfigError for pins, or an
    engine, that the target does not have, and for a batch that is none.
    """
    check_pins(program, target)
    check_batch(wish.batch, program.shape.context)
    found = assign_engines(program, target, wish, lambda p: draft_plan(p, target))
    if found.draft is None or not found.layouts:
        return found

    def drafter(copied: Program) -> Plan | None:
        draft = _draft_on_chip(copied, target)
        return with_near_data(copied, target, draft).plan if draft else None

    def mover(program: Program, draft: Plan) -> Plan:
        return _moving(program, target, draft)

    planning = drafter, mover
    best = with_copies_that_pay(found.program, target, found.draft, wish.batch, planning)
    if best is None:
        return found
    copied = best.program is not found.program
    return replace(
        found,
        program=best.program,
        draft=best.draft,
        batched=best.batched,
        prompt_words=copied,
    )


def draft_plan(program: Program, target: TargetSpec) -> Plan:
    """What the program needs on the target, whether or not there is so much.

    A plan without transfers, in which a region may exceed its capacity.
    """
    draft = _draft_on_chip(program, target)
    if draft is not None:
        return with_near_data(program, target, draft).plan
    assert target.off_chip is not None
    return _streamed_draft(program, target, target.off_chip)


def has_room(program: Program, target: TargetSpec) -> bool:
    """Whether no region of `draft_plan` has too much, in a part of its time."""
    draft = _draft_on_chip(program, target)
    if draft is None:
        return has_room_outside(program, target)
    return all(region.free >= 0 for region in draft.plan.regions)


def _draft_on_chip(program: Program, target: TargetSpec) -> Draft | None:
    """The draft without off-chip memory; None when that is too little and there is some."""
    if target.off_chip is not None and _exceeds_the_chip(program, target):
        return None
    for aside in (False, True):
        draft = draft_on_chip(program, target, aside=aside)
        if is_enough(draft.plan, target):
            return draft
    return None if target.off_chip else draft


def _exceeds_the_chip(program: Program, target: TargetSpec) -> bool:
    """Whether the weights alone are more than the regions on the chip that may hold them."""
    rooms = [target.region(name) for name in target.placement["weights"]]
    sizes = (spec.size for spec in program.tensors.values() if spec.kind is Kind.WEIGHT)
    return sum(sizes) > sum(room.size - room.reserved for room in rooms)


def _streamed_draft(program: Program, target: TargetSpec, off_chip: OffChip) -> Plan:
    outside = place_outside(program, target)
    draft = draft_plan_of(program, target, outside.blobs, outside.arenas)
    if not outside.blobs[off_chip.region].offsets:
        return draft
    return replace(draft, streams=streams_of(program, target, outside))


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
