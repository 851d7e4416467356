"""The tile sizes of a matrix that are worth their bytes, by the cost model.

Every number of records that one transfer can carry is tried, with one slot and with two. What
remains is the frontier: of two sizes of the same time the smaller buffer, and no size for which a
smaller buffer is as fast. The best size within a budget is then the largest that it holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from memory_planner.target import align_up
from memory_planner.tile_time import LinearTiles


@dataclass(frozen=True, slots=True)
class TileSize:
    """`records` (or cache rows) of a slot, and what they cost: bytes of slots, cycles of the op."""

    records: int
    slots: int
    slot_size: int  # bytes, aligned
    cycles: float

    @property
    def buffer_size(self) -> int:
        """Bytes of all slots."""
        return self.slots * self.slot_size


@lru_cache(maxsize=4096)
def tile_sizes(
    tiles: LinearTiles, align: int, limit: int, slots: tuple[int, ...] = (1, 2)
) -> tuple[TileSize, ...]:
    """The frontier, smallest buffer and longest time first.

    `limit` is what one transfer carries, in bytes. The first size is one record in the fewest of
    the `slots` that are allowed.
    """
    most = max(1, min(tiles.records, limit // tiles.record_size))
    return frontier_of(
        TileSize(
            records,
            count,
            align_up(records * tiles.record_size, align),
            tiles.cycles(records, count),
        )
        for records in range(1, most + 1)
        for count in slots
    )


def frontier_of(sizes: Iterable[TileSize]) -> tuple[TileSize, ...]:
    """Those for which no smaller buffer is as fast, smallest first."""
    ordered = sorted(sizes, key=lambda size: (size.buffer_size, size.cycles, size.records))
    frontier = ordered[:1]
    for size in ordered[1:]:
        if size.cycles < frontier[-1].cycles:
            frontier.append(size)
    return tuple(frontier)


def best_within(frontier: Sequence[TileSize], budget: float) -> TileSize:
    """The fastest size whose slots take at most `budget` bytes; the smallest when none does."""
    found = bisect_right(frontier, budget, key=lambda size: size.buffer_size)
    return frontier[max(0, found - 1)]
