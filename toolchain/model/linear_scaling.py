"""Elements of linear.shift: what a matrix says of its accumulators and requantization words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from toolchain.model.program import (
    FAST_FACTOR_BITS,
    HEADROOM_AT,
    HEADROOM_BITS,
    NARROW_AT,
    NARROW_BITS,
    Arithmetic,
    fast_drop,
)

MAX_HEADROOM = HEADROOM_BITS  # four bits of linear.shift
MAX_EXPONENT = 255  # eight bits of it
LEAST_AT, MOST_AT = 8, 16


def linear_scaling(
    shift: int, headroom: int, requant: npt.NDArray[np.uint32], narrow: int = 0
) -> int:
    """An element of linear.shift.

    Bits 0..3: the shift of numerics 2; 4..7: bits by which every accumulator may be shifted up
    within 32 bits; 8..15 and 16..23: least and largest exponent of the requantization words, or
    0 and 255 when they exceed these; 24..25: by how many bits fast arithmetic narrows the scale.
    """
    exponents = requant.astype(np.uint32).astype(np.uint16).view(np.int16)
    least, most = int(exponents.min()), int(exponents.max())
    if least < 0 or most > MAX_EXPONENT:
        least, most = 0, MAX_EXPONENT
    return (
        shift | headroom << HEADROOM_AT | least << LEAST_AT | most << MOST_AT | narrow << NARROW_AT
    )


def narrowing(norm: float, scaling: int) -> int:
    """Bits by which fast arithmetic narrows the scale, so that accumulators keep as many more.

    norm: root mean square of the accumulators, in their unit. Of both roundings together the least
    relative error counts; a factor uses half of its range.
    """

    def error(narrow: int) -> float:
        drop = fast_drop(scaling | narrow << NARROW_AT)
        return (2.0**drop / norm if drop else 0.0) ** 2 + 4.0 ** (narrow + 1 - FAST_FACTOR_BITS)

    return min(range(NARROW_BITS + 1), key=error)


def shared_scalings(
    scalings: Mapping[str, int], site_of: Mapping[str, str], arithmetic: Arithmetic
) -> list[int]:
    """The elements by linear, equal for those that read one vector where that changes no result:
    a core that has seen to the rows of one then knows how to round those of the next.

    site_of: the vector that a role reads. A linear's least and largest exponents may be farther
    apart than its words are. Accumulators of precise arithmetic may be said to have a bit less of
    headroom; in fast arithmetic it decides what is rounded.
    """
    apart = 0 if arithmetic is Arithmetic.FAST else 1
    groups: dict[tuple[str, str, int], list[int]] = {}
    keys = {}
    for name, scaling in scalings.items():
        block, role = name.split(".")[0], name.rsplit(".", 1)[-1]
        keys[name] = (block, site_of[role], scaling & ~_SHARED)
        groups.setdefault(keys[name], []).append(scaling)
    return [_shared(scaling, groups[keys[name]], apart) for name, scaling in scalings.items()]


_SHARED = HEADROOM_BITS << HEADROOM_AT | MAX_EXPONENT << LEAST_AT | MAX_EXPONENT << MOST_AT


def _shared(scaling: int, group: list[int], apart: int) -> int:
    headrooms = [each >> HEADROOM_AT & HEADROOM_BITS for each in group]
    if max(headrooms) - min(headrooms) > apart:
        return scaling
    least = min(each >> LEAST_AT & MAX_EXPONENT for each in group)
    most = max(each >> MOST_AT & MAX_EXPONENT for each in group)
    ends = least << LEAST_AT | most << MOST_AT
    return scaling & ~_SHARED | min(headrooms) << HEADROOM_AT | ends
