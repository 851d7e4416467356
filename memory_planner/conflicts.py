"""Which buffers cannot be in one memory together: a set from which none can be left out.

Usually some moment has too much: then its largest buffers that exceed the capacity are the set, at
the moment where fewest do. Else it takes the search to show that no arrangement exists, and the
set is what remains when buffers are left out one by one while that stays so (deletion filter;
Chinneck and Dravnieks, "Locating Minimal Infeasible Constraint Sets in Linear Programs", 1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_planner.allocate import SEARCH_LIMIT, Buffer, fit
from memory_planner.target import align_up
from memory_planner.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Conflict:
    """Buffers that no arrangement fits into the capacity, largest first."""

    buffers: tuple[Buffer, ...]
    time: int | None  # a moment at which all are live; None: no moment has too much
    irreducible: bool  # proven that the others fit whichever one is left out


def find_conflict(
    buffers: Sequence[Buffer], align: int, capacity: int, limit: int = SEARCH_LIMIT
) -> Conflict | None:
    """An irreducible set of `buffers` that do not fit; None when they fit or may fit.

    `limit` is that of each search. If one of them reaches it, the set may hold too much.
    """
    crowd = _smallest_crowd(buffers, align, capacity)
    if crowd:
        return crowd
    if fit(buffers, align, capacity, limit).verdict is not Verdict.IMPOSSIBLE:
        return None
    kept = _largest_first(buffers)
    irreducible = True
    for buffer in reversed(tuple(kept)):
        others = [other for other in kept if other is not buffer]
        verdict = fit(others, align, capacity, limit).verdict
        if verdict is Verdict.IMPOSSIBLE:
            kept = others
        irreducible &= verdict is not Verdict.UNDECIDED
    return Conflict(tuple(kept), None, irreducible)


def _smallest_crowd(buffers: Sequence[Buffer], align: int, capacity: int) -> Conflict | None:
    """The fewest buffers that exceed the capacity at one moment; of equal ones the most bytes."""
    crowds = []
    ordered = _largest_first(buffers)
    for time in sorted({buffer.first for buffer in buffers}):
        size = 0
        crowd = []
        for buffer in ordered:
            if size <= capacity and buffer.first <= time < buffer.last:
                size += align_up(buffer.size, align)
                crowd.append(buffer)
        if size > capacity:
            crowds.append((len(crowd), -size, time, tuple(crowd)))
    if not crowds:
        return None
    _, _, time, members = min(crowds, key=lambda crowd: crowd[:3])
    return Conflict(members, time, irreducible=True)


def _largest_first(buffers: Sequence[Buffer]) -> list[Buffer]:
    return sorted(buffers, key=lambda buffer: (-buffer.size, buffer.name))
