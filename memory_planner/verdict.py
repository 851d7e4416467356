"""What a search for offsets has shown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What a search has shown."""

    FITS = "fits"
    IMPOSSIBLE = "impossible"  # proven
    UNDECIDED = "undecided"  # the limit was reached


@dataclass(frozen=True, slots=True)
class Outcome:
    """`offsets`, by buffer and in units of the problem, are empty unless it fits."""

    verdict: Verdict
    offsets: tuple[int, ...]
    nodes: int  # visited states
