"""The packing nm-sparse: only the weights that an N:M pattern keeps, and which ones they are.

Other than in the dense packings (packing.py) rows are not interleaved, because every row keeps
other columns. A *record* is everything about R = 32 / f consecutive rows, f the stored bits of a
weight (2, 4 or 8, as in the dense packings):

    requant      R x u32   multiplier << 16 | (exponent & 0xFFFF), only when `requant` is set
    R rows, each of `row_size` bytes:
      multipliers  G x u8  one per scale group, only when there is more than one
      index        per whole group of M inputs, in order, the cheapest of (Pattern.index_form)
                     kept      positions of the K = M - N kept weights, ascending, log2 M bits each
                     removed   position of the removed weight, log2 M bits; N = 1 only
                     bitmask   M bits, bit c for input c of the group, 1 for a kept weight
      weights      f bits each, two's complement: the K kept weights of every group by ascending
                   position, but with the index form `removed` the last one of the group stands in
                   the place of the removed one; then all inputs behind the last whole group

Index and weights of a row are strings of bits: bit n of a string is bit n % 8 of its byte n / 8.
Each string ends with zero bits up to a whole byte. A group with more than N zeros keeps the first
of them as explicit zeros, so that exactly K weights are stored. Rows that fill up the last record
are rows of zeros with zero multipliers and requantization words.

Kernels read units of UNIT = 16 inputs, so scale groups must be whole units unless there is only
one. A tensor is ceil(rows / R) records back to back; any run of records is one DMA transfer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolchain.model.lazy_numpy import np
from toolchain.model.nm_pattern import IndexForm, Pattern
from toolchain.model.packing import Packing, WeightInts, WeightLayout

UNIT = 16  # inputs: the least common multiple of all M

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SparseLayout(WeightLayout):
    """Everything that fixes the bytes of a sparse matrix except its values and their columns.

    `packing` is the dense packing with the same stored bits and rows per record.
    """

    pattern: Pattern = field(kw_only=True)

    @property
    def format(self) -> Packing:
        """How the bytes are arranged."""
        return Packing.NM_SPARSE

    @property
    def whole_groups(self) -> int:
        """Groups of M inputs per row."""
        return self.pattern.groups_of(self.columns)

    @property
    def kept(self) -> int:
        """Weights stored per row."""
        return self.pattern.kept_of(self.columns)

    @property
    def index_size(self) -> int:
        """Bytes of one row's index."""
        return -(-self.whole_groups * self.pattern.index_bits // 8)

    @property
    def weights_size(self) -> int:
        """Bytes of one row's weights."""
        return -(-self.kept * self.packing.field_bits // 8)

    @property
    def row_size(self) -> int:
        """Bytes of one row."""
        multipliers = self.groups if self.groups > 1 else 0
        return multipliers + self.index_size + self.weights_size

    @property
    def record_size(self) -> int:
        """Bytes of one record, a multiple of 4."""
        lanes = self.packing.rows
        requant = 4 * lanes if self.requant else 0
        return requant + lanes * self.row_size  # R is a multiple of 4

    @property
    def scale_size(self) -> int:
        """The part of `size` that holds requantization words and multipliers."""
        per_row = (4 if self.requant else 0) + (self.groups if self.groups > 1 else 0)
        return self.records * self.packing.rows * per_row

    @property
    def saved_bits(self) -> int:
        """Bits that a group saves against dense storage; zero or less does not pay."""
        pattern = self.pattern
        return pattern.removed * self.packing.field_bits - pattern.index_bits

    @property
    def dense(self) -> WeightLayout:
        """The same matrix with its zeros."""
        return WeightLayout(self.packing, self.rows, self.columns, self.group_size, self.requant)

    @property
    def is_possible(self) -> bool:
        """Whether kernels can read it: no unit crosses a border of scale groups."""
        return self.groups == 1 or self.group_size % UNIT == 0

    @property
    def pays(self) -> bool:
        """Whether it is possible and takes fewer bytes than dense storage."""
        return self.is_possible and self.size < self.dense.size


def pack_sparse(weights: WeightInts, layout: SparseLayout) -> bytes:
    """Bytes of `weights` as the module docstring lays them out; `len` equals `layout.size`.

    Raises ValueError when a group has fewer zeros than the pattern, a value does not fit its
    field, or a shape disagrees with the layout.
    """
    half = 1 << (layout.packing.field_bits - 1)
    if weights.values.shape != (layout.rows, layout.columns):
        raise ValueError(f"values {weights.values.shape} disagree with {layout}")
    if weights.multipliers.shape != (layout.rows, layout.groups):
        raise ValueError(f"multipliers {weights.multipliers.shape} disagree with {layout}")
    if weights.values.min(initial=0) < -half or weights.values.max(initial=0) >= half:
        raise ValueError(f"values exceed {layout.packing.field_bits} stored bits")
    lanes = layout.packing.rows
    padding = layout.records * lanes - layout.rows
    values = np.pad(weights.values.astype(np.int64), ((0, padding), (0, 0)))
    rows = _pack_rows(values, layout)
    if layout.groups > 1:
        rows = np.concatenate([np.pad(weights.multipliers, ((0, padding), (0, 0))), rows], axis=1)
    body = rows.reshape(layout.records, lanes * layout.row_size)
    if layout.requant:
        words = np.pad(weights.requant, (0, padding)).reshape(layout.records, lanes)
        return np.concatenate([words.astype("<u4").view(np.uint8), body], axis=1).tobytes()
    return body.tobytes()


def unpack_sparse_records(data: bytes | memoryview, layout: SparseLayout, rows: int) -> WeightInts:
    """The first `rows` rows of whole records in `data`: the inverse of `pack_sparse`.

    Raises ValueError for bytes that the packer does not write: an index that is not ascending or
    has another count than the pattern, or last bits of a row that are not zero.
    """
    lanes = layout.packing.rows
    raw = np.frombuffer(data, np.uint8).reshape(-1, layout.record_size)
    records, position = raw.shape[0], 0
    requant = np.zeros(records * lanes, np.uint32)
    if layout.requant:
        position = 4 * lanes
        requant = np.ascontiguousarray(raw[:, :position]).view("<u4").reshape(-1)
    stored = raw[:, position:].reshape(records * lanes, layout.row_size)
    split = layout.groups if layout.groups > 1 else 0
    multipliers = stored[:, :split] if split else np.ones((records * lanes, 1), np.uint8)
    values = _unpack_rows(stored[:, split:], layout)
    return WeightInts(values[:rows], multipliers[:rows], requant[:rows])


def _pack_rows(values: Ints, layout: SparseLayout) -> Bytes:
    """Index and weights of every row."""
    pattern, whole = layout.pattern, layout.whole_groups * layout.pattern.group
    groups = values[:, :whole].reshape(len(values), layout.whole_groups, pattern.group)
    order = np.argsort(groups == 0, axis=2, kind="stable")  # those that are not zero come first
    kept = np.sort(order[:, :, : pattern.kept], axis=2)
    removed = np.sort(order[:, :, pattern.kept :], axis=2)
    if np.take_along_axis(groups, removed, axis=2).any():
        raise ValueError(f"a group has fewer zeros than {pattern}")
    if pattern.index_form is IndexForm.BITMASK:
        mask = np.zeros(groups.shape, np.int64)
        np.put_along_axis(mask, kept, 1, axis=2)
        index = _bytes_of(mask, 1)
    else:
        positions = kept if pattern.index_form is IndexForm.KEPT else removed
        index = _bytes_of(positions, pattern.position_bits)
    if pattern.index_form is IndexForm.REMOVED:
        kept = _filled(removed, pattern)
    taken = np.take_along_axis(groups, kept, axis=2)
    taken = taken.reshape(len(values), layout.whole_groups * pattern.kept)
    fields = np.concatenate([taken, values[:, whole:]], axis=1)
    return np.concatenate([index, _bytes_of(fields, layout.packing.field_bits)], axis=1)


def _unpack_rows(stored: Bytes, layout: SparseLayout) -> npt.NDArray[np.int8]:
    pattern, whole = layout.pattern, layout.whole_groups * layout.pattern.group
    bits = layout.packing.field_bits
    shape = (len(stored), layout.whole_groups)
    kept = _kept_positions(stored[:, : layout.index_size], shape, pattern)
    fields = _fields_of(stored[:, layout.index_size :], layout.kept, bits)
    fields = ((fields ^ (1 << (bits - 1))) - (1 << (bits - 1))).astype(np.int8)
    stop = layout.whole_groups * pattern.kept
    values = np.zeros((*shape, pattern.group), np.int8)
    np.put_along_axis(values, kept, fields[:, :stop].reshape(*shape, pattern.kept), axis=2)
    return np.concatenate([values.reshape(len(stored), whole), fields[:, stop:]], axis=1)


def _kept_positions(index: Bytes, shape: tuple[int, int], pattern: Pattern) -> Ints:
    """Positions of the kept weights as stored, (rows, groups, K)."""
    if pattern.index_form is IndexForm.BITMASK:
        mask = _fields_of(index, shape[1] * pattern.group, 1).reshape(*shape, pattern.group)
        if (mask.sum(axis=2) != pattern.kept).any():
            raise ValueError(f"a bitmask does not keep {pattern.kept} of {pattern.group}")
        return np.argsort(1 - mask, axis=2, kind="stable")[:, :, : pattern.kept]
    is_kept = pattern.index_form is IndexForm.KEPT
    count = pattern.kept if is_kept else pattern.removed
    fields = _fields_of(index, shape[1] * count, pattern.position_bits)
    positions = fields.reshape(*shape, count)
    if (np.diff(positions, axis=2) <= 0).any():
        raise ValueError("the positions of a group are not in ascending order")
    if is_kept:
        return positions
    return _filled(positions, pattern)


def _filled(holes: Ints, pattern: Pattern) -> Ints:
    """Positions of the kept weights as stored: the last one has the place of the hole."""
    places = np.arange(pattern.kept)
    return np.where(places == holes, pattern.kept, places)


def _bytes_of(fields: Ints, bits: int) -> Bytes:
    """The low `bits` bits of all fields of each row as a string of bits, in whole bytes."""
    flat = fields.reshape(len(fields), int(np.prod(fields.shape[1:])))
    split = (flat[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(
        split.reshape(len(fields), flat.shape[1] * bits).astype(np.uint8), axis=1, bitorder="little"
    )


def _fields_of(data: Bytes, count: int, bits: int) -> Ints:
    """The inverse of `_bytes_of`, (rows, count)."""
    split = np.unpackbits(np.ascontiguousarray(data), axis=1, bitorder="little")
    if split[:, count * bits :].any():
        raise ValueError("the last bits of a row are not zero")
    fields = split[:, : count * bits].reshape(len(data), count, bits).astype(np.int64)
    result: Ints = (fields << np.arange(bits)).sum(axis=2)
    return result
