"""Which layout a matrix for the cores gets, dense or N:M sparse, and the bytes of any layout."""

from __future__ import annotations

from collections.abc import Iterable

from toolchain.model.engine_packing import EngineLayout, pack_engine
from toolchain.model.nm_pattern import Pattern
from toolchain.model.packing import (
    WeightInts,
    WeightLayout,
    pack_weights,
    unpack_records,
)
from toolchain.model.program import Layout
from toolchain.model.requant_table import RequantLayout, pack_requant_table
from toolchain.model.sparse_packing import SparseLayout, pack_sparse, unpack_sparse_records


def sparse_layout(dense: WeightLayout, pattern: Pattern) -> SparseLayout:
    """The matrix of `dense` in the packing nm-sparse, whether or not that pays."""
    return SparseLayout(
        dense.packing, dense.rows, dense.columns, dense.group_size, dense.requant, pattern=pattern
    )


def smallest_layout(dense: WeightLayout, patterns: Iterable[Pattern]) -> WeightLayout:
    """The smallest storage of a matrix in which `patterns` hold; dense unless one saves bytes.

    Of equal sizes the first pattern counts.
    """
    paying = [layout for p in patterns if (layout := sparse_layout(dense, p)).pays]
    return min(paying, key=lambda layout: layout.size, default=dense)


def packing_name(layout: Layout) -> str:
    """The packing as reports name it: "nibble", or "nm-sparse 2:4 nibble" with the stored bits."""
    if isinstance(layout, SparseLayout):
        return f"{layout.format.value} {layout.pattern} {layout.packing.value}"
    return layout.format.value


def pack_matrix(weights: WeightInts, layout: Layout) -> bytes:
    """Bytes of a matrix; raises ValueError as the packer of the layout does."""
    if isinstance(layout, EngineLayout):
        return pack_engine(weights, layout)
    if isinstance(layout, RequantLayout):
        return pack_requant_table(weights, layout)
    if isinstance(layout, SparseLayout):
        return pack_sparse(weights, layout)
    return pack_weights(weights, layout)


def unpack_matrix_records(data: bytes | memoryview, layout: WeightLayout, rows: int) -> WeightInts:
    """The first `rows` rows of whole records: the inverse of `pack_matrix`."""
    if isinstance(layout, SparseLayout):
        return unpack_sparse_records(data, layout, rows)
    return unpack_records(data, layout, rows)


def unpack_matrix(data: bytes | memoryview, layout: WeightLayout) -> WeightInts:
    """All rows of a tensor; raises ValueError when the length is not `layout.size`."""
    if len(data) != layout.size:
        raise ValueError(f"packed tensor has {len(data)} bytes, its layout {layout.size}")
    return unpack_matrix_records(data, layout, layout.rows)
