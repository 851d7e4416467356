"""The table beside an engine's words: what the cores need to finish a linear.

A table is ceil(rows / 4) records back to back; a record is everything about four rows:

    requant      4 x u32   multiplier << 16 | (exponent & 0xFFFF)
    multipliers  per group 4 x u8, only when there is more than one group
    tail         per column left to the cores a u32: byte j is the weight of row j + 128

Rows that fill up the last record have zero words, zero multipliers and zero weights. Any run of
records is contiguous and decodes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.model.engine_packing import EngineLayout
from toolchain.model.lazy_numpy import np
from toolchain.model.packing import Packing, WeightInts

TABLE_ROWS = 4  # rows per record


@dataclass(frozen=True, slots=True)
class RequantLayout:
    """Everything that fixes the bytes of a table except its values."""

    rows: int
    groups: int
    tail: int

    @property
    def format(self) -> Packing:
        """How the bytes are arranged."""
        return Packing.REQUANT_TABLE

    packing = format

    @property
    def columns(self) -> int:
        """Columns whose weights it holds: the tail."""
        return self.tail

    @property
    def records(self) -> int:
        """Records of the table."""
        return -(-self.rows // TABLE_ROWS)

    @property
    def record_size(self) -> int:
        """Bytes of one record, a multiple of 4."""
        multipliers = self.groups if self.groups > 1 else 0
        return TABLE_ROWS * (4 + multipliers + self.tail)

    @property
    def size(self) -> int:
        """Bytes of the table."""
        return self.records * self.record_size


def requant_layout(layout: EngineLayout) -> RequantLayout:
    """The table that goes with an engine linear."""
    return RequantLayout(layout.rows, layout.groups, layout.tail)


def pack_requant_table(weights: WeightInts, layout: RequantLayout) -> bytes:
    """The table of a linear; `len` equals `layout.size`. Of the values only the tail is read.

    Raises ValueError when a shape disagrees with the layout.
    """
    shapes = (weights.values.shape[0], *weights.multipliers.shape, weights.requant.shape[0])
    if shapes != (layout.rows, layout.rows, layout.groups, layout.rows):
        raise ValueError(f"values, multipliers or requant disagree with {layout}")
    if weights.values.shape[1] < layout.tail:
        raise ValueError(f"{weights.values.shape[1]} columns have no tail of {layout.tail}")
    tail = weights.values[:, weights.values.shape[1] - layout.tail :].astype(np.int16) + 128
    padding = layout.records * TABLE_ROWS - layout.rows
    requant = np.pad(weights.requant.astype("<u4"), (0, padding))
    parts = [requant.view(np.uint8).reshape(layout.records, 4 * TABLE_ROWS)]
    fields = [np.pad(tail.astype(np.uint8), ((0, padding), (0, 0)), constant_values=128)]
    if layout.groups > 1:
        fields.insert(0, np.pad(weights.multipliers, ((0, padding), (0, 0))))
    for field in fields:  # (rows, n) -> per record n times four rows
        quads = field.reshape(layout.records, TABLE_ROWS, field.shape[1]).transpose(0, 2, 1)
        parts.append(quads.reshape(layout.records, TABLE_ROWS * field.shape[1]))
    return np.concatenate(parts, axis=1).tobytes()


def unpack_requant_table(data: bytes | memoryview, layout: RequantLayout) -> WeightInts:
    """The inverse of `pack_requant_table`; `values` has the columns of the tail alone.

    Raises ValueError when the length is not `layout.size`.
    """
    if len(data) != layout.size:
        raise ValueError(f"requantization table has {len(data)} bytes, its layout {layout.size}")
    raw = np.frombuffer(data, np.uint8).reshape(layout.records, layout.record_size)
    requant = np.ascontiguousarray(raw[:, : 4 * TABLE_ROWS]).view("<u4").reshape(-1)
    width = layout.record_size // TABLE_ROWS - 4  # multipliers and weights of one row
    quads = raw[:, 4 * TABLE_ROWS :].reshape(layout.records, width, TABLE_ROWS)
    fields = quads.transpose(0, 2, 1).reshape(layout.records * TABLE_ROWS, width)[: layout.rows]
    split = layout.groups if layout.groups > 1 else 0
    multipliers = fields[:, :split] if split else np.ones((layout.rows, 1), np.uint8)
    tail = (fields[:, split:].astype(np.int16) - 128).astype(np.int8)
    return WeightInts(tail, multipliers, requant[: layout.rows].astype(np.uint32))
