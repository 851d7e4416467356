"""Fused ops of the plan (memory_planner/fused_ops.py) -> views of their functions.

A build with EDGEC_FUSED=0 runs op by op.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from codegen.views import (
    BlockView,
    EngineView,
    FusedJob,
    FusedLinear,
    FusedView,
    OpView,
    WeightView,
)
from memory_planner.fused_ops import FusedKind, FusedOp, FusedPart


def fuse(
    fused: Sequence[FusedOp],
    ops: Sequence[OpView],
    blocks: Sequence[BlockView],
    engine: EngineView | None,
) -> tuple[FusedView | OpView, ...]:
    """The ops of a block with fused ones in place of those that they replace."""
    items: list[FusedView | OpView] = []
    place = 0
    for item in fused:
        assert engine is not None
        items += ops[place : item.first]
        linears = tuple(_linears(item, ops, blocks, engine))
        items.append(_view(item, ops[item.first : item.last], linears))
        place = item.last
    return (*items, *ops[place:])


def fuse_head(
    head: FusedOp | None, ops: Sequence[OpView], weight: WeightView, engine: EngineView | None
) -> FusedView | None:
    """The ops behind the blocks as one; None where they are not. weight: of the head."""
    if head is None:
        return None
    assert engine is not None
    (part,) = head.linears
    return _view(head, ops, (_entry(part, ops[part.place], weight.engine, engine),))


def _view(item: FusedOp, own: Sequence[OpView], linears: tuple[FusedLinear, ...]) -> FusedView:
    return FusedView(
        title=f"{own[0].title} to {own[-1].title}",
        function="_".join(("fused", own[0].function)),
        kind=item.kind.value,
        ops=tuple(own),
        linears=linears,
        measures=item.measures,
    )


def fused_jobs(fused: Sequence[FusedView], engine: EngineView | None) -> tuple[FusedJob, ...]:
    """The jobs of a block's fused ops in the order in which they are started."""
    if engine is None:
        return ()
    jobs: list[FusedJob] = []
    for linear in (linear for item in fused for linear in item.linears):
        if linear.first:
            chain = engine.chains[engine.linears[linear.entry].chain]
            field, number = linear.field, chain.first_job
        jobs += (FusedJob(number + i, field, int(i == 0)) for i in range(linear.begins))
        number += linear.begins
    return tuple(jobs)


def head_jobs(head: FusedView | None, engine: EngineView | None) -> tuple[FusedJob, ...]:
    """The jobs behind the blocks: one begins wherever a piece lets the engine go further."""
    if head is None or engine is None:
        return ()
    (linear,) = head.linears
    own = engine.linears[linear.entry]
    pieces = engine.pieces[own.first_piece : own.first_piece + own.piece_count]
    begins, given = {0}, pieces[0].before
    for limit in (limit for piece in pieces for limit in (piece.before, piece.after)):
        if limit > given:
            begins.add(given)
            given = limit
    chain = engine.chains[own.chain]
    return tuple(
        FusedJob(chain.first_job + number, linear.field, int(number in begins))
        for number in range(chain.job_count)
    )


# What becomes of the rows of each linear, and where their amplitude is left. That of a vector is
# free then, and stands for none.
_STAY, _ADD = ("STAY", "VECTOR"), ("ADD", "RESIDUAL")
_USES = {
    FusedKind.MLP: (("GATE", "GATE"), ("STAY", "UP"), _ADD),
    FusedKind.ATTENTION: (_STAY, _STAY, _STAY, _ADD),
    FusedKind.ROWS_RESIDUAL: (_ADD,),
}


def _linears(
    item: FusedOp, ops: Sequence[OpView], blocks: Sequence[BlockView], engine: EngineView
) -> Iterator[FusedLinear]:
    """Linears that are the same entries of ENGINE_LINEARS in all blocks."""
    uses = _USES.get(item.kind, (_STAY,) * len(item.linears))
    starts = [number for number, part in enumerate(item.linears) if part.begins]
    ends = dict(pairwise((*starts, len(item.linears))))
    for number, (part, use) in enumerate(zip(item.linears, uses, strict=True)):
        op = ops[part.place]
        weights = (weight for block in blocks for weight in block.linears)
        (entry,) = {weight.engine for weight in weights if weight.field == op.function}
        called = ends.get(number, number) - number
        yield replace(_entry(part, op, entry, engine, use), called=called)


def _entry(
    part: FusedPart, op: OpView, entry: int, engine: EngineView, uses: tuple[str, str] = _STAY
) -> FusedLinear:
    """A linear that is this entry of ENGINE_LINEARS."""
    use, amplitude = uses
    linear = engine.linears[entry]
    matrix = engine.matrices[linear.matrix]
    plain = matrix.groups == 1 and not matrix.tail
    return FusedLinear(
        field=op.function,
        entry=entry,
        halves=2 if linear.mode == "s16" else 1,
        plain=int(plain),
        grouped=int(matrix.groups > 1),
        tailed=int(matrix.tail > 0),
        rows=matrix.rows,
        columns=matrix.columns,
        runs=(matrix.slots + part.by_piece) * linear.piece_count,
        apart=int(part.by_piece),
        first=part.first,
        begins=part.begins,
        called=1,
        waited=0 if part.by_piece else part.waited,
        use=use,
        amplitude=amplitude,
        op=op,
    )
