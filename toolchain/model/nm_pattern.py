"""N:M patterns: N of every M consecutive inputs of a row are removed ("1:8" keeps 7 of 8).

Groups are counted from the first input of a row; the inputs behind the last whole group, fewer than
M, belong to no group and all stay. A weight is removed when it is exactly zero. A group may hold
more zeros than N.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from toolchain.model.lazy_numpy import np

if TYPE_CHECKING:
    import numpy.typing as npt


class IndexForm(StrEnum):
    """How the kept weights of a group are told from the removed ones."""

    KEPT = "kept"  # positions of the kept weights, ascending
    REMOVED = "removed"  # positions of the removed weights, ascending
    BITMASK = "bitmask"  # one bit per input, 1 for a kept weight


@dataclass(frozen=True, slots=True)
class Pattern:
    """`removed` of every `group` consecutive inputs, 1 <= removed < group."""

    removed: int
    group: int

    def __str__(self) -> str:
        return f"{self.removed}:{self.group}"

    @property
    def kept(self) -> int:
        """Weights of a group that are stored."""
        return self.group - self.removed

    @property
    def position_bits(self) -> int:
        """Bits of a position within a group."""
        return (self.group - 1).bit_length()

    @property
    def index_form(self) -> IndexForm:
        """The form of fewest bits; of equal ones the first, because kernels read it fastest."""
        bits = self.index_forms()
        return min(bits, key=lambda form: bits[form])

    @property
    def index_bits(self) -> int:
        """Bits that tell which weights of one group are kept."""
        return min(self.index_forms().values())

    def index_forms(self) -> dict[IndexForm, int]:
        """Bits per group of every form."""
        return {
            IndexForm.KEPT: self.kept * self.position_bits,
            IndexForm.REMOVED: self.removed * self.position_bits,
            IndexForm.BITMASK: self.group,
        }

    def groups_of(self, columns: int) -> int:
        """Whole groups in a row of `columns` inputs."""
        return columns // self.group

    def kept_of(self, columns: int) -> int:
        """Weights kept in a row of `columns` inputs."""
        return columns - self.groups_of(columns) * self.removed


# What the packer and the kernels know, in the order in which equals are preferred.
PATTERNS = (
    Pattern(1, 2),
    Pattern(2, 4),
    Pattern(3, 4),
    Pattern(1, 8),
    Pattern(4, 8),
    Pattern(1, 16),
    Pattern(8, 16),
    Pattern(12, 16),
)
PATTERN_NAMES = ", ".join(map(str, PATTERNS))


def parse_pattern(text: str) -> Pattern | None:
    """The pattern that `text` names; None unless it is one of PATTERNS."""
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})", text)
    pattern = Pattern(int(match[1]), int(match[2])) if match else None
    return pattern if pattern in PATTERNS else None


def first_violation(
    weights: npt.NDArray[np.generic], pattern: Pattern
) -> tuple[int, int, int] | None:
    """(row, group, zeros) of the first group of `weights` (n_out, n_in) with fewer than N zeros.

    None when the pattern holds, as it does for rows shorter than a group.
    """
    rows, columns = weights.shape
    groups = pattern.groups_of(columns)
    whole = weights[:, : groups * pattern.group].reshape(rows, groups, pattern.group)
    zeros = pattern.group - np.count_nonzero(whole, axis=2)
    lacking = np.argwhere(zeros < pattern.removed)
    if not len(lacking):
        return None
    row, group = map(int, lacking[0])
    return row, group, int(zeros[row, group])


def pattern_mask(weights: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
    """Where `weights` (n_out, n_in) are not 0, if one of PATTERNS holds in them; else None."""
    if any(p.groups_of(weights.shape[1]) and not first_violation(weights, p) for p in PATTERNS):
        kept: npt.NDArray[np.bool_] = weights != 0
        return kept
    return None
