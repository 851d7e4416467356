"""Which region holds each mutable buffer of a step, and at which offset.

Everything begins in the preferred region of activations (L1), state in the region that it was
given. While the preferred region is too small, the largest buffer that is live at its fullest
step and can give way does so: a tile shrinks, an activation or scratch moves to the fallback
region; tiles of more than their usual size come first. Once all fits, tiles grow again into what
is left. What the user pinned stays. The order depends on sizes and names alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from memory_planner.allocate import Allocation, Buffer, allocate, fit, peak_time
from memory_planner.blobs import Blob
from memory_planner.engine_chains import engine_buffers
from memory_planner.footprint import (
    ENGINE_PREFIX,
    MAX_CORES,
    PARTIAL_SIZE,
    PARTIALS,
    SCRATCH_PREFIX,
    TILE_PREFIX,
    scratch_size,
)
from memory_planner.liveness import folded_roles, lifetimes
from memory_planner.target import TargetSpec, align_up
from memory_planner.tiling import RoleTiles, cache_roles, role_tiles
from toolchain.model.program import Kind, Program, TensorSpec


@dataclass(frozen=True, slots=True)
class Arenas:
    """Buffers and their allocation by region, and the size of the tiles of each role."""

    buffers: Mapping[str, tuple[Buffer, ...]]
    allocations: Mapping[str, Allocation]
    tiles: Mapping[str, int]  # bytes of all slots, by role


@lru_cache(maxsize=2)  # one draft asks for the same program many times
def working_buffers(program: Program) -> tuple[Buffer, ...]:
    """Activations, scratch of each role and the partials, in order of name; no tiles."""
    times = {role: index for index, role in enumerate(folded_roles(program))}
    buffers = [
        Buffer(name, program.tensors[name].size, *interval)
        for name, interval in lifetimes(program).items()
    ]
    scratch: dict[str, int] = {}
    for op in program.ops:
        scratch[op.role] = max(scratch.get(op.role, 0), scratch_size(program, op))
    for role, size in scratch.items():
        if size:
            buffers.append(Buffer(SCRATCH_PREFIX + role, size, times[role], times[role] + 1))
    buffers.append(Buffer(PARTIALS, MAX_CORES * PARTIAL_SIZE, 0, len(times)))
    return tuple(sorted(buffers, key=lambda buffer: buffer.name))


class Contents:
    """The buffers of a program on a target: what does not depend on where its tensors are."""

    def __init__(self, program: Program, target: TargetSpec) -> None:
        self.program, self.target = program, target
        self.times = {role: time for time, role in enumerate(folded_roles(program))}
        self.working = working_buffers(program)
        self.engine = engine_buffers(program, target, self.times)
        self._tiles: dict[frozenset[str], dict[str, RoleTiles]] = {}

    def tiles(self, off_chip: frozenset[str]) -> Mapping[str, RoleTiles]:
        """Sizes of tiles by role with these weights off chip."""
        if off_chip not in self._tiles:
            self._tiles[off_chip] = role_tiles(self.program, self.target, off_chip)
        return self._tiles[off_chip]


def plan_arenas(
    contents: Contents,
    blobs: Mapping[str, Blob],
    states: Mapping[str, Sequence[TensorSpec]],
    off_chip: frozenset[str] = frozenset(),
) -> Arenas:
    """Arenas of all regions. One may exceed its region when nothing is left that can give way.

    The embedding has a tile only when it is among the weights `off_chip`.
    """
    target = contents.target
    search = _Search(contents, blobs, states, contents.tiles(off_chip))
    moved: set[str] = set()
    tiles = {role: options.within(inf) for role, options in search.options.items()}
    while True:
        buffers = search.buffers(moved, tiles)
        if search.fits(buffers):
            tiles = _grown(search, moved, tiles)
            return allocate_all(target, search.buffers(moved, tiles), tiles, blobs)
        yielding = search.yielding(buffers)
        if yielding is None:
            return allocate_all(target, buffers, tiles, blobs)
        buffer, size = yielding
        if buffer.name.startswith(TILE_PREFIX):
            tiles[buffer.name.removeprefix(TILE_PREFIX)] = size
        else:
            moved.add(buffer.name)


class _Search:
    """What stays the same while buffers give way."""

    def __init__(
        self,
        contents: Contents,
        blobs: Mapping[str, Blob],
        states: Mapping[str, Sequence[TensorSpec]],
        options: Mapping[str, RoleTiles],
    ) -> None:
        self.program = contents.program
        target = self.target = contents.target
        self.options: Mapping[str, RoleTiles] = options
        self.homes = target.placement["activations"]
        self.home = target.region(self.homes[0])
        blob = blobs[self.home.name].size if self.home.name in blobs else 0
        self.room = self.home.size - self.home.reserved - blob
        self.times = contents.times
        self.states = {
            name: [Buffer(spec.name, spec.size, 0, len(self.times)) for spec in specs]
            for name, specs in states.items()
        }
        if target.tiling and states.get(target.tiling.region):  # the cache is used where it is
            near = cache_roles(contents.program)
            self.options = {role: tiles for role, tiles in options.items() if role not in near}
        self.working, self.engine = contents.working, contents.engine

    def buffers(self, moved: Set[str], tiles: Mapping[str, int]) -> dict[str, list[Buffer]]:
        """The buffers of every region, with the tiles of these sizes."""
        buffers = {name: list(held) for name, held in self.states.items()}
        for buffer in self.working:
            usual = self.homes[buffer.name in moved]
            buffers[self.target.pinned(buffer.name) or usual].append(buffer)
        if self.target.engine:
            buffers[self.target.engine.activations] += self.engine
        if self.target.tiling:
            for role, size in tiles.items():
                tile = Buffer(TILE_PREFIX + role, size, self.times[role], self.times[role] + 1)
                buffers[self.target.tiling.region].append(tile)
        return buffers

    def fits(self, buffers: Mapping[str, Sequence[Buffer]]) -> bool:
        """Whether the preferred region has room for its buffers."""
        found = fit(buffers[self.home.name], self.home.align, self.room)
        return found.allocation is not None

    def live(self, buffers: Sequence[Buffer], time: int) -> int:
        """Bytes of the preferred region at a time, each buffer rounded up to the alignment."""
        return sum(align_up(b.size, self.home.align) for b in buffers if b.first <= time < b.last)

    def yielding(self, buffers: Mapping[str, Sequence[Buffer]]) -> tuple[Buffer, int] | None:
        """What gives way at the preferred region's peak, with the size that is left of it there.

        The largest buffer that can, but first a tile of more than its usual size. A tile shrinks
        until all fits, or until another buffer is the one to give way.
        """
        wanted = buffers[self.home.name]
        peak = peak_time(wanted, self.home.align)
        candidates = [b for b in wanted if b.first <= peak < b.last and self._can_yield(b)]
        if not candidates:
            return None
        candidates.sort(key=lambda b: (self._unusual(b), b.size, b.name))
        buffer = candidates.pop()
        if not buffer.name.startswith(TILE_PREFIX):
            return buffer, 0
        options = self._tiles_of(buffer)
        rivals = max((b.size for b in candidates), default=0)
        least = options.usual if self._unusual(buffer) else rivals
        left = self.room - self.live(wanted, peak) + align_up(buffer.size, self.home.align)
        return buffer, options.within(min(max(left, least), buffer.size - 1))

    def _tiles_of(self, buffer: Buffer) -> RoleTiles:
        return self.options[buffer.name.removeprefix(TILE_PREFIX)]

    def _unusual(self, buffer: Buffer) -> bool:
        is_tile = buffer.name.startswith(TILE_PREFIX)
        return is_tile and buffer.size > self._tiles_of(buffer).usual

    def _can_yield(self, buffer: Buffer) -> bool:
        if buffer.name.startswith(TILE_PREFIX):
            return self._tiles_of(buffer).within(buffer.size - 1) < buffer.size
        spec = self.program.tensors.get(buffer.name)
        fixed = buffer.name == PARTIALS or buffer.name.startswith(ENGINE_PREFIX)
        fixed = fixed or (spec is not None and spec.kind is Kind.STATE)
        return len(self.homes) > 1 and not fixed and self.target.pinned(buffer.name) is None


def _grown(search: _Search, moved: Set[str], tiles: Mapping[str, int]) -> dict[str, int]:
    """Each tile as large as the others leave room for: what moved away later made some."""
    grown = dict(tiles)
    for role, size in tiles.items():
        time = search.times[role]
        others = search.buffers(moved, {**grown, role: 0})[search.home.name]
        left = search.room - search.live(others, time)
        for larger in search.options[role].larger(size):
            attempt = {**grown, role: larger}
            if larger <= left and search.fits(search.buffers(moved, attempt)):
                grown = attempt
                break
    return grown


def allocate_all(
    target: TargetSpec,
    buffers: Mapping[str, Sequence[Buffer]],
    tiles: Mapping[str, int],
    blobs: Mapping[str, Blob],
) -> Arenas:
    """Offsets for the buffers of every region, above all such that they fit beside its blob."""
    allocations = {}
    for name, wanted in buffers.items():
        region = target.region(name)
        room = region.size - region.reserved - (blobs[name].size if name in blobs else 0)
        allocations[name] = allocate(wanted, region.align, room)
    return Arenas(
        buffers={name: tuple(wanted) for name, wanted in buffers.items()},
        allocations=allocations,
        tiles=dict(tiles),
    )
