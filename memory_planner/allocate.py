"""Offsets for buffers with lifetimes: greedy orders, then an exact search, against a bound.

Static allocation of buffers with known lifetimes to one address range. No height can be below the
fullest moment. Several greedy orders are tried first, as TensorFlow Lite does it (Pisarchyk and
Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020): buffers in a fixed order,
each into the smallest gap that holds it among the buffers alive at the same time. What they leave
open, a search (search.py) decides as far as a limit of visited states allows. Sizes and offsets
are multiples of the alignment; results depend on the input alone, not on its order or on time.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from memory_planner.target import align_up
from memory_planner.verdict import Outcome, Verdict

SEARCH_LIMIT = 4000  # visited states: at most about a second for the graphs of this planner


@dataclass(frozen=True, slots=True)
class Buffer:
    """A request: `size` bytes during [first, last), which is not empty."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Offsets by name; `height` is the end of the highest buffer."""

    offsets: Mapping[str, int]
    height: int
    bound: int  # bytes of the fullest moment: no height is lower
    proven: bool  # no height below `height` exists
    method: str  # what found it: a greedy order by its name, or "search"

    @property
    def gap(self) -> int:
        """Bytes above the bound; of a proven allocation, unavoidable ones."""
        return self.height - self.bound


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether buffers fit a capacity; with an allocation when they do."""

    verdict: Verdict
    allocation: Allocation | None


def allocate(
    buffers: Sequence[Buffer],
    align: int,
    capacity: int | None = None,
    limit: int = SEARCH_LIMIT,
) -> Allocation:
    """Offsets of all buffers, as low as `limit` visited states find.

    With a capacity, that height is sought first, so that the result fits whenever `fit` finds
    that it does.
    """
    best = greedy(buffers, align)
    if capacity is not None and best.bound <= capacity < best.height:
        best = fit(buffers, align, capacity, limit).allocation or best
    return best if best.proven else _lowered(buffers, align, best, limit)


def fit(buffers: Sequence[Buffer], align: int, capacity: int, limit: int = SEARCH_LIMIT) -> Fit:
    """Whether the buffers fit `capacity` bytes, by the bound, the greedy orders and the search."""
    if _fullest(buffers, align) > capacity:
        return Fit(Verdict.IMPOSSIBLE, None)
    best = greedy(buffers, align, capacity)
    if best.height <= capacity:
        return Fit(Verdict.FITS, best)
    request = _Request(buffers, align)
    outcome = request.search(capacity, limit)
    if outcome.verdict is not Verdict.FITS:
        return Fit(outcome.verdict, None)
    return Fit(Verdict.FITS, request.allocation(outcome, best.bound))


def greedy(buffers: Sequence[Buffer], align: int, enough: int = 0) -> Allocation:
    """The lowest result of the greedy orders, or the first that is as low as `enough` bytes."""
    results = []
    for result in greedy_results(buffers, align):
        results.append(result)
        if result.height <= max(enough, result.bound):
            break
    return min(results, key=lambda result: result.height)


def greedy_results(buffers: Sequence[Buffer], align: int) -> Iterator[Allocation]:
    """The allocation of each greedy order."""
    live = _live_at_starts(buffers, align)
    bound = max(live.values(), default=0)
    for method, order in _orders(buffers, live):
        offsets = _best_fit(order, align)
        height = max((offsets[b.name] + align_up(b.size, align) for b in buffers), default=0)
        yield Allocation(offsets, height, bound, height == bound, method)


class _Request:
    """Buffers in the terms of the search, in an order that does not depend on the request's."""

    def __init__(self, buffers: Sequence[Buffer], align: int) -> None:
        order = sorted(buffers, key=lambda b: (b.first, b.last, b.size, b.name))
        self.buffers = [buffer for buffer in order if buffer.size]
        self.empty = [buffer.name for buffer in order if not buffer.size]
        self.sizes = [align_up(buffer.size, align) for buffer in self.buffers]
        # Imported now: the search needs numpy, and hardly any model needs the search.
        from memory_planner.sections import make_problem

        self.problem = make_problem(self.sizes, [(b.first, b.last) for b in self.buffers])

    def search(self, capacity: int, limit: int) -> Outcome:
        """Offsets within `capacity` bytes."""
        from memory_planner.search import search

        return search(self.problem, capacity // self.problem.unit, limit)

    def allocation(self, outcome: Outcome, bound: int) -> Allocation:
        """What the search found."""
        offsets = dict.fromkeys(self.empty, 0)
        height = 0
        for buffer, size, units in zip(self.buffers, self.sizes, outcome.offsets, strict=True):
            offsets[buffer.name] = units * self.problem.unit
            height = max(height, offsets[buffer.name] + size)
        return Allocation(offsets, height, bound, height == bound, "search")


def _lowered(buffers: Sequence[Buffer], align: int, best: Allocation, limit: int) -> Allocation:
    """The lowest allocation that searches at several capacities find.

    First at the bound, then halfway between the highest capacity without a result and the lowest
    with one. Each may visit an eighth of the limit; while some is left, this is repeated with
    twice as much each.
    """
    request = _Request(buffers, align)
    unit = request.problem.unit
    floor = best.bound  # nothing lower exists
    left, share = limit, max(1, limit // 8)
    while floor < best.height and left:
        failed, capacity = floor - unit, floor
        while capacity < best.height and left:
            outcome = request.search(capacity, min(share, left))
            left -= outcome.nodes
            if outcome.verdict is Verdict.FITS:
                best = request.allocation(outcome, best.bound)
            else:
                failed = capacity
            if outcome.verdict is Verdict.IMPOSSIBLE:
                floor = capacity + unit
            capacity = failed + max(unit, (best.height - failed) // 2 // unit * unit)
        share *= 2
    return replace(best, proven=floor >= best.height)


def live_sizes(buffers: Sequence[Buffer], align: int) -> list[int]:
    """Live bytes at each time, sizes rounded up to the alignment."""
    sizes = [0] * max((buffer.last for buffer in buffers), default=0)
    for buffer in buffers:
        for time in range(buffer.first, buffer.last):
            sizes[time] += align_up(buffer.size, align)
    return sizes


def peak_time(buffers: Sequence[Buffer], align: int) -> int:
    """The earliest time at which most bytes are live; 0 without buffers."""
    sizes = live_sizes(buffers, align)
    return sizes.index(max(sizes)) if sizes else 0


def _live_at_starts(buffers: Sequence[Buffer], align: int) -> dict[int, int]:
    """Live bytes at each time at which a buffer starts, in order; nowhere are there more."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        size = align_up(buffer.size, align)
        changes[buffer.first] = changes.get(buffer.first, 0) + size
        changes[buffer.last] = changes.get(buffer.last, 0) - size
    times = sorted(changes)
    live = dict(zip(times, accumulate(changes[time] for time in times), strict=True))
    starts = {buffer.first for buffer in buffers}
    return {time: size for time, size in live.items() if time in starts}


def _fullest(buffers: Sequence[Buffer], align: int) -> int:
    return max(_live_at_starts(buffers, align).values(), default=0)


def _orders(
    buffers: Sequence[Buffer], live: Mapping[int, int]
) -> Iterator[tuple[str, list[Buffer]]]:
    """Orders by name; ties are broken by start and name. `live`: bytes by time."""
    breadths: dict[tuple[int, int], int] = {}

    def breadth(buffer: Buffer) -> int:
        span = buffer.first, buffer.last
        if span not in breadths:
            breadths[span] = max(n for time, n in live.items() if span[0] <= time < span[1])
        return breadths[span]

    def duration(buffer: Buffer) -> int:
        return buffer.last - buffer.first

    keys: dict[str, Callable[[Buffer], tuple[int, ...]]] = {
        "size": lambda b: (-b.size, -duration(b)),
        "area": lambda b: (-b.size * duration(b), -b.size),
        "duration": lambda b: (-duration(b), -b.size),
        "fullest, size": lambda b: (-breadth(b), -b.size),
        "fullest, duration": lambda b: (-breadth(b), -duration(b), -b.size),
    }
    ordered = sorted(buffers, key=lambda b: (b.first, b.name))
    for name, key in keys.items():
        yield name, sorted(ordered, key=key)


def _best_fit(order: Sequence[Buffer], align: int) -> dict[str, int]:
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; in order
    for buffer in order:
        taken = [
            (low, high)
            for low, high, first, last in placed
            if first < buffer.last and buffer.first < last
        ]
        size = align_up(buffer.size, align)
        offset = offsets[buffer.name] = _smallest_gap(taken, size)
        insort(placed, (offset, offset + size, buffer.first, buffer.last))
    return offsets


def _smallest_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap of at least `size` between taken ranges, or their common end."""
    gaps = []
    end = 0
    for low, high in taken:
        if low - end >= size:
            gaps.append((low - end, end))
        end = max(end, high)
    return min(gaps)[1] if gaps else end
