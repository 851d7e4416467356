"""Prompts in batches -> PrefillView: buffers of a token, order of ops within a batch."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.c_names import identifier, place_text
from codegen.fused import fused_jobs
from codegen.views import (
    EngineView,
    FusedView,
    GroupView,
    OpView,
    PrefillView,
    TokenBufferView,
)
from memory_planner.plan import Plan
from memory_planner.prefill import token_groups
from toolchain.model.program import Program


def prefill_view(
    program: Program,
    plan: Plan,
    items: Sequence[FusedView | OpView],
    engine: EngineView | None,
) -> PrefillView | None:
    """None where prompts run token by token; `items` are those of a block in order."""
    how = plan.prefill
    if how is None:
        return None
    place = plan.placements[how.buffer]
    waiting, job, groups = list(items), 0, []
    for group in token_groups(program, plan):
        own: list[FusedView | OpView] = []
        while sum(_count(item) for item in own) < len(group.roles):
            own.append(waiting.pop(0))
        first = own[0].ops[0] if isinstance(own[0], FusedView) else own[0]
        fused = [item for item in own if isinstance(item, FusedView)]
        jobs = len(fused_jobs(fused, engine))
        parts = {part_of_item(item) for item in own}
        part = parts.pop() if len(parts) == 1 else ""
        groups.append(
            GroupView(tuple(own), group.batched, first.stream, bool(fused), job, jobs, part)
        )
        job += jobs
    buffers = tuple(
        TokenBufferView(identifier(name), offset) for name, offset in how.offsets.items()
    )
    return PrefillView(
        batch=how.batch,
        comment=f"{how.buffer} {place.size} bytes at {place_text(place)}",
        arena=identifier(place.region).upper(),
        offset=place.offset - plan.region(place.region).arena_base,
        stride=how.stride,
        buffers=buffers,
        groups=tuple(groups),
    )


def part_of_item(item: FusedView | OpView) -> str:
    """`OpView.part` of the ops of an item, which are of one part."""
    return item.ops[0].part if isinstance(item, FusedView) else item.part


def _count(item: FusedView | OpView) -> int:
    """Ops of an item."""
    return len(item.ops) if isinstance(item, FusedView) else 1
