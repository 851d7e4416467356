"""N:M patterns, and the bytes of a matrix that stores kept weights only. An estimate: no kernel
reads this layout yet.

N of every M consecutive inputs of a row are removed ("1:8" keeps 7 of 8); inputs behind the last
whole group stay. A record (toolchain/model/packing.py) keeps its requantization words and scale
multipliers. Its words hold kept weights only, the k-th of each row of a group side by side. Behind
them comes an index per row and group: a bitmask of M bits, or the positions of the kept or of the
removed weights, whichever is fewest bits; the indices of a record are padded to whole words. A
matrix for which that takes no fewer bytes stays dense, with zeros in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.target import align_up
from toolchain.model.packing import Packing, WeightLayout

LARGEST_GROUP = 64  # M; recipes use 16 at most


@dataclass(frozen=True, slots=True)
class Pattern:
    """`removed` of every `group` consecutive inputs, 1 <= removed < group."""

    removed: int
    group: int

    def __str__(self) -> str:
        return f"{self.removed}:{self.group}"

    @property
    def index_bits(self) -> int:
        """Bits that tell which weights of one group of one row are kept."""
        return min(self.index_forms().values())

    @property
    def index_form(self) -> str:
        """The cheapest way to write that down."""
        forms = self.index_forms()
        return min(forms, key=lambda form: forms[form])

    def index_forms(self) -> dict[str, int]:
        """Bits per group: a bitmask, the positions of the kept or those of the removed weights."""
        position = (self.group - 1).bit_length()
        return {
            "bitmask": self.group,
            "kept": (self.group - self.removed) * position,
            "removed": self.removed * position,
        }

    def saved_bits(self, packing: Packing) -> int:
        """Bits that a group saves against dense storage; zero or less does not pay."""
        return self.removed * packing.field_bits - self.index_bits

    def kept(self, columns: int) -> int:
        """Weights kept in a row of `columns` inputs."""
        return columns - columns // self.group * self.removed


@dataclass(frozen=True, slots=True)
class SparseLayout(WeightLayout):
    """A matrix after N:M pruning, in the cheaper of sparse and dense storage."""

    pattern: Pattern = Pattern(1, 2)

    @property
    def kept(self) -> int:
        """Weights that are not removed."""
        return self.rows * self.pattern.kept(self.columns)

    @property
    def index_record_size(self) -> int:
        """Bytes of the indices of one record, were it stored sparse."""
        bits = self.packing.rows * (self.columns // self.pattern.group) * self.pattern.index_bits
        return align_up(-(-bits // 8), 4)

    @property
    def dense_record_size(self) -> int:
        """Bytes of one record with its zeros."""
        return self._scale_record_size + 4 * self.columns

    @property
    def sparse_record_size(self) -> int:
        """Bytes of one record with kept weights and indices."""
        words = self.pattern.kept(self.columns)
        return self._scale_record_size + 4 * words + self.index_record_size

    @property
    def pays(self) -> bool:
        """Whether sparse storage takes fewer bytes."""
        return self.sparse_record_size < self.dense_record_size

    @property
    def record_size(self) -> int:
        """Bytes of one record as stored, a multiple of 4."""
        return min(self.sparse_record_size, self.dense_record_size)

    @property
    def scale_size(self) -> int:
        """Bytes of requantization words and multipliers."""
        return self.records * self._scale_record_size

    @property
    def _scale_record_size(self) -> int:
        per_group = self.packing.rows if self.groups > 1 else 0
        return (4 * self.packing.rows if self.requant else 0) + self.groups * per_group
