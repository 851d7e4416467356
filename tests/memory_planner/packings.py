"""Allocation problems whose answer is known: by construction, by exhaustion, or from the field."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from memory_planner.allocate import Buffer

# At most 5 units are live at once, and still 6 are needed; found by exhaustion of random problems.
ONE_OVER = [
    Buffer(name, size, first, last)
    for name, size, first, last in [
        ("a", 3, 0, 2),
        ("b", 2, 0, 3),
        ("c", 1, 2, 4),
        ("d", 1, 2, 4),
        ("e", 1, 2, 6),
        ("f", 1, 3, 4),
        ("g", 1, 3, 7),
        ("h", 3, 4, 8),
        ("i", 1, 6, 7),
        ("j", 2, 7, 8),
    ]
]


def can_fit(buffers: Sequence[Buffer], capacity: int) -> bool:
    """By exhaustion: every offset of every buffer, in order of start."""
    order = sorted(buffers, key=lambda b: (b.first, -b.size, b.name))

    def rest_fits(placed: tuple[tuple[Buffer, int], ...]) -> bool:
        if len(placed) == len(order):
            return True
        buffer = order[len(placed)]
        taken = [(at, at + other.size) for other, at in placed if other.last > buffer.first]
        return any(
            all(high <= offset or offset + buffer.size <= low for low, high in taken)
            and rest_fits((*placed, (buffer, offset)))
            for offset in range(capacity - buffer.size + 1)
        )

    return rest_fits(())


def full_packing(seed: int) -> tuple[list[Buffer], int]:
    """Buffers cut out of a rectangle of addresses over time, in random order, and its height.

    They fit that height, and most moments are full, so that few other arrangements do.
    """
    rng = Random(seed)
    height, moments = rng.randint(4, 60), rng.randint(3, 14)
    largest, ending = rng.choice([2, 4, 10, height]), rng.choice([0.2, 0.4, 0.6])
    live: list[tuple[int, int, int]] = []  # low, high, since
    done: list[tuple[int, int, int]] = []  # size, first, last
    for moment in range(moments + 1):
        stays = []
        for low, high, since in live:
            if moment == moments or rng.random() < ending:
                done.append((high - low, since, moment))
            else:
                stays.append((low, high, since))
        live = stays
        free = [(0, height)] if not live else _gaps(live, height)
        for start, end in free if moment < moments else []:
            at = start
            while at < end:
                top = at + rng.randint(1, min(end - at, largest))
                if rng.random() < 0.9:
                    live.append((at, top, moment))
                at = top
        live.sort()
    rng.shuffle(done)
    return [Buffer(f"b{i}", *shape) for i, shape in enumerate(done)], height


def _gaps(live: Sequence[tuple[int, int, int]], height: int) -> list[tuple[int, int]]:
    edges = [(low, high) for low, high, _ in live]
    ends = [0, *(high for _, high in edges)]
    starts = [*(low for low, _ in edges), height]
    return [(end, start) for end, start in zip(ends, starts, strict=True) if end < start]
