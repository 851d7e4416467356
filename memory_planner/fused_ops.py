"""Consecutive ops that run as one function, if the build does not forbid it.

A fused function computes what its ops compute, bit for bit, and leaves out tensors that nobody
reads afterwards. Its phases follow the order of its ops, with a barrier wherever one op ends and
the next one reads what other cores wrote, and a phase touches the buffers of its op alone: so the
plan's lifetimes, which count in ops, hold for it too.

Linears are fused when the engine computes them, all blocks alike, out of sums that stay where they
are until the chain ends. Everything else runs op by op. What is fused follows from program and
plan alone, so that the generated code and the cycle model agree.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from memory_planner.engine_plan import ChainMember, EngineLinear, PiecePlan, chain_members
from memory_planner.plan import Plan
from memory_planner.stream_slots import stream_points
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import Op, OpKind, Program
from toolchain.model.silent_parts import silent_in, whole_block

MOST_JOBS = 8  # of a chain and group: with more, tables that travel beside the engine pay
MOST_ROWS = (1 << 16) - 1  # of edgec_row_run, and words up to its last sums
MOST_RUNS = 9  # runs of rows of one linear: every core has a table of its own on the stack
RESIDUAL = "resid"
ATTENTION_KINDS = (
    *(OpKind.RMSNORM, OpKind.LINEAR, OpKind.LINEAR, OpKind.LINEAR, OpKind.ROPE),
    *(OpKind.KV_APPEND, OpKind.ATTENTION, OpKind.ATTENTION_MERGE, OpKind.LINEAR),
    OpKind.RESIDUAL_ADD,
)
HEAD_KINDS = (OpKind.RMSNORM, OpKind.LINEAR, OpKind.ARGMAX)
MLP_KINDS = (
    *(OpKind.RMSNORM, OpKind.LINEAR, OpKind.LINEAR, OpKind.SWIGLU, OpKind.LINEAR),
    OpKind.RESIDUAL_ADD,
)


class FusedKind(StrEnum):
    """What a fused function consists of."""

    NORM_ROWS = "norm_rows"  # norm, and the linears that read it
    ROWS_RESIDUAL = "rows_residual"  # a linear, and its sum with the residual stream
    MLP = "mlp"  # norm, gate, up, SwiGLU, down, residual
    ATTENTION = "attention"  # norm, q, k, v, rotation, cache, attention, merge, o, residual
    HEAD = "head"  # norm, head, argmax: behind the blocks


@dataclass(frozen=True, slots=True)
class FusedPart:
    """A linear on the engine inside a fused op."""

    place: int  # in the block, or behind the blocks
    first: bool  # of its chain
    # Jobs of the chain that may begin when the rows of all linears before it are finished.
    begins: int
    # Jobs to wait for, beyond those that have been: at once, or in front of each piece's rows.
    waits: tuple[int, ...]

    @property
    def waited(self) -> int:
        """Jobs in all."""
        return sum(self.waits)

    @property
    def by_piece(self) -> bool:
        """Whether rows are finished piece by piece, beside the engine."""
        return len(self.waits) > 1


@dataclass(frozen=True, slots=True)
class FusedOp:
    """The ops `first` .. `last` - 1 of every block, or of those behind the blocks."""

    kind: FusedKind
    first: int
    last: int
    linears: tuple[FusedPart, ...]
    measures: bool = False  # the norm has to look for the amplitude of the residual stream itself


@dataclass(frozen=True, slots=True)
class FusedBlock:
    """The fused ops of a block in order, and the one behind the blocks."""

    ops: tuple[FusedOp, ...] = ()
    measures: bool = False  # the code in front of the blocks leaves the first norm an amplitude
    ahead: bool = False  # the engine has no other jobs in between: they are prepared ahead
    head: FusedOp | None = None


def fused_block(program: Program, plan: Plan) -> FusedBlock:
    """What every block of the program runs as one; nothing without an engine."""
    columns = _columns(program) if plan.engine else []
    if not columns:
        return FusedBlock()
    finder = _Finder(program, plan, columns)
    found: list[FusedOp] = []
    place = 0
    while place < len(columns):
        fused = finder.at(place)
        if fused:
            found.append(fused)
        place = fused.last if fused else place + 1
    block = [ops[0] for ops in columns]
    alike = not silent_in(program)
    writers = [place for place, op in enumerate(block) if RESIDUAL in op.outputs]
    tells = _tells(writers, found, alike=alike)
    ops, measures = _with_amplitudes(writers, tells, found, alike=alike)
    fused_places = {part.place for op in ops for part in op.linears}
    ahead = all(
        place in fused_places or not program.engine_layout_of(op)
        for place, ops in enumerate(columns)
        for op in ops
    )
    head = _head(program, plan, told=writers[-1] in tells) if ops else None
    return FusedBlock(ops, measures, ahead, head)


def _head(program: Program, plan: Plan, *, told: bool) -> FusedOp | None:
    """Norm, head and argmax, when the engine computes the head and nothing else follows the blocks.

    Sums may make room for others, as a single linear's do: rows are finished piece by piece.
    `told`: the blocks leave the amplitude of the residual stream.
    """
    last = max(i for i, op in enumerate(program.ops) if op.layer >= 0)
    ops = program.ops[last + 1 :]
    points = stream_points(program, plan.streams)
    if tuple(op.kind for op in ops) != HEAD_KINDS or any(op.id in points for op in ops[1:]):
        return None
    layout, member = (
        program.engine_layout_of(ops[1]),
        chain_members(plan.engine.chains if plan.engine else ()).get(ops[1].id),
    )
    if layout is None or member is None or layout.rows > MOST_ROWS or layout.shared > MOST_RUNS:
        return None
    part = FusedPart(1, True, member.linear.pieces[0].before, _waits(member.linear.pieces, 0))
    return FusedOp(FusedKind.HEAD, 0, len(ops), (part,), measures=not told)


def _columns(program: Program) -> list[Sequence[Op]]:
    """The ops of all blocks by place in a whole one; none where blocks are not alike."""
    by_role: dict[str, list[Op]] = {op.role: [] for op in whole_block(program)}
    for op in program.ops:
        if op.layer >= 0:
            by_role[op.role].append(op)
    alike = all(len({(op.kind, op.mode) for op in ops}) == 1 for ops in by_role.values())
    return list(by_role.values()) if alike else []


def _tells(writers: Sequence[int], fused: Sequence[FusedOp], *, alike: bool) -> Set[int]:
    """Writers of the residual stream that leave its amplitude.

    Of blocks that lack parts any writer may be the one before.
    """
    tells = {item.last - 1 for item in fused if item.kind is not FusedKind.NORM_ROWS}
    return tells if alike or tells.issuperset(writers) else set()


def _with_amplitudes(
    writers: Sequence[int], tells: Set[int], fused: Sequence[FusedOp], *, alike: bool
) -> tuple[tuple[FusedOp, ...], bool]:
    """A norm takes the amplitude from the fused op that wrote the residual stream before it.

    Of blocks that lack parts any norm may be the first.
    """
    found: list[FusedOp] = []
    first = False
    for item in fused:
        if item.kind is FusedKind.ROWS_RESIDUAL:
            found.append(item)
            continue
        before = [place for place in writers if place < item.first]
        known = (before or writers)[-1] in tells  # the last one of the block before
        found.append(replace(item, measures=not known))
        first |= known and not (alike and before)
    return tuple(found), first


class _Finder:
    """Looks for runs of ops that have a fused function."""

    def __init__(self, program: Program, plan: Plan, columns: Sequence[Sequence[Op]]) -> None:
        points = stream_points(program, plan.streams)
        self._ops = [ops[0] for ops in columns]
        self._waits = [op.id in points for op in self._ops]
        self._members = chain_members(plan.engine.chains if plan.engine else ())
        self._layouts = [program.engine_layout_of(op) for op in self._ops]
        self._engine = [
            _stays(program, self._members.get(ops[0].id), ops[0])
            and len({_signature(program, plan, self._members.get(op.id), op) for op in ops}) == 1
            for ops in columns
        ]

    def at(self, place: int) -> FusedOp | None:
        """The longest fused function that begins with an op."""
        kinds = tuple(op.kind for op in self._ops[place:])
        if self._begins(kinds, ATTENTION_KINDS) and self._free(place, len(ATTENTION_KINDS)):
            found = self._view(FusedKind.ATTENTION, place, ATTENTION_KINDS, ((1, 4), (8, 9)))
            if found:
                return found
        if not self._free(place, len(MLP_KINDS)):
            return None
        if self._begins(kinds, MLP_KINDS):
            return self._view(FusedKind.MLP, place, MLP_KINDS, ((1, 3), (4, 5)))
        if kinds[0] is OpKind.RMSNORM:
            end = next(i for i, kind in enumerate(kinds) if i and kind is not OpKind.LINEAR)
            return self._view(FusedKind.NORM_ROWS, place, kinds[:end], ((1, end),))
        if kinds[:2] == (OpKind.LINEAR, OpKind.RESIDUAL_ADD) and self._ends(place):
            return self._view(FusedKind.ROWS_RESIDUAL, place, kinds[:2], ((0, 1),))
        return None

    @staticmethod
    def _begins(kinds: Sequence[OpKind], wanted: Sequence[OpKind]) -> bool:
        return tuple(kinds[: len(wanted)]) == tuple(wanted)

    def _free(self, place: int, count: int) -> bool:
        """Whether none but the first of some ops waits for weights from off the chip."""
        return not any(self._waits[place + 1 : place + count])

    def _ends(self, place: int) -> bool:
        """Whether a linear is all that is added to the residual stream."""
        linear, residual = self._ops[place : place + 2]
        return residual.outputs == (RESIDUAL,) and residual.inputs[1] == linear.outputs[0]

    def _view(
        self,
        kind: FusedKind,
        place: int,
        kinds: Sequence[OpKind],
        chains: Sequence[tuple[int, int]],
    ) -> FusedOp | None:
        """A fused op whose linears, by chain [first, last), are all on the engine."""
        parts: list[FusedPart] = []
        for first, last in chains:
            by_piece = kind in (FusedKind.ATTENTION, FusedKind.MLP)
            own = self._chain(range(place + first, place + last), by_piece=by_piece)
            if not own:
                return None
            parts += own
        return FusedOp(kind, place, place + len(kinds), tuple(parts))

    def _chain(self, places: range, *, by_piece: bool) -> list[FusedPart]:
        """Linears that are a whole chain; none when they are not."""
        if not places or not all(self._engine[place] for place in places):
            return []
        members = [self._members[self._ops[place].id] for place in places]
        chain, last = members[0].chain, members[-1].linear.pieces[-1]
        if any(each.chain is not chain for each in members):
            return []
        if members[0].done or last.needed != len(chain.jobs):
            return []
        parts, met, begun = [], 0, 0
        for place, each in zip(places, members, strict=True):
            layout = self._layouts[place]
            plain = layout is not None and layout.groups == 1 and not layout.tail
            pieces = each.linear.pieces if by_piece and plain else each.linear.pieces[-1:]
            part = FusedPart(place, not each.done, pieces[0].before - begun, _waits(pieces, met))
            parts.append(part)
            met += part.waited
            begun += part.begins
        return parts


def _waits(pieces: Sequence[PiecePlan], met: int) -> tuple[int, ...]:
    """Jobs to wait for in front of each piece, of a chain of which `met` have been waited for."""
    waits: list[int] = []
    for piece in pieces:
        waits.append(max(0, piece.needed - met))
        met += waits[-1]
    return tuple(waits)


def _stays(program: Program, member: ChainMember | None, op: Op) -> bool:
    """Whether no sums of a linear make room for others of its own."""
    layout = program.engine_layout_of(op)
    if member is None or layout is None:
        return False
    return fits_function(member.linear, layout, len(member.chain.jobs))


def fits_function(linear: EngineLinear, layout: EngineLayout, jobs: int) -> bool:
    """Whether a linear of a chain of `jobs` jobs can be part of a fused op: all its sums have
    places of their own, and the tables of its rows are small.
    """
    pieces = linear.pieces
    small = layout.shared * len(pieces) <= MOST_RUNS and layout.rows <= MOST_ROWS
    few = jobs <= MOST_JOBS * layout.groups
    pixels = 20 if layout.shared > 1 else 4  # up to the last one with sums of the linear
    near = all(
        (piece.accumulators + pixels * piece.pixel_stride) // 4 <= MOST_ROWS for piece in pieces
    )
    return (
        small
        and few
        and near
        and all(each.before == each.after == pieces[0].before for each in pieces)
    )


def _signature(
    program: Program, plan: Plan, member: ChainMember | None, op: Op
) -> tuple[object, ...] | None:
    """Equal for linears that run the same jobs, out of other words."""
    layout: EngineLayout | None = program.engine_layout_of(op)
    if member is None or layout is None:
        return None
    chain, how = member.chain, plan.linears[op.id]
    base = chain.jobs[0].registers[0]
    jobs = tuple((job.registers[0] - base, *job.registers[1:]) for job in chain.jobs)
    places = [plan.placements[name] for name in (chain.input_buffer, chain.accumulator_buffer)]
    tiles = how.records_per_tile if how.tile_buffer else 0
    return (
        layout,
        op.mode,
        member.linear.pieces,
        member.done,
        jobs,
        chain.group_stride,
        *((place.region, place.offset) for place in places),
        tiles,
        how.slot_size,
    )
