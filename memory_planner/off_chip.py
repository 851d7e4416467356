"""Which weights go to off-chip memory, and the staging buffer through which they come back.

Weights leave the chip one by one, those first of which a byte costs least when it has to be
streamed (`leaving_orders`), until the rest has room. Whether it has room is decided exactly for two
regions of weights, so that a larger budget never sends more bytes outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from memory_planner.plan import Stream, StreamPlan
from memory_planner.stream_slots import (
    Demand,
    OffChipWeights,
    head_of,
    head_sizes,
    records_of,
    weights_read,
)
from memory_planner.target import TargetSpec, align_up
from memory_planner.tile_sizes import best_within
from toolchain.model.program import Kind, Program, TensorSpec


@dataclass(frozen=True, slots=True)
class Outside:
    """A placement with off-chip weights; `staging` is the region of the streams' slots."""

    blobs: Mapping[str, Blob]
    arenas: Arenas
    staging: str
    slot_size: int
    cuts: tuple[str, ...]


def leaving_orders(program: Program, target: TargetSpec) -> list[list[str]]:
    """Orders in which weights may leave the chip, the usual one first.

    The others are those of chips with less room: in them more weights are larger than every region.
    Whatever is found on a smaller chip is found on a larger one too.
    """
    rooms = [target.region(name) for name in target.placement["weights"]]
    most = max(room.size - room.reserved for room in rooms)
    sizes = {s.size for s in program.tensors.values() if s.kind is Kind.WEIGHT and s.size <= most}
    limits = [most, *(size - 1 for size in sorted(sizes, reverse=True))]
    orders = [leaving_order(program, target, limit) for limit in limits]
    return [order for index, order in enumerate(orders) if order not in orders[:index]]


def leaving_order(program: Program, target: TargetSpec, most: int) -> list[str]:
    """Weights that may leave the chip, cheapest first.

    Those that the user pinned there lead, then those of more than `most` bytes.
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
    huge = [name for name in free if size[name] > most]
    return list(dict.fromkeys([*pinned, *huge, *rows, *blocks, *heads]))


def place_outside(program: Program, target: TargetSpec) -> Outside:
    """The placement with the fewest bytes off chip; with all of them when nothing has room."""
    search = _Search(program, target)
    best: tuple[int, Outside] | None = None
    orders = leaving_orders(program, target)
    for order in orders:
        found = search.first(order, best[0] if best else None)
        best = found or best
        if best is None:  # not even with nearly everything outside
            break
    return best[1] if best else search.everything(orders[0])


class _Search:
    """Attempts with more and more weights outside; arenas are planned once."""

    def __init__(self, program: Program, target: TargetSpec) -> None:
        self.program, self.target = program, target
        self.layers, self.read = _layers(program), weights_read(program, target)
        self.variants = _state_variants(program, target)
        self.sizes = {n: s.size for n, s in program.tensors.items() if s.kind is Kind.WEIGHT}
        self.arenas: dict[tuple[frozenset[str], int], Arenas] = {}
        rooms = [target.region(name) for name in target.placement["weights"]]
        self.room = sum(room.size - room.reserved for room in rooms)  # were there nothing else

    def first(self, order: Sequence[str], limit: int | None) -> tuple[int, Outside] | None:
        """The first placement in which all has room, with less than `limit` bytes outside."""
        least = sum(self.target.pinned(name) is not None for name in order)
        total = sum(self.sizes.values())
        for count in range(least, len(order) + 1):
            names = frozenset(order[:count])
            outside = sum(self.sizes[name] for name in names)
            if limit is not None and outside >= limit:
                return None
            if total - outside > self.room:
                continue
            weights = OffChipWeights(self.program, self.target, names, self.read)
            for index in range(len(self.variants)):
                found = _Attempt(weights, self._arenas(names, index), total - outside).find()
                if found:
                    return outside, found
        return None

    def everything(self, order: Sequence[str]) -> Outside:
        """All of them outside, whether or not the rest has room."""
        assert self.target.off_chip is not None
        names = frozenset(order)
        weights = OffChipWeights(self.program, self.target, names, self.read)
        inside = sum(size for name, size in self.sizes.items() if name not in names)
        last = _Attempt(weights, self._arenas(names, 0), inside)
        return last.place(self.target.off_chip.staging[0], list(weights.demands())[-1])

    def _arenas(self, names: frozenset[str], variant: int) -> Arenas:
        moved = frozenset(names - self.layers.keys())
        key = moved, variant
        if key not in self.arenas:
            states = self.variants[variant]
            self.arenas[key] = plan_arenas(self.program, self.target, {}, states, moved)
        return self.arenas[key]


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


def streams_of(program: Program, target: TargetSpec, outside: Outside) -> StreamPlan:
    """The streams of a step out of the off-chip blob; at least the slots for an embedding."""
    assert target.off_chip is not None
    offsets = outside.blobs[target.off_chip.region].offsets
    spans = _block_spans(program, outside, offsets)
    used = program.shape.layers * len(outside.cuts)
    first_of_head, part_records = used, 0
    head = head_of(program, offsets.keys())
    if head:
        records, record_size = records_of(program, head)
        base = offsets[program.weight_of(head).name]
        sizes = head_sizes(program, target, head, outside.staging)
        part_records = best_within(sizes, 2 * outside.slot_size).records
        for first in range(0, records, part_records):
            last = min(first + part_records, records)
            spans[used] = base + first * record_size, base + last * record_size
            used += 1
    link = target.link_between(target.off_chip.region, outside.staging)
    return StreamPlan(
        region=target.off_chip.region,
        buffer=STREAM_BUFFER,
        slot_size=outside.slot_size,
        max_transfer=link.max_transfer,
        cuts=outside.cuts,
        head=first_of_head,
        part_records=part_records,
        count=used + used % 2,
        streams=tuple(Stream(n, begin, end - begin) for n, (begin, end) in sorted(spans.items())),
    )


def _block_spans(
    program: Program, outside: Outside, offsets: Mapping[str, int]
) -> dict[int, tuple[int, int]]:
    """[begin, end) in the off-chip region of each stream of a block that moves anything."""
    spans: dict[int, tuple[int, int]] = {}
    index = -1
    for op in program.ops:
        if op.layer < 0:
            continue
        index += op.role in outside.cuts
        for name in op.inputs:
            if name in offsets:
                begin, end = offsets[name], offsets[name] + program.tensors[name].size
                low, high = spans.get(index, (begin, end))
                spans[index] = min(low, begin), max(high, end)
    return spans


def _layers(program: Program) -> dict[str, int]:
    """The first block that reads each weight of a block."""
    found: dict[str, int] = {}
    for op in program.ops:
        for name in op.inputs:
            if op.layer >= 0 and program.tensors[name].kind is Kind.WEIGHT:
                found.setdefault(name, op.layer)
    return found


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A placement with some weights outside."""

    weights: OffChipWeights
    arenas: Arenas  # without the slots
    inside: int  # bytes of the other weights

    @property
    def target(self) -> TargetSpec:
        """Where to."""
        return self.weights.target

    def find(self) -> Outside | None:
        """The first region and the fewest cuts with which everything has room."""
        assert self.target.off_chip is not None
        for staging in self.target.off_chip.staging:
            if not self.may_fit(staging, 0) or not self.may_fit(staging, self.weights.smallest):
                continue
            for demand in self.weights.demands():
                if self.may_fit(staging, demand.slot):
                    outside = self.place(staging, demand)
                    if self.is_on_chip(outside):
                        return self.grown(outside)
        return None

    def may_fit(self, staging: str, slot: int) -> bool:
        """A necessary condition: arenas, and the other weights, against the room there is."""
        free = {r.name: r.size - r.reserved - self.height(r.name) for r in self.target.regions}
        free[staging] -= 2 * align_up(slot, self.target.region(staging).align)
        room = sum(free[name] for name in self.target.placement["weights"])
        return self.inside <= room and min(free.values()) >= 0

    def height(self, region: str) -> int:
        """Bytes of a region's arena, padded."""
        return align_up(self.arenas.allocations[region].height, self.target.region(region).align)

    def place(self, staging: str, demand: Demand) -> Outside:
        """Blobs around the arenas; a region may exceed its capacity."""
        slot = align_up(demand.slot, self.target.region(staging).align)
        arenas = self.with_slots(staging, slot)
        taken = {
            r.name: align_up(arenas.allocations[r.name].height, r.align)
            for r in self.target.regions
        }
        names = self.weights.names
        blobs = place_blobs_beside(self.weights.program, self.target, taken, names)
        return Outside(blobs, arenas, staging, slot, demand.cuts)

    def with_slots(self, staging: str, slot: int) -> Arenas:
        """The arenas with both slots, if anything is off chip."""
        if not self.weights.names:
            return self.arenas
        end = len(folded_roles(self.weights.program))
        buffer = Buffer(STREAM_BUFFER, 2 * slot, 0, end)
        held = self.arenas.buffers
        buffers = {**held, staging: (*held[staging], buffer)}
        return allocate_all(self.target, buffers, self.arenas.tiles, {})

    def grown(self, outside: Outside) -> Outside:
        """Slots as large as the head is fastest with, in what everything else leaves."""
        program, names = self.weights.program, self.weights.names
        head = head_of(program, names)
        if head is None:
            return outside
        free = self.free(outside)[outside.staging]
        sizes = head_sizes(program, self.target, head, outside.staging)
        best = best_within(sizes, 2 * outside.slot_size + free).slot_size
        if best <= outside.slot_size:
            return outside
        arenas = self.with_slots(outside.staging, best)
        larger = replace(outside, arenas=arenas, slot_size=best)
        return larger if self.is_on_chip(larger) else outside

    def free(self, outside: Outside) -> dict[str, int]:
        """Bytes left of each region; negative where it got too much."""
        return {
            r.name: r.size
            - r.reserved
            - align_up(outside.arenas.allocations[r.name].height, r.align)
            - outside.blobs[r.name].size
            for r in self.target.regions
        }

    def is_on_chip(self, outside: Outside) -> bool:
        """Whether every region but the off-chip one has room for what it got."""
        assert self.target.off_chip is not None
        free = self.free(outside)
        return all(n >= 0 for name, n in free.items() if name != self.target.off_chip.region)
