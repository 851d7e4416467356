"""The one place that knows how weight integers become bytes, and how many bytes they take.

Rows (output channels) are interleaved: a 16-bit little-endian half-word holds the same column of
H = 16 / field_bits consecutive rows, a *run*. So one activation feeds H sums without masks, and two
neighbours of a run multiply two activations at once (see docs/packing.md for the arithmetic). A
*record* is everything about R = 2 H rows:

    requant      R x u32     multiplier << 16 | (exponent & 0xFFFF), only when `requant` is set
    per group g:
      multipliers  R x u8    only when there is more than one group
      2 runs       each len(g) x u16: column k of run s is the sum over its rows j of
                   (w[s * H + j, k] + 2^(field_bits-1)) << (field_bits * j)

A tensor is ceil(rows / R) records back to back; rows that pad the last record are zero weights
with zero multipliers. Any whole number of records is contiguous, hence one DMA transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from toolchain.model.lazy_numpy import np

if TYPE_CHECKING:
    import numpy.typing as npt


class Packing(Enum):
    """Storage of one weight; the value is the name in plans, blobs and reports."""

    CRUMB = "crumb"  # 2-bit fields, 8 rows per half-word: weights of 2 bits
    NIBBLE = "nibble"  # 4-bit fields, 4 rows per half-word: weights of 3 and 4 bits
    BYTE = "byte"  # 8-bit fields, 2 rows per half-word: weights of 5 to 8 bits
    NM_SPARSE = "nm-sparse"  # kept weights of N:M patterns, row by row (sparse_packing.py)
    NEUREKA_3X3 = "neureka-3x3"  # 32-byte words of one bit of 9 x 28 inputs (engine_packing.py)
    NEUREKA_1X1 = "neureka-1x1"  # 32-byte words of eight bits of 32 inputs (engine_packing.py)
    REQUANT_TABLE = "requant-table"  # what cores need beside an engine's words (requant_table.py)

    @cached_property
    def field_bits(self) -> int:
        """Stored bits per weight of a dense packing for cores; others have none (KeyError)."""
        return {"crumb": 2, "nibble": 4, "byte": 8}[self.value]

    @cached_property
    def rows(self) -> int:
        """Rows per record, two runs of them."""
        return 32 // self.field_bits

    @property
    def code(self) -> int:
        """Number of the format in blob headers."""
        return _CODES[self.value]


_CODES = {
    "crumb": 1,
    "nibble": 2,
    "byte": 3,
    "nm-sparse": 4,
    "neureka-3x3": 16,
    "neureka-1x1": 17,
    "requant-table": 18,
}


# What `WeightLayout` stores, for the linear kernels of the cores.
CORE_PACKINGS = (Packing.CRUMB, Packing.NIBBLE, Packing.BYTE)


def packing_for_bits(bits: int) -> Packing:
    """The narrowest format that holds integers of `bits` (2..8) bits."""
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be 2..8, got {bits}")
    if bits == 2:
        return Packing.CRUMB
    return Packing.NIBBLE if bits <= 4 else Packing.BYTE


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Everything that fixes the bytes of a packed matrix except its values."""

    packing: Packing
    rows: int  # output channels
    columns: int  # inputs
    group_size: int  # columns per group; `columns` for one group
    requant: bool = True  # records carry the requantization words

    @property
    def format(self) -> Packing:
        """How the bytes are arranged: `packing` itself, unless a subclass stores otherwise."""
        return self.packing

    @property
    def groups(self) -> int:
        """Scale groups per row; the last one may be shorter."""
        return -(-self.columns // self.group_size)

    @property
    def records(self) -> int:
        """Records of the tensor, the last one padded with zero rows."""
        return -(-self.rows // self.packing.rows)

    @property
    def record_size(self) -> int:
        """Bytes of one record, a multiple of 4."""
        per_group = self.packing.rows if self.groups > 1 else 0
        requant = 4 * self.packing.rows if self.requant else 0
        return requant + self.groups * per_group + 4 * self.columns

    @property
    def size(self) -> int:
        """Bytes of the packed tensor."""
        return self.records * self.record_size

    @property
    def scale_size(self) -> int:
        """The part of `size` that holds requantization words and multipliers."""
        return self.size - 4 * self.columns * self.records


@dataclass(frozen=True, slots=True, eq=False)
class WeightInts:
    """The integers of a packed matrix, in logical order."""

    values: npt.NDArray[np.int8]  # (rows, columns)
    multipliers: npt.NDArray[np.uint8]  # (rows, groups)
    requant: npt.NDArray[np.uint32]  # (rows,) multiplier << 16 | exponent, zeros without requant


def group_slices(layout: WeightLayout) -> list[slice]:
    """Column range of each scale group."""
    starts = range(0, layout.columns, layout.group_size)
    return [slice(s, min(s + layout.group_size, layout.columns)) for s in starts]


def pack_weights(weights: WeightInts, layout: WeightLayout) -> bytes:
    """Bytes of `weights` as the module docstring lays them out; `len` equals `layout.size`.

    Raises ValueError when a value does not fit its field or a shape disagrees with the layout.
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
    multipliers = np.pad(weights.multipliers, ((0, padding), (0, 0)))
    requant = np.pad(weights.requant, (0, padding)).reshape(layout.records, lanes)
    shifts = layout.packing.field_bits * np.arange(lanes // 2, dtype=np.uint64)
    fields = (values + half).astype(np.uint64).reshape(layout.records, 2, -1, layout.columns)
    runs = np.bitwise_or.reduce(fields << shifts[:, None], axis=2).astype("<u2")
    parts: list[npt.NDArray[np.uint8]] = []
    if layout.requant:
        parts.append(requant.astype("<u4").view(np.uint8))
    by_group = multipliers.reshape(layout.records, lanes, layout.groups)
    for group, columns in enumerate(group_slices(layout)):
        if layout.groups > 1:
            parts.append(np.ascontiguousarray(by_group[:, :, group]))
        stored = np.ascontiguousarray(runs[:, :, columns])
        parts.append(stored.reshape(layout.records, -1).view(np.uint8))
    return np.concatenate(parts, axis=1).tobytes()


def unpack_records(data: bytes | memoryview, layout: WeightLayout, rows: int) -> WeightInts:
    """The first `rows` rows of whole records in `data`: the inverse of `pack_weights`.

    `data` may be any run of records of the tensor, so that a tile can be decoded by itself.
    """
    lanes = layout.packing.rows
    raw = np.frombuffer(data, np.uint8).reshape(-1, layout.record_size)
    records, position = raw.shape[0], 0
    requant = np.zeros(records * lanes, np.uint32)
    if layout.requant:
        requant = np.ascontiguousarray(raw[:, : 4 * lanes]).view("<u4").reshape(-1)
        position = 4 * lanes
    multipliers = np.ones((records, lanes, layout.groups), np.uint8)
    runs = np.empty((records, 2, layout.columns), np.uint16)
    for group, columns in enumerate(group_slices(layout)):
        if layout.groups > 1:
            multipliers[:, :, group] = raw[:, position : position + lanes]
            position += lanes
        end = position + 4 * (columns.stop - columns.start)
        stored = np.ascontiguousarray(raw[:, position:end]).view("<u2")
        runs[:, :, columns] = stored.reshape(records, 2, -1)
        position = end
    values = _unpack_runs(runs, layout.packing)
    return WeightInts(
        values.reshape(records * lanes, layout.columns)[:rows],
        multipliers.reshape(records * lanes, layout.groups)[:rows],
        requant[:rows],
    )


def _unpack_runs(runs: npt.NDArray[np.uint16], packing: Packing) -> npt.NDArray[np.int8]:
    """Runs (records, 2, columns) -> values (records, 2, rows of a run, columns)."""
    half = 1 << (packing.field_bits - 1)
    shifts = packing.field_bits * np.arange(packing.rows // 2, dtype=np.uint16)
    fields = (runs[:, :, None] >> shifts[:, None]) & np.uint16((1 << packing.field_bits) - 1)
    values: npt.NDArray[np.int8] = (fields.astype(np.int16) - half).astype(np.int8)
    return values
