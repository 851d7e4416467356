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
FAR = 1 << 62


def find_valley(
    problem: Problem,
    capacity: int,
    items: Sequence[int],
    state: State,
    weights: Ints | None = None,
) -> list[int]:
    """The buffers on the floor of the valley to branch on.

    A valley that exactly one buffer can fill and that must not stay empty comes first. Otherwise
    it is the one of the highest weight (by section), or without weights the lowest, and of these
    the one with the fewest buffers.
    """
    first, last = problem.extent(items)
    index = np.asarray(items, dtype=np.intp)
    heights = np.where(problem.live[index, first:last], state.offsets(items)[:, None], FAR)
    floors = heights.min(axis=0)
    lowest = (heights == floors) & (heights < FAR)
    settled = lowest.sum(axis=1) == (heights < FAR).sum(axis=1)
    settled[[row for row, item in enumerate(items) if item in state.floating]] = False
    counts = lowest.sum(axis=0)
    valleys = np.flatnonzero((counts > 0) & ~lowest[~settled].any(axis=0))
    rank = floors if weights is None else -weights[first:last]
    valleys = valleys[np.lexsort((counts[valleys], rank[valleys]))]
    single = valleys[counts[valleys] == 1]
    room = capacity - problem.weights[index, first:last].sum(axis=0)
    rest = np.where(lowest, FAR, heights).min(axis=0)
    for row in dict.fromkeys(lowest[:, single].argmax(axis=0).tolist()):
        columns = single[lowest[row, single]]
        least = np.minimum(rest, _lowest_below(problem, items, state, row)[first:last])
        tight = columns[least[columns] > room[columns]]
        if tight.size:
            return [items[row]]
    return [items[row] for row in np.flatnonzero(lowest[:, valleys[0]])]


def _lowest_below(problem: Problem, items: Sequence[int], state: State, row: int) -> Ints:
    """By section: the lowest offset of `items[row]` if, above its bound, it is the lowest there.

    Then it lies on a buffer that is not live in the section.
    """
    neighbours = problem.neighbours[items[row]]
    others = [item for item in items if item in neighbours]
    tops = state.offsets(others) + [problem.sizes[item] for item in others]
    live = problem.live[np.asarray(others, dtype=np.intp)]
    lowest: Ints = np.where(live, FAR, tops[:, None]).min(axis=0)
    return lowest
