"""Consecutive ops of a block that the generated code runs as one function.

A fused function computes what its ops compute, bit for bit, and leaves out tensors that nobody
reads afterwards. Its phases follow the order of its ops, with a barrier wherever one op ends and
the next one reads what other cores wrote, and a phase touches the buffers of its op alone: so the
plan's lifetimes, which count in ops, hold for it too.

Linears are fused when the engine computes them, all blocks alike, out of sums that stay where they
are until the chain ends. Everything else runs op by op, as does a build with EDGEC_FUSED=0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codegen.views import BlockView, EngineView, FusedJob, FusedLinear, FusedView, OpView

NORM_ROWS = "norm_rows"  # norm, and the linears that read it
ROWS_RESIDUAL = "rows_residual"  # a linear, and its sum with the residual stream
MLP = "mlp"  # norm, gate, up, SwiGLU, down, residual
ATTENTION = "attention"  # norm, q, k, v, rotation, cache, attention, merge, o, residual
MOST_JOBS = 8  # of a chain: with more, tables that travel beside the engine pay
MOST_ROWS = (1 << 16) - 1  # of edgec_row_run
MOST_RUNS = 9  # runs of rows of one linear: every core has a table of its own on the stack
ATTENTION_KINDS = (
    *("rmsnorm", "linear", "linear", "linear", "rope", "kv_append", "attention"),
    *("attention_merge", "linear", "residual_add"),
)
MLP_KINDS = ("rmsnorm", "linear", "linear", "swiglu", "linear", "residual_add")


def fuse(
    ops: Sequence[OpView], blocks: Sequence[BlockView], engine: EngineView | None
) -> tuple[tuple[FusedView | OpView, ...], bool]:
    """The ops of a block with fused ones in place of those that they replace.

    The second value tells whether a norm in front of all others wants the amplitude of the
    residual stream from the code before the blocks.
    """
    if engine is None:
        return tuple(ops), False
    finder = _Finder(ops, blocks, engine)
    items: list[FusedView | OpView] = []
    index = 0
    while index < len(ops):
        found = finder.at(index)
        items.append(found or ops[index])
        index += len(found.ops) if found else 1
    return _with_amplitudes(items)


def fused_jobs(fused: Sequence[FusedView], engine: EngineView | None) -> tuple[FusedJob, ...]:
    """The jobs of a block's fused ops in the order in which they are started."""
    jobs: list[FusedJob] = []
    for item in fused:
        for linear in item.linears:
            if engine and linear.first:
                chain = engine.chains[engine.linears[linear.entry].chain]
                numbers = range(chain.first_job, chain.first_job + chain.job_count)
                jobs += (FusedJob(number, linear.field) for number in numbers)
    return tuple(jobs)


def _with_amplitudes(
    items: Sequence[FusedView | OpView],
) -> tuple[tuple[FusedView | OpView, ...], bool]:
    """A norm takes the amplitude from the fused op that wrote the residual stream before it."""
    told = [isinstance(item, FusedView) and item.kind != NORM_ROWS for item in items]
    writes = [_writes_residual(item) for item in items]
    found: list[FusedView | OpView] = []
    known = told[::-1][writes[::-1].index(True)]  # of the block before
    first = False
    for index, item in enumerate(items):
        if isinstance(item, FusedView) and item.kind != ROWS_RESIDUAL:
            found.append(replace(item, measures=not known))
            first |= known and not any(writes[:index])
        else:
            found.append(item)
        known = told[index] if writes[index] else known
    return tuple(found), first


def _writes_residual(item: FusedView | OpView) -> bool:
    last = item.ops[-1] if isinstance(item, FusedView) else item
    return last.kind == "residual_add" and last.writes == ("s->resid",)


class _Finder:
    """Looks for runs of ops that have a fused function."""

    def __init__(
        self, ops: Sequence[OpView], blocks: Sequence[BlockView], engine: EngineView
    ) -> None:
        self._ops, self._engine = ops, engine
        self._entries: dict[str, int] = {}  # entry of ENGINE_LINEARS by field, of all blocks
        for column in zip(*(block.linears for block in blocks), strict=True):
            entries = {weight.engine for weight in column}
            entry = entries.pop()
            if not entries and entry >= 0 and self._stays(entry):
                self._entries[column[0].field] = entry

    def _stays(self, entry: int) -> bool:
        """Whether no sums of the chain make room for others before it ends."""
        linear = self._engine.linears[entry]
        jobs = self._engine.chains[linear.chain].job_count
        first = linear.first_piece
        pieces = self._engine.pieces[first : first + linear.piece_count]
        matrix = self._engine.matrices[linear.matrix]
        small = matrix.slots * linear.piece_count <= MOST_RUNS and matrix.rows <= MOST_ROWS
        few = jobs <= MOST_JOBS
        return small and few and all(piece.before == jobs for piece in pieces)

    def at(self, index: int) -> FusedView | None:
        """The longest fused function that begins with an op."""
        ops = self._ops[index:]
        kinds = tuple(op.kind for op in ops)
        if kinds[: len(ATTENTION_KINDS)] == ATTENTION_KINDS:
            found = self._attention(ops[: len(ATTENTION_KINDS)])
            if found:
                return found
        if any(op.stream for op in ops[1 : len(MLP_KINDS)]):
            return None
        if kinds[: len(MLP_KINDS)] == MLP_KINDS:
            return self._mlp(ops[: len(MLP_KINDS)])
        if kinds[:1] == ("rmsnorm",):
            count = next(i for i, op in enumerate(ops[1:]) if op.kind != "linear")
            return self._norm_rows(ops[: 1 + count])
        if kinds[:2] == ("linear", "residual_add"):
            return self._rows_residual(ops[:2])
        return None

    def _linears(self, ops: Sequence[OpView]) -> tuple[FusedLinear, ...] | None:
        """Views of linears that are a whole chain."""
        entries = [self._entries.get(op.function, -1) for op in ops]
        if not entries or min(entries) < 0:
            return None
        linears = [self._engine.linears[entry] for entry in entries]
        chain = linears[0].chain
        last = linears[-1]
        needed = [self._engine.pieces[x.first_piece + x.piece_count - 1].needed for x in linears]
        whole = linears[0].done == 0 and needed[-1] == self._engine.chains[chain].job_count
        if not whole or any(linear.chain != chain for linear in linears):
            return None
        halves = 2 if last.mode == "s16" else 1
        met = [0, *needed[:-1]]
        return tuple(
            FusedLinear(
                field=op.function,
                entry=entry,
                halves=halves,
                plain=int(matrix.groups == 1 and not matrix.tail),
                rows=matrix.rows,
                columns=matrix.columns,
                runs=matrix.slots * linear.piece_count,
                first=not linear.done,
                needed=need if need > before else 0,
                op=op,
            )
            for op, entry, linear, need, before in zip(
                ops, entries, linears, needed, met, strict=True
            )
            for matrix in (self._engine.matrices[linear.matrix],)
        )

    def _norm_rows(self, ops: Sequence[OpView]) -> FusedView | None:
        linears = self._linears(ops[1:])
        return self._view(NORM_ROWS, ops, linears) if linears else None

    def _rows_residual(self, ops: Sequence[OpView]) -> FusedView | None:
        linears = self._linears(ops[:1])
        ends = ops[1].writes == ("s->resid",) and ops[1].reads[1] == ops[0].writes[0]
        return self._view(ROWS_RESIDUAL, ops, linears) if linears and ends else None

    def _attention(self, ops: Sequence[OpView]) -> FusedView | None:
        heads, last = self._linears(ops[1:4]), self._linears(ops[8:9])
        if not heads or not last or any(op.stream for op in ops[1:]):
            return None
        return self._view(ATTENTION, ops, (*heads, *last))

    def _mlp(self, ops: Sequence[OpView]) -> FusedView | None:
        pair, down = self._linears(ops[1:3]), self._linears(ops[4:5])
        return self._view(MLP, ops, (*pair, *down)) if pair and down else None

    def _view(
        self, kind: str, ops: Sequence[OpView], linears: tuple[FusedLinear, ...]
    ) -> FusedView:
        return FusedView(
            title=f"{ops[0].title} to {ops[-1].title}",
            function="_".join(("fused", ops[0].function)),
            kind=kind,
            ops=tuple(ops),
            linears=linears,
            measures=False,
        )
