"""Whether tensors have room in two regions, exactly: a subset sum over one of them.

Sums are the set bits of one large integer, so that 200 tensors in 4 MiB take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence


def split(sizes: Sequence[int], first: int, second: int, unit: int) -> list[bool] | None:
    """Which items go to the first of two bins of `first` and `second` bytes; None: no way.

    Of all ways, one that fills the first bin most. Sizes are multiples of `unit`.
    """
    most, total = first // unit, sum(sizes) // unit
    if first < 0 or second < 0 or total * unit > first + second:
        return None
    mask = (1 << most + 1) - 1
    reached = [1]  # bit n: the items so far have a subset of n units
    for size in sizes:
        reached.append((reached[-1] | reached[-1] << size // unit) & mask)
    left = reached[-1].bit_length() - 1
    if (total - left) * unit > second:
        return None
    chosen = [False] * len(sizes)
    for index in reversed(range(len(sizes))):
        if not reached[index] >> left & 1:
            chosen[index] = True
            left -= sizes[index] // unit
    return chosen
