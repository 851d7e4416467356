"""Exact search for offsets within a capacity, which proves it when there are none.

After MiniMalloc (Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated
Machine Learning", ASPLOS 2023), only canonical solutions are tried, in which each buffer lies on
the bottom or on top of another, and a state is given up as soon as some section cannot hold what
it still gets. What differs: the search branches on valleys (valleys.py) instead of on the lowest
buffers; states that failed are remembered; a failure names the decisions it follows from and the
search returns to the latest of them (conflict-directed backjumping, Prosser 1993); and runs
restart with other orders.

The limit counts visited states, never time, so the outcome depends on the problem alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from memory_planner.bounds import Bound, Inference, State, reason_for
from memory_planner.sections import Problem
from memory_planner.valleys import find_valley
from memory_planner.verdict import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Strategy:
    """How one run chooses."""

    rank: tuple[int, ...]  # by buffer; the lowest is tried first
    weighted: bool  # valleys where most conflicts were found, instead of the lowest


def search(problem: Problem, capacity: int, limit: int) -> Outcome:
    """Offsets with all ends at or below `capacity` units, visiting at most `limit` states.

    A dive to a solution visits little more than one state per buffer and one that goes wrong early
    rarely recovers, so runs are short at first: two states per buffer, half more in each round.
    """
    runs = _Search(problem, capacity)
    length = 2 * len(problem.sizes)
    verdict = Verdict.UNDECIDED
    for number in count():
        for strategy in strategies(problem, number):
            if runs.nodes < limit:
                verdict = runs.run(strategy, min(limit, runs.nodes + length))
            if verdict is not Verdict.UNDECIDED or runs.nodes >= limit:
                offsets = tuple(runs.inference.offsets) if verdict is Verdict.FITS else ()
                return Outcome(verdict, offsets, runs.nodes)
        length += length // 2
    raise AssertionError


def strategies(problem: Problem, number: int) -> Iterator[Strategy]:
    """The strategies of a round: long, large or both first, in valleys of either kind.

    From the second round on, the orders are disturbed, the same way each time.
    """
    generator = Random(number)
    both = [
        duration * size for duration, size in zip(problem.durations, problem.sizes, strict=True)
    ]
    for values in (problem.durations, problem.sizes, both):
        noise = [1 + 0.3 * generator.random() * (number > 0) for _ in values]
        order = sorted(range(len(values)), key=lambda b: (-values[b] * noise[b], -both[b]))
        rank = sorted(range(len(values)), key=order.__getitem__)
        yield Strategy(tuple(rank), weighted=False)
        yield Strategy(tuple(rank), weighted=True)


class _LimitReachedError(Exception):
    """The run has visited as many states as it may."""


_Conflict = int | None  # None: solved
_Steps = Generator["_Steps", _Conflict, _Conflict]


class _Search:
    """Runs on one problem and capacity. What failed is remembered from run to run."""

    def __init__(self, problem: Problem, capacity: int) -> None:
        self.problem = problem
        self.capacity = capacity
        self.inference = Inference(problem, capacity)
        self.nodes = 0
        self._failed: set[bytes] = set()
        self._strategy = Strategy((), weighted=False)
        self._stop = 0

    def run(self, strategy: Strategy, stop: int) -> Verdict:
        """One run from the root, until `nodes` has reached `stop`."""
        self._strategy, self._stop = strategy, stop
        self.inference.failures[:] = 0
        count = len(self.problem.sizes)
        items = sorted(range(count), key=lambda item: self.problem.spans[item])
        state = State([Bound(0, 0)] * count, set())
        for item in tuple(items):
            if len(self.problem.neighbours[item]) == count - 1:  # can as well lie below all others
                if state.bounds[item].offset + self.problem.sizes[item] > self.capacity:
                    return Verdict.IMPOSSIBLE
                self.inference.place(items, state, item, 0)
                items.remove(item)
        try:
            conflict = _drive(self._solve(items, state, 0))
        except _LimitReachedError:
            return Verdict.UNDECIDED
        return Verdict.FITS if conflict is None else Verdict.IMPOSSIBLE

    def _solve(self, items: Sequence[int], state: State, depth: int) -> _Steps:
        """Places `items`; parts that share no section are solved one after the other."""
        conflict = self.inference.propagate(items, state) if items else None
        if conflict is not None:
            return conflict
        for part in self._parts(items):
            conflict = yield self._branch(part, state, depth)
            if conflict is not None:
                return conflict
        return None

    def _parts(self, items: Sequence[int]) -> list[list[int]]:
        """Smallest first: what fails there fails sooner."""
        parts: list[list[int]] = []
        end = 0
        for item in items:
            first, last = self.problem.spans[item]
            if first >= end:
                parts.append([])
            parts[-1].append(item)
            end = max(end, last)
        return sorted(parts, key=len)

    def _branch(self, items: Sequence[int], state: State, depth: int) -> _Steps:
        """Fills the floor of a valley with each buffer that can lie there, then with none."""
        if len(items) == 1:
            self.inference.place((), state, items[0], 0)
            return None
        key = _key(items, state)
        if key in self._failed:
            return self._reason(items, state)
        if self.nodes >= self._stop:
            raise _LimitReachedError
        self.nodes += 1
        weights = self.inference.failures if self._strategy.weighted else None
        lowest = find_valley(self.problem, self.capacity, items, state, weights)
        conflict = 0
        for item in lowest:
            conflict |= reason_for(state.bounds[item], state.bounds[lowest[0]].offset)
        for branch in self._branches(items, state, lowest, 1 << depth):
            failure = yield self._solve(*branch, depth + 1)
            if failure is None:
                return None
            if not failure >> depth & 1:
                conflict = failure  # whatever lies on the floor
                break
            conflict |= failure ^ 1 << depth
        self._failed.add(key)
        return conflict

    def _branches(
        self, items: Sequence[int], state: State, lowest: Sequence[int], decision: int
    ) -> Iterator[tuple[Sequence[int], State]]:
        for buffer in sorted(lowest, key=self._strategy.rank.__getitem__):
            others = [item for item in items if item != buffer]
            placed = state.copy()
            self.inference.place(others, placed, buffer, decision)
            yield others, placed
        empty = state.copy()
        for buffer in lowest:
            empty.raise_bound(buffer, state.bounds[buffer].offset + 1, decision)
            empty.floating.add(buffer)
        yield items, empty

    def _reason(self, items: Sequence[int], state: State) -> int:
        """The decisions that led to a state that had failed before."""
        conflict = 0
        for item in items:
            conflict |= state.bounds[item].reason
        if not state.floating.isdisjoint(items):
            conflict |= self.inference.placed_beside(items)
        return conflict


def _key(items: Sequence[int], state: State) -> bytes:
    """Equal for equal states; 128 bits, so that different states never share one in practice."""
    facts = [(item, state.bounds[item].offset, item in state.floating) for item in items]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _drive(steps: _Steps) -> _Conflict:
    """Runs a recursion of generators on a list, because Python's own stack is too short."""
    stack = [steps]
    answer: _Conflict = None
    while stack:
        try:
            stack.append(stack[-1].send(answer))
            answer = None
        except StopIteration as end:
            stack.pop()
            answer = end.value
    return answer
