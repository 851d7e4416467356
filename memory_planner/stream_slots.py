"""How large the slots of the off-chip streams must be, and where a block is cut into streams.

A whole block in one stream hides best. Where two slots of that size have no room, the block is
cut in front of some of its linears, in as few streams as have room; the cuts are those with the
smallest largest stream. A slot also holds one record of an embedding and of a head at least.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from memory_planner.footprint import BLOB_HEADER_SIZE
from memory_planner.plan import StreamPlan
from memory_planner.target import TargetSpec, align_up
from memory_planner.tile_sizes import TileSize, tile_sizes
from memory_planner.tile_time import CoreWork, LinearTiles, linear_tiles
from toolchain.model.names import HEAD
from toolchain.model.program import Kind, Op, OpKind, Program
from toolchain.model.silent_parts import silent_in


@dataclass(frozen=True, slots=True)
class Demand:
    """One way to stream: the roles in front of which a block is cut, and bytes of a slot."""

    cuts: tuple[str, ...]
    slot: int  # before alignment


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight that an op reads; `size` as it lies in the off-chip blob, `record` of one record."""

    name: str
    role: str
    layer: int  # -1 outside the blocks
    size: int
    record: int


def records_of(program: Program, op: Op) -> tuple[int, int]:
    """Number and bytes of the records of the matrix of `op`.

    Those of an engine's words are its channels. Words are off chip in drafts only: a linear whose
    words are goes back to the cores (engines.py).
    """
    words = program.engine_layout_of(op)
    if words:
        return words.groups * words.channels, words.channel_size
    layout = program.layout_of(op)
    return layout.records, layout.record_size


def weights_read(program: Program, target: TargetSpec) -> tuple[Weight, ...]:
    """The weights that ops read, in execution order."""
    assert target.off_chip is not None
    align = target.region(target.off_chip.region).align
    found = []
    for op in program.ops:
        for spec in (program.tensors[name] for name in op.inputs):
            if spec.kind is Kind.WEIGHT:
                size, record = align_up(spec.size, align), records_of(program, op)[1]
                found.append(Weight(spec.name, op.role, op.layer, size, record))
    return tuple(found)


@dataclass(frozen=True)
class OffChipWeights:
    """What the weights of `names` need when they are off chip; `read` are all of the program."""

    program: Program
    target: TargetSpec
    names: frozenset[str]
    read: tuple[Weight, ...]

    @cached_property
    def _inside_blocks(self) -> tuple[Weight, ...]:
        return tuple(w for w in self.read if w.layer >= 0 and w.name in self.names)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Roles of blocks with weights off chip, in the order of a block."""
        outside = {weight.role for weight in self._inside_blocks}
        roles = dict.fromkeys(weight.role for weight in self.read if weight.layer >= 0)
        ordered = sorted(roles, key=lambda role: role.startswith("mlp."))  # block 0 may lack attn
        return tuple(role for role in ordered if role in outside)

    @cached_property
    def _blocks(self) -> frozenset[tuple[int, ...]]:
        """Bytes by role; blocks that stream alike are one."""
        places = {role: index for index, role in enumerate(self.roles)}
        blocks: dict[int, list[int]] = {}
        for weight in self._inside_blocks:
            sizes = blocks.setdefault(weight.layer, [0] * len(places))
            sizes[places[weight.role]] = weight.size
        return frozenset(tuple(sizes) for sizes in blocks.values())

    @cached_property
    def _forced(self) -> int:
        """The role in front of which every block is cut; 0: none is.

        Where some blocks lack a part, streams begin with each part.
        """
        if not silent_in(self.program):
            return 0
        rooms = [role.partition(".")[0] for role in self.roles]
        return next((i for i, room in enumerate(rooms) if room != rooms[0]), 0)

    @cached_property
    def _sums(self) -> tuple[tuple[int, ...], ...]:
        """Bytes in front of each role, of each way in which a block streams."""
        return tuple(tuple(accumulate(sizes, initial=0)) for sizes in self._blocks)

    @cached_property
    def _known(self) -> dict[tuple[int, int], int]:
        """What `_largest` has found."""
        return {}

    @cached_property
    def least(self) -> int:
        """Bytes of the records of embedding and head, and of what the check of a blob needs."""
        if not self.names:
            return 0
        outside = (w.record for w in self.read if w.layer < 0 and w.name in self.names)
        return max([BLOB_HEADER_SIZE, *outside])

    @cached_property
    def smallest(self) -> int:
        """Bytes of a slot with as many cuts as possible."""
        return max([self.least, *(size for sizes in self._blocks for size in sizes)])

    def demands(self) -> Iterator[Demand]:
        """All ways that differ in the slot, the one with the fewest cuts first."""
        if not self.roles:
            yield Demand((), self.least)
            return
        slot = None
        for count in range(1, len(self.roles) + 1):
            if count == 1 and self._forced:
                continue
            size, cuts = self._cut(count)
            found = max(self.least, size)
            if slot is None or found < slot:
                slot = found
                yield Demand(tuple(self.roles[cut] for cut in cuts), slot)

    def _cut(self, count: int) -> tuple[int, tuple[int, ...]]:
        """The smallest largest stream of a block cut into `count`, and the first cuts with it."""
        size = self._largest(0, count)
        cuts = [0]
        for left in range(count - 1, 0, -1):
            begin = cuts[-1]
            ends = range(begin + 1, len(self.roles) - left + 1)
            cuts.append(next(e for e in ends if self._with_end(begin, e, left) <= size))
        return size, tuple(cuts)

    def _largest(self, begin: int, count: int) -> int:
        """The smallest largest stream of the roles from `begin` on, in `count` streams."""
        key, last = (begin, count), len(self.roles)
        if key not in self._known:
            ends = range(begin + 1, last - count + 2) if count > 1 else [last]
            self._known[key] = min(self._with_end(begin, end, count - 1) for end in ends)
        return self._known[key]

    def _with_end(self, begin: int, end: int, left: int) -> int:
        """The same when the first stream ends in front of role `end` and `left` follow it."""
        if begin < self._forced < end:
            return sys.maxsize
        first = max(sums[end] - sums[begin] for sums in self._sums)
        return max(first, self._largest(end, left)) if left else first


def stream_points(program: Program, streams: StreamPlan | None) -> dict[str, int]:
    """The stream that an op waits for before it begins, by op id; of a head the first of its own.

    The last stream of an odd number moves nothing: where it begins, all slots are free.
    """
    points: dict[str, int] = {}
    if streams is None or streams.count == 0:
        return points
    index, before = 0, -1
    for op in program.ops:
        if op.layer >= 0 and op.role in streams.cuts:
            points[op.id] = index
            index += 1
        elif op.layer < 0 <= before and streams.part_records == 0 and index < streams.count:
            points[op.id] = index
        elif op.role == HEAD and streams.part_records:
            points[op.id] = index
            index += -(-records_of(program, op)[0] // streams.part_records)
        elif op.kind is OpKind.ARGMAX and streams.part_records and index < streams.count:
            points[op.id] = index
        before = op.layer
    return points


def head_of(program: Program, names: Set[str]) -> Op | None:
    """The head, if its weight is among `names`."""
    heads = (op for op in program.ops if op.role == HEAD)
    return next((op for op in heads if program.weight_of(op).name in names), None)


def head_sizes(program: Program, target: TargetSpec, head: Op, staging: str) -> Sequence[TileSize]:
    """Records of the head in one stream that are worth their slots, by the cost model.

    To the cost model a stream is a tile: it travels on the bus while the one before is worked on.
    """
    assert target.off_chip is not None
    link = target.link_between(target.off_chip.region, staging)
    records, size = records_of(program, head)
    if program.engine_layout_of(head):
        tiles = LinearTiles(records, size, CoreWork(0.0), link, target.cores, target.costs.barrier)
    else:
        tiles = linear_tiles(program.layout_of(head), link, target)
    return tile_sizes(tiles, target.region(staging).align, link.max_transfer, (2,))
