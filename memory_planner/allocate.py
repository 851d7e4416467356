"""Offsets for buffers with lifetimes: the best of several greedy orders, checked against a bound.

Static allocation of buffers with known lifetimes to one address range, as TensorFlow Lite does it
(Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020): buffers in
a fixed order, each into the smallest gap that holds it among the buffers alive at the same time.
No height can be below the fullest moment, so an order that reaches it is optimal and ends the
search. Sizes and offsets are multiples of the alignment; results depend on the input alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memory_planner.target import align_up


@dataclass(frozen=True, slots=True)
class Buffer:
    """A request: `size` bytes during [first, last), which is not empty."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Offsets by name; `height` is the end of the highest buffer, `bound` a proven minimum."""

    offsets: Mapping[str, int]
    height: int
    bound: int


def allocate(buffers: Sequence[Buffer], align: int) -> Allocation:
    """Offsets of all buffers, the lowest height that the greedy orders find."""
    bound = max(live_sizes(buffers, align), default=0)
    best: Allocation | None = None
    for order in _orders(buffers, align):
        offsets = _best_fit(order, align)
        height = max((offsets[b.name] + align_up(b.size, align) for b in buffers), default=0)
        if best is None or height < best.height:
            best = Allocation(offsets, height, bound)
        if height == bound:
            break
    assert best is not None
    return best


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


def _orders(buffers: Sequence[Buffer], align: int) -> list[list[Buffer]]:
    """Each order is tried once; ties are broken by start and name."""
    live = live_sizes(buffers, align)

    def breadth(buffer: Buffer) -> int:
        return max(live[buffer.first : buffer.last])

    def duration(buffer: Buffer) -> int:
        return buffer.last - buffer.first

    keys: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
        lambda b: (b.size, duration(b)),
        lambda b: (b.size * duration(b), b.size),
        lambda b: (duration(b), b.size),
        lambda b: (breadth(b), b.size),
        lambda b: (breadth(b), duration(b), b.size),
    )
    return [
        sorted(buffers, key=lambda b: (*(-part for part in key(b)), b.first, b.name))
        for key in keys
    ]


def _best_fit(order: Sequence[Buffer], align: int) -> dict[str, int]:
    offsets: dict[str, int] = {}
    for index, buffer in enumerate(order):
        taken = sorted(
            (offsets[other.name], offsets[other.name] + align_up(other.size, align))
            for other in order[:index]
            if other.first < buffer.last and buffer.first < other.last
        )
        offsets[buffer.name] = _smallest_gap(taken, align_up(buffer.size, align))
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
