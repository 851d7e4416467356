"""The table beside an engine's words, by hand and inverted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import Packing, WeightInts
from toolchain.model.requant_table import (
    RequantLayout,
    pack_requant_table,
    requant_layout,
    unpack_requant_table,
)


def test_record_by_hand() -> None:
    """Five rows, two groups, a tail of one column: the second record is mostly padding."""
    layout = requant_layout(EngineLayout(Packing.NEUREKA_3X3, 5, 4, 8, 2, tail=1))
    assert layout == RequantLayout(5, 2, 1)
    values = np.array([[0, 0, 0, w] for w in (-128, -1, 0, 127, 5)], np.int8)
    multipliers = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 255]], np.uint8)
    requant = np.array([0x8001FFFF, 0xC0000010, 1, 2, 3], np.uint32)
    expected = bytes.fromhex(
        "ffff0180 100000c0 01000000 02000000  01030507 02040608  007f80ff"
        "03000000 00000000 00000000 00000000  09000000 ff000000  85808080"
    )
    data = pack_requant_table(WeightInts(values, multipliers, requant), layout)
    assert layout.record_size == 28
    assert data == expected
    assert layout.packing is Packing.REQUANT_TABLE


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 6), st.integers(0, 99))
def test_unpack_inverts_pack(rows: int, groups: int, tail: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = RequantLayout(rows, groups, tail)
    values = rng.integers(-128, 128, (rows, tail + 7)).astype(np.int8)
    multipliers = rng.integers(1, 256, (rows, groups)).astype(np.uint8)
    multipliers = multipliers if groups > 1 else np.ones_like(multipliers)
    requant = rng.integers(0, 2**32, rows, dtype=np.uint32)
    data = pack_requant_table(WeightInts(values, multipliers, requant), layout)
    assert len(data) == layout.size
    back = unpack_requant_table(data, layout)
    assert (back.values == values[:, 7:]).all()
    assert (back.multipliers == multipliers).all()
    assert (back.requant == requant).all()


def test_what_disagrees_is_refused() -> None:
    weights = WeightInts(np.zeros((1, 2), np.int8), np.ones((1, 1), np.uint8), np.zeros(1, "u4"))
    with pytest.raises(ValueError, match="disagree"):
        pack_requant_table(weights, RequantLayout(1, 2, 0))
    with pytest.raises(ValueError, match="no tail of 3"):
        pack_requant_table(weights, RequantLayout(1, 1, 3))
    with pytest.raises(ValueError, match="table has"):
        unpack_requant_table(b"", RequantLayout(1, 1, 0))
