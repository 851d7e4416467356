"""An allocation problem in the terms of the exact search: buffers over sections of time.

Time is compressed to sections: stretches during which the same buffers are live. Only sections
whose live set no other section contains are kept, because what fits in them fits everywhere, and
two buffers are live together exactly when they share a kept one. Sizes are divided by their
greatest common divisor; capacities and offsets of a `Problem` count in that unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Problem:
    """Buffers by index; `spans` are half-open intervals of sections."""

    unit: int  # bytes
    sizes: tuple[int, ...]  # in units, at least 1
    durations: tuple[int, ...]  # in the time of the request
    spans: tuple[tuple[int, int], ...]
    live: NDArray[np.bool_]  # (buffers, sections)
    weights: NDArray[np.int64]  # (buffers, sections); sizes where live
    overlap: NDArray[np.bool_]  # (buffers, buffers); live together, not with itself
    neighbours: tuple[frozenset[int], ...]  # buffers that are live together with this one
    twins: tuple[tuple[int, int], ...]  # neighbouring pairs of the buffers alike in size and span

    def extent(self, items: Sequence[int]) -> tuple[int, int]:
        """The sections from the first start to the last end of `items`, which are not empty."""
        spans = [self.spans[item] for item in items]
        return min(first for first, _ in spans), max(last for _, last in spans)


def make_problem(sizes: Sequence[int], times: Sequence[tuple[int, int]]) -> Problem:
    """The problem of buffers of `sizes` bytes (at least 1) that are live during `times`."""
    unit = gcd(*sizes)
    sections = _maximal_sections(times)
    live = np.zeros((len(sizes), len(sections)), dtype=np.bool_)
    for index, members in enumerate(sections):
        live[list(members), index] = True
    firsts = live.argmax(axis=1)
    lasts = firsts + live.sum(axis=1)
    spans = tuple(zip(firsts.tolist(), lasts.tolist(), strict=True))
    scaled = tuple(size // unit for size in sizes)
    overlap = live.astype(np.int32) @ live.T.astype(np.int32) > 0
    np.fill_diagonal(overlap, False)
    return Problem(
        unit=unit,
        sizes=scaled,
        durations=tuple(last - first for first, last in times),
        spans=spans,
        live=live,
        weights=live * np.asarray(scaled, dtype=np.int64)[:, None],
        overlap=overlap,
        neighbours=tuple(frozenset(np.flatnonzero(row).tolist()) for row in overlap),
        twins=_twins(list(zip(scaled, spans, strict=True))),
    )


def _maximal_sections(times: Sequence[tuple[int, int]]) -> list[frozenset[int]]:
    """Live sets in order of time, without those that another one contains.

    A buffer is live during one interval, so the set of a section can only be contained in others
    if it is contained in a neighbour.
    """
    kept: list[frozenset[int]] = []
    for moment in sorted({first for first, _ in times}):
        members = frozenset(
            index for index, (first, last) in enumerate(times) if first <= moment < last
        )
        while kept and kept[-1] <= members:
            kept.pop()
        kept.append(members)
    return kept


def _twins(shapes: Sequence[tuple[int, tuple[int, int]]]) -> tuple[tuple[int, int], ...]:
    latest: dict[tuple[int, tuple[int, int]], int] = {}
    pairs = []
    for index, shape in enumerate(shapes):
        if shape in latest:
            pairs.append((latest[shape], index))
        latest[shape] = index
    return tuple(pairs)
