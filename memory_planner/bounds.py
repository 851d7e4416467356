"""Lower bounds of offsets, each with the decisions that it follows from, and what they imply.

A decision is a bit, set by the depth in the search at which it was taken. A conflict is a set of
decisions, an int, from which it follows that nothing fits; 0 when that holds without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory_planner.sections import Problem


class Bound(NamedTuple):
    """A lower bound of an offset, in units, and the decisions that imply it."""

    offset: int
    reason: int
    weaker: Bound | None = None  # the bound that it replaced


def reason_for(bound: Bound, offset: int) -> int:
    """The decisions that imply a bound of at least `offset`: the earliest such bound's."""
    while bound.weaker is not None and bound.weaker.offset >= offset:
        bound = bound.weaker
    return bound.reason


@dataclass(slots=True)
class State:
    """What is known about the buffers that have no place yet."""

    bounds: list[Bound]  # by buffer
    floating: set[int]  # those that could not lie on anything at their bound

    def copy(self) -> State:
        """A state that can change without changing this one."""
        return State(self.bounds.copy(), self.floating.copy())

    def raise_bound(self, buffer: int, offset: int, reason: int) -> None:
        """Notes that `buffer` ends up at `offset` or above."""
        self.bounds[buffer] = Bound(offset, reason, self.bounds[buffer])

    def offsets(self, items: Sequence[int]) -> NDArray[np.int64]:
        """The bounds of `items`."""
        return np.array([self.bounds[item].offset for item in items], dtype=np.int64)


class Inference:
    """Places buffers of one problem and draws the conclusions for the others."""

    def __init__(self, problem: Problem, capacity: int) -> None:
        self.problem = problem
        self.capacity = capacity
        self.offsets = [0] * len(problem.sizes)  # of what has been placed
        self.failures = np.zeros(problem.live.shape[1], dtype=np.int64)  # by section
        self._sizes = problem.sizes
        self._decisions = [0] * len(problem.sizes)

    def place(self, items: Sequence[int], state: State, buffer: int, decision: int) -> None:
        """Puts `buffer` at its bound, below those of `items` that are live with it."""
        offset = state.bounds[buffer].offset
        top = offset + self._sizes[buffer]
        self.offsets[buffer] = offset
        self._decisions[buffer] = decision
        neighbours = self.problem.neighbours[buffer]
        for other in items:
            if other not in neighbours:
                continue
            bound = state.bounds[other]
            if bound.offset < top:
                not_below = reason_for(bound, offset - self._sizes[other] + 1)
                state.raise_bound(other, top, not_below | decision)
            if bound.offset <= top:
                state.floating.discard(other)

    def placed_beside(self, items: Sequence[int]) -> int:
        """The decisions that placed buffers which are live with some of `items`."""
        beside = frozenset[int]().union(*(self.problem.neighbours[item] for item in items))
        decisions = 0
        for buffer in beside.difference(items):
            decisions |= self._decisions[buffer]
        return decisions

    def propagate(self, items: Sequence[int], state: State) -> int | None:
        """Raises bounds; a conflict when a buffer or a section has no room left."""
        present = set(items)
        twins = [(a, b) for a, b in self.problem.twins if a in present and b in present]
        changed = True
        while changed:
            changed = False
            for lower, upper in twins:  # alike, so that either order would do
                least = state.bounds[lower].offset + self._sizes[lower]
                if state.bounds[upper].offset < least:
                    state.raise_bound(upper, least, state.bounds[lower].reason)
                    state.floating.discard(upper)
                    changed = True
            for buffer in sorted(state.floating & present):
                before = state.bounds[buffer].offset
                conflict = self._lift(present, state, buffer)
                if conflict is not None:
                    return conflict
                changed |= state.bounds[buffer].offset > before
        return self._overfull(items, state)

    def _lift(self, present: set[int], state: State, buffer: int) -> int | None:
        """Raises a floating buffer to the lowest top of what may still come to lie below it."""
        neighbours = self.problem.neighbours[buffer]
        coming = neighbours & present
        highest = self.capacity - self._sizes[buffer]
        tops = [state.bounds[item].offset + self._sizes[item] for item in coming]
        least = min([highest + 1, *tops])
        if least <= state.bounds[buffer].offset:
            return None
        reason = state.bounds[buffer].reason
        for item in coming:
            reason |= reason_for(state.bounds[item], least - self._sizes[item])
        for item in neighbours - present:
            if self._sizes[item] < least:
                reason |= self._decisions[item]
        if least > highest:
            return reason
        state.raise_bound(buffer, least, reason)
        return None

    def _overfull(self, items: Sequence[int], state: State) -> int | None:
        """The conflict in a section whose buffers from some bound upwards exceed the capacity."""
        first, last = self.problem.extent(items)
        offsets = state.offsets(items)
        order = np.argsort(-offsets, kind="stable")
        buffers = np.asarray(items, dtype=np.intp)[order]
        weights = self.problem.weights[buffers, first:last]
        ends = weights.cumsum(axis=0) + offsets[order, None]
        over = (ends > self.capacity) & (weights > 0)
        row, column = divmod(int(over.argmax()), last - first)
        if not over[row, column]:
            return None
        self.failures[first + column] += 1
        floor = int(offsets[order[row]])
        conflict = 0
        for item in buffers[: row + 1][weights[: row + 1, column] > 0].tolist():
            conflict |= reason_for(state.bounds[item], floor)
        return conflict
