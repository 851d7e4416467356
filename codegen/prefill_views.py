"""Prompts in batches -> PrefillView: buffers of a token, order of ops within a batch."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.c_names import identifier, place_text
from codegen.engine_tables import EngineTables
from codegen.fused import fused_jobs
from codegen.views import (
    BatchLinear,
    BatchView,
    EngineView,
    FusedJob,
    FusedLinear,
    FusedView,
    GroupView,
    OpView,
    PrefillView,
    TokenBufferView,
    TokenStep,
)
from memory_planner.engine_chains import windows_of
from memory_planner.engine_jobs import (
    acc_geometry,
    stage_geometry,
    tokens_per_line,
    window_count,
    window_of,
)
from memory_planner.engine_plan import EngineLinear, chain_members
from memory_planner.footprint import MAX_CORES, PARTIAL_SIZE, PREFILL_PARTIALS
from memory_planner.plan import Plan
from memory_planner.token_groups import token_groups
from sim.engine import covered_inputs
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import Op, Program


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
    for group in () if how.chains else token_groups(program, plan):
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
        jobs=_batch(program, plan, items) if how.chains else None,
    )


def _batch(program: Program, plan: Plan, items: Sequence[FusedView | OpView]) -> BatchView:
    """Of a block that is nothing but fused ops; all blocks have the same entries."""
    assert plan.prefill is not None
    tables = EngineTables(program, plan, batch=True)
    singles = [one for item in items if isinstance(item, FusedView) for one in item.linears]
    linears, words = [], [dict[str, int]() for _ in range(program.shape.layers)]
    for single in singles:
        ops = [op for op in program.ops if identifier(op.role) == single.field]
        found = [tables.entry(op) for op in ops]
        (entry,) = {index for index, _ in found}
        for op, (_, first) in zip(ops, found, strict=True):
            words[op.layer][single.field] = first
        linears.append(_batch_linear(program, plan, ops[0], single, entry))
    engine = tables.view()
    assert engine is not None
    jobs = [job for chain in _chains(linears) for job in _chain_jobs(engine, chain)]
    place = plan.placements[PREFILL_PARTIALS]
    partials = place.offset - plan.region(place.region).arena_base
    angles = partials + plan.prefill.batch * MAX_CORES * PARTIAL_SIZE
    members = chain_members(plan.prefill.chains)
    (line,) = {
        tokens_per_line(batch_layout(program, members[op.id].linear), windows_of(op))
        for op in program.ops
        if op.id in members
    }
    covered = covered_inputs(plan)
    return BatchView(
        engine=engine,
        linears=tuple(linears),
        jobs=tuple(jobs),
        words=tuple(words),
        line=line,
        covered=tuple(tables.buffer(place) for place in covered),
        covered_sizes=tuple(place.size for place in covered),
        partials=partials,
        angles=angles,
        states=angles + plan.prefill.batch * 2 * program.shape.head_dim,
    )


def _chains(linears: Sequence[BatchLinear]) -> list[list[BatchLinear]]:
    """Linears that read one vector together."""
    chains: list[list[BatchLinear]] = []
    for each in linears:
        if each.of_step.first:
            chains.append([])
        chains[-1].append(each)
    return chains


def _chain_jobs(engine: EngineView, linears: Sequence[BatchLinear]) -> list[FusedJob]:
    """The jobs of a chain: one begins wherever a piece that has been met lets the engine go on."""
    own = [engine.linears[each.entry] for each in linears]
    pieces = [
        piece
        for one in own
        for piece in engine.pieces[one.first_piece : one.first_piece + one.piece_count]
    ]
    begins, given, waited = {0}, pieces[0].before, 0
    for piece in pieces:
        if piece.needed > waited:
            waited = piece.needed
            if piece.after > given:
                begins.add(given)
                given = piece.after
    chain = engine.chains[own[0].chain]
    return [
        FusedJob(chain.first_job + number, linears[0].of_step.field, int(number in begins))
        for number in range(chain.job_count)
    ]


def _batch_linear(
    program: Program, plan: Plan, op: Op, single: FusedLinear, entry: int
) -> BatchLinear:
    how, halves = plan.prefill, single.halves
    assert how is not None
    linear = chain_members(how.chains)[op.id].linear
    layout = batch_layout(program, linear)
    windows = window_count(layout, halves, how.batch)
    acc, stage = acc_geometry(layout, 1, windows), stage_geometry(layout, windows)
    stride = linear.pieces[0].pixel_stride
    sums = [origin // acc.pixel * stride for origin in acc.origins]
    firsts = [window_of(layout, halves, token) for token in range(how.batch)]
    line = tokens_per_line(layout, halves)
    return BatchLinear(
        of_step=single,
        entry=entry,
        runs=layout.shared * len(linear.pieces),
        image=_token_step([stage.origins[window] for window in firsts], line),
        sums=_token_step([sums[window] for window in firsts], line),
    )


def batch_layout(program: Program, linear: EngineLinear) -> EngineLayout:
    """Of the words that the jobs of several tokens read."""
    layout = program.tensors[linear.weight].layout
    assert isinstance(layout, EngineLayout)
    return layout


def _token_step(firsts: Sequence[int], line: int) -> TokenStep:
    """Of where each token's first window begins."""
    step = firsts[1] - firsts[0]
    skip = firsts[line] - firsts[0] - line * step if len(firsts) > line else 0
    for token, first in enumerate(firsts):
        assert first == firsts[0] + token * step + token // line * skip
    return TokenStep(step, skip)


def part_of_item(item: FusedView | OpView) -> str:
    """`OpView.part` of the ops of an item, which are of one part."""
    return item.ops[0].part if isinstance(item, FusedView) else item.part


def _count(item: FusedView | OpView) -> int:
    """Ops of an item."""
    return len(item.ops) if isinstance(item, FusedView) else 1
