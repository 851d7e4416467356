"""Which weights go to off-chip memory, and the staging buffer through which they come back.

Weights leave the chip one by one, in the orders of leaving.py, until the rest has room. Whether it
has room is decided exactly for two regions of weights, so that a larger budget never sends more
bytes outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from memory_planner.allocate import Buffer
from memory_planner.arenas import Arenas, Contents, allocate_all, plan_arenas
from memory_planner.blobs import Blob, place_blobs_beside, place_states
from memory_planner.footprint import STREAM_BUFFER
from memory_planner.leaving import layers_of, leaving_orders
from memory_planner.liveness import folded_roles
from memory_planner.stream_slots import (
    Demand,
    OffChipWeights,
    head_of,
    head_sizes,
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


def has_room_outside(program: Program, target: TargetSpec) -> bool:
    """Whether the result of `place_outside` has room everywhere, in a part of the time."""
    assert target.off_chip is not None
    region, order = target.region(target.off_chip.region), leaving_orders(program, target)[0]
    found = _Search(program, target).first(order, None)
    if found is None:
        return False

    def has_room(outside: Outside) -> bool:
        height = align_up(outside.arenas.allocations[region.name].height, region.align)
        return outside.blobs[region.name].size + height <= region.size - region.reserved

    return has_room(found[1]) or has_room(place_outside(program, target))


@dataclass(frozen=True, slots=True)
class _Beside:
    """Arenas without the slots, and what they leave."""

    arenas: Arenas
    heights: Mapping[str, int]  # by region, padded
    room: int  # see `_room`


class _Search:
    """Attempts with more and more weights outside; arenas are planned once."""

    def __init__(self, program: Program, target: TargetSpec) -> None:
        self.program, self.target = program, target
        self.layers, self.read = layers_of(program), weights_read(program, target)
        self.contents = Contents(program, target)
        self.variants = _state_variants(program, target)
        self.sizes = {n: s.size for n, s in program.tensors.items() if s.kind is Kind.WEIGHT}
        self.known: dict[tuple[frozenset[str], int], _Beside] = {}
        # Beside state alone: where there is less, no arenas need to be planned.
        self.rooms = [_room(target, _state_heights(target, each)) for each in self.variants]

    def first(self, order: Sequence[str], limit: int | None) -> tuple[int, Outside] | None:
        """The first placement in which all has room, with less than `limit` bytes outside."""
        least = sum(self.target.pinned(name) is not None for name in order)
        inside = total = sum(self.sizes.values())
        moved, most = frozenset[str](), max(self.rooms)
        for count in range(len(order) + 1):
            if count:
                name = order[count - 1]
                inside -= self.sizes[name]
                moved = moved if name in self.layers else moved | {name}
            if count < least or inside > most:
                continue
            if limit is not None and total - inside >= limit:
                return None
            found = self._attempt(frozenset(order[:count]), moved, inside)
            if found:
                return total - inside, found
        return None

    def everything(self, order: Sequence[str]) -> Outside:
        """All of them outside, whether or not the rest has room."""
        assert self.target.off_chip is not None
        names = frozenset(order)
        inside = sum(size for name, size in self.sizes.items() if name not in names)
        beside = self._beside(frozenset(n for n in names if n not in self.layers), 0)
        last = _Attempt(self._weights(names), beside, inside)
        return last.place(self.target.off_chip.staging[0], list(last.weights.demands())[-1])

    def _attempt(self, names: frozenset[str], moved: frozenset[str], inside: int) -> Outside | None:
        """The first placement of state with which everything has room."""
        weights = self._weights(names)
        for variant, room in enumerate(self.rooms):
            if inside <= room and inside <= self._beside(moved, variant).room:
                found = _Attempt(weights, self._beside(moved, variant), inside).find()
                if found:
                    return found
        return None

    def _weights(self, names: frozenset[str]) -> OffChipWeights:
        return OffChipWeights(self.program, self.target, names, self.read)

    def _beside(self, moved: frozenset[str], variant: int) -> _Beside:
        """The arenas when weights outside of blocks, those of `moved`, are off chip."""
        key = moved, variant
        if key not in self.known:
            states, target = self.variants[variant], self.target
            arenas = plan_arenas(self.contents, {}, states, moved)
            heights = {
                r.name: align_up(arenas.allocations[r.name].height, r.align) for r in target.regions
            }
            self.known[key] = _Beside(arenas, heights, _room(target, heights))
        return self.known[key]


def _state_heights(
    target: TargetSpec, states: Mapping[str, Sequence[TensorSpec]]
) -> dict[str, int]:
    """Bytes that state takes of each region: less than any arena with it."""
    return {r.name: sum(align_up(s.size, r.align) for s in states[r.name]) for r in target.regions}


def _room(target: TargetSpec, heights: Mapping[str, int]) -> int:
    """Bytes for weights beside arenas of these heights; -1 when one exceeds its region."""
    free = {r.name: r.size - r.reserved - heights[r.name] for r in target.regions}
    return sum(free[n] for n in target.placement["weights"]) if min(free.values()) >= 0 else -1


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


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A placement with some weights outside."""

    weights: OffChipWeights
    beside: _Beside
    inside: int  # bytes of the other weights

    @property
    def target(self) -> TargetSpec:
        """Where to."""
        return self.weights.target

    def find(self) -> Outside | None:
        """The first region and the fewest cuts with which everything has room."""
        assert self.target.off_chip is not None
        for staging in self.target.off_chip.staging:
            if not self.may_fit(staging, self.weights.smallest):
                continue
            for demand in self.weights.demands():
                if self.may_fit(staging, demand.slot):
                    outside = self.place(staging, demand)
                    if self.is_on_chip(outside):
                        return self.grown(outside)
        return None

    def may_fit(self, staging: str, slot: int) -> bool:
        """A necessary condition: arenas, and the other weights, against the room there is."""
        slots = 2 * align_up(slot, self.target.region(staging).align)
        heights = self.beside.heights
        room = _room(self.target, {**heights, staging: heights[staging] + slots})
        return self.inside <= room

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
            return self.beside.arenas
        end = len(folded_roles(self.weights.program))
        buffer = Buffer(STREAM_BUFFER, 2 * slot, 0, end)
        arenas = self.beside.arenas
        buffers = {**arenas.buffers, staging: (*arenas.buffers[staging], buffer)}
        return allocate_all(self.target, buffers, arenas.tiles, {})

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
