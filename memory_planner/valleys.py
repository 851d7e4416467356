"""Where the exact search branches: a valley, which some buffer must fill or leave empty.

The floor of a section is the lowest bound of the buffers that it still gets. In a valley, each of
the buffers bounded by the floor is bounded by the same floor in all its sections, so nothing
placed later can go below them, and the choice is complete: one of them lies on the floor, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memory_planner.bounds import State
from memory_planner.sections import Problem

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
FAR = 1 << 62


def find_valley(
    problem: Problem,
    capacity: int,
    items: Sequence[int],
    state: State,
    weights: Ints | None = None,
) -> list[int]:
    """The buffers on the floor of the valley to branch on.

    A valley with one such buffer that cannot stay empty comes first. Otherwise it is the one of
    the highest weight (by section), or without weights the lowest, and among these the one with
    the fewest buffers.
    """
    first, last = problem.extent(items)
    index = np.asarray(items, dtype=np.intp)
    live = problem.live[index, first:last]
    heights = np.where(live, state.offsets(items)[:, None], FAR)
    floors = heights.min(axis=0)
    lowest = live & (heights == floors)
    settled = (lowest == live).all(axis=1)
    settled[[at for at, item in enumerate(items) if item in state.floating]] = False
    counts = lowest.sum(axis=0)
    columns = np.flatnonzero((counts > 0) & ~lowest[~settled].any(axis=0))
    rank = floors[columns] if weights is None else -weights[first:last][columns]
    columns = columns[np.lexsort((counts[columns], rank))]
    room = capacity - problem.weights[index, first:last].sum(axis=0)
    overlap = problem.overlap[np.ix_(index, index)]
    tops = state.offsets(items) + problem.weights[index].max(axis=1)
    chosen = columns[0]
    rest = np.where(lowest, FAR, heights).min(axis=0)
    seen: set[int] = set()
    for column in columns[counts[columns] == 1]:
        row = int(lowest[:, column].argmax())
        if row in seen:
            continue
        seen.add(row)
        below = np.where(live | ~overlap[row][:, None], FAR, tops[:, None]).min(axis=0)
        tight = columns[(counts[columns] == 1) & lowest[row, columns]]
        tight = tight[np.minimum(below, rest)[tight] > room[tight]]
        if len(tight):
            chosen = tight[0]
            break
    return [items[row] for row in np.flatnonzero(lowest[:, chosen])]
