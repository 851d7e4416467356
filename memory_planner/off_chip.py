"""Which weights go to off-chip memory, and the staging buffer through which blocks get theirs.

Weights leave the chip one by one, those first of which a byte costs least when it has to be
streamed (`leaving_order`), until the rest has room. Whether it has room is decided exactly for two
regions of weights, so that a larger budget never sends more bytes outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_planner.allocate import Buffer
from memory_planner.arenas import Arenas, allocate_all, plan_arenas
from memory_planner.blobs import (
    Blob,
    bytes_read,
    in_order_of_use,
    place_blobs_beside,
    place_states,
)
from memory_planner.footprint import STREAM_BUFFER
from memory_planner.liveness import folded_roles
from memory_planner.plan import BlockStream, StreamPlan
from memory_planner.target import TargetSpec, align_up
from toolchain.model.program import Kind, Program, TensorSpec


@dataclass(frozen=True, slots=True)
class Outside:
    """A placement with off-chip weights; `staging` is the region of the stream's slots, if any."""

    blobs: Mapping[str, Blob]
    arenas: Arenas
    staging: str | None
    slot_size: int


def leaving_order(program: Program, target: TargetSpec) -> list[str]:
    """Weights that may leave the chip, cheapest first.

    Those that the user pinned there lead, then those that are larger than every region.
    An embedding costs one record per token. Weights of blocks overlap with the block before, best
    when all blocks stream about as much: role by role, large ones first, and within a role from
    the last block, so that the first, whose stream nothing hides, has least. A head is read while
    nothing else runs.
    """
    assert target.off_chip is not None
    layers, read = _layers(program), bytes_read(program)
    names = [spec.name for spec in in_order_of_use(program, Kind.WEIGHT)]
    free = [name for name in names if target.pinned(name) is None]
    size = {name: program.tensors[name].size for name in free}
    rows = [name for name in free if read[name] < size[name]]
    blocks = [name for name in free if name in layers]
    blocks.sort(key=lambda name: (-size[name], name.partition(".")[2], -layers[name]))
    heads = [name for name in free if name not in rows and name not in layers]
    pinned = [name for name in names if target.pinned(name) == target.off_chip.region]
    rooms = [target.region(name) for name in target.placement["weights"]]
    most = max(room.size - room.reserved for room in rooms)
    huge = [name for name in free if size[name] > most]
    return list(dict.fromkeys([*pinned, *huge, *rows, *blocks, *heads]))


def place_outside(program: Program, target: TargetSpec) -> Outside:
    """The placement with the fewest bytes off chip; with all of them when nothing has room."""
    order = leaving_order(program, target)
    layers = _layers(program)
    variants = _state_variants(program, target)
    arenas: dict[tuple[frozenset[str], int], Arenas] = {}
    sizes = {n: s.size for n, s in program.tensors.items() if s.kind is Kind.WEIGHT}
    least = sum(target.pinned(name) is not None for name in order)
    for count in range(least, len(order) + 1):
        names = frozenset(order[:count])
        moved = frozenset(names - layers.keys())
        inside = sum(size for name, size in sizes.items() if name not in names)
        streamed = _largest_stream(target, layers, {n: sizes[n] for n in names - moved})
        for index, states in enumerate(variants):
            key = moved, index
            if key not in arenas:
                arenas[key] = plan_arenas(program, target, {}, states, moved)
            attempt = _Attempt(program, target, arenas[key], names, inside, streamed)
            for staging in attempt.staging_regions():
                if attempt.may_fit(staging):
                    outside = attempt.place(staging)
                    if attempt.is_on_chip(outside):
                        return outside
    last = _Attempt(program, target, arenas[moved, 0], names, inside, streamed)
    return last.place(last.staging_regions()[0])


def _state_variants(program: Program, target: TargetSpec) -> list[dict[str, list[TensorSpec]]]:
    """State where it likes to be, then more and more of it out of the way of the weights."""
    usual = place_states(program, target, {})
    spare = [n for n in target.placement["state"] if n not in target.placement["weights"]]
    movable = [
        spec
        for name, specs in usual.items()
        for spec in specs
        if name in target.placement["weights"] and target.pinned(spec.name) is None
    ]
    variants = [usual]
    for count in range(1, len(movable) + 1 if spare else 1):
        moved = movable[:count]
        states = {name: [s for s in specs if s not in moved] for name, specs in usual.items()}
        states[spare[0]] += moved
        variants.append(states)
    return variants


def streams_of(program: Program, target: TargetSpec, outside: Outside) -> StreamPlan | None:
    """The streams of all blocks out of the off-chip blob."""
    if outside.staging is None or target.off_chip is None:
        return None
    offsets = outside.blobs[target.off_chip.region].offsets
    ends: dict[int, list[int]] = {}
    for op in program.ops:
        for name in op.inputs:
            if op.layer >= 0 and name in offsets:
                size = program.tensors[name].size
                ends.setdefault(op.layer, []).extend((offsets[name], offsets[name] + size))
    blocks = tuple(
        BlockStream(layer, min(ends[layer]), max(ends[layer]) - min(ends[layer]))
        for layer in sorted(ends)
    )
    link = target.link_between(target.off_chip.region, outside.staging)
    return StreamPlan(
        target.off_chip.region, STREAM_BUFFER, outside.slot_size, link.max_transfer, blocks
    )


def _layers(program: Program) -> dict[str, int]:
    """The first block that reads each weight of a block."""
    found: dict[str, int] = {}
    for op in program.ops:
        for name in op.inputs:
            if op.layer >= 0 and program.tensors[name].kind is Kind.WEIGHT:
                found.setdefault(name, op.layer)
    return found


def _largest_stream(target: TargetSpec, layers: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Bytes of the block that streams most, as its weights lie in the off-chip blob."""
    assert target.off_chip is not None
    align = target.region(target.off_chip.region).align
    sums: dict[int, int] = {}
    for name, size in sizes.items():
        sums[layers[name]] = sums.get(layers[name], 0) + align_up(size, align)
    return max(sums.values(), default=0)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A placement with the weights of `names` outside."""

    program: Program
    target: TargetSpec
    arenas: Arenas  # without the stream's slots
    names: frozenset[str]
    inside: int  # bytes of the other weights
    streamed: int  # bytes of the block that streams most, 0 without streams

    def may_fit(self, staging: str | None) -> bool:
        """A necessary condition: arenas, and the other weights, against the room there is."""
        free = {r.name: r.size - r.reserved - self.height(r.name) for r in self.target.regions}
        if staging:
            free[staging] -= 2 * self.slot_size(staging)
        room = sum(free[name] for name in self.target.placement["weights"])
        return self.inside <= room and min(free.values()) >= 0

    def height(self, region: str) -> int:
        """Bytes of a region's arena, padded."""
        return align_up(self.arenas.allocations[region].height, self.target.region(region).align)

    def staging_regions(self) -> Sequence[str | None]:
        """Where the stream's slots may lie; None when there is no stream."""
        assert self.target.off_chip is not None
        return self.target.off_chip.staging if self.streamed else (None,)

    def slot_size(self, staging: str) -> int:
        """Bytes of one slot in a staging region."""
        return align_up(self.streamed, self.target.region(staging).align)

    def place(self, staging: str | None) -> Outside:
        """Blobs around the arenas; a region may exceed its capacity."""
        arenas, slot = self.arenas, 0
        if staging:
            slot = self.slot_size(staging)
            buffer = Buffer(STREAM_BUFFER, 2 * slot, 0, len(folded_roles(self.program)))
            buffers = {**arenas.buffers, staging: (*arenas.buffers[staging], buffer)}
            arenas = allocate_all(self.target, buffers, arenas.tiles, {})
        taken = {
            r.name: align_up(arenas.allocations[r.name].height, r.align)
            for r in self.target.regions
        }
        blobs = place_blobs_beside(self.program, self.target, taken, self.names)
        return Outside(blobs, arenas, staging, slot)

    def is_on_chip(self, outside: Outside) -> bool:
        """Whether every region but the off-chip one has room for what it got."""
        assert self.target.off_chip is not None
        return all(
            r.reserved
            + align_up(outside.arenas.allocations[r.name].height, r.align)
            + outside.blobs[r.name].size
            <= r.size
            for r in self.target.regions
            if r.name != self.target.off_chip.region
        )
