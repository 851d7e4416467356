"""Packed bytes against words computed by hand, and the inverse on everything small."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.model.matrix_storage import unpack_matrix
from toolchain.model.packing import (
    CORE_PACKINGS,
    Packing,
    WeightInts,
    WeightLayout,
    pack_weights,
    packing_for_bits,
    unpack_records,
)


def ints(values: object, multipliers: object, requant: object) -> WeightInts:
    return WeightInts(
        np.array(values, np.int8), np.array(multipliers, np.uint8), np.array(requant, np.uint32)
    )


def test_nibble_record_by_hand() -> None:
    """Two rows, three columns, groups of two: requantization, then multipliers and words."""
    layout = WeightLayout(Packing.NIBBLE, 2, 3, 2)
    weights = ints([[-8, 0, 7], [1, -1, 2]], [[3, 255], [4, 5]], [0x8001FFFF, 0xC0000010])
    expected = bytes.fromhex(
        "ff ff 01 80  10 00 00 c0"
        + "00 00 00 00" * 6  # requantization of rows 0..7
        # group 0: multipliers, columns 0 and 1 of rows 0..3, then of rows 4..7, which are padding
        # and store 8 (= 0 + 8)
        + "03 04 00 00 00 00 00 00  90 88  78 88  88 88  88 88"
        # group 1: multipliers, then column 2 = 7 + 8, 2 + 8
        + "ff 05 00 00 00 00 00 00  af 88  88 88"
    )
    assert layout.record_size == len(expected) == layout.size
    assert pack_weights(weights, layout) == expected


def test_byte_and_crumb_words_by_hand() -> None:
    byte = WeightLayout(Packing.BYTE, 4, 1, 1, requant=False)
    column = ints([[-127], [0], [1], [127]], [[1]] * 4, [0] * 4)
    assert pack_weights(column, byte).hex() == "018081ff"
    crumb = WeightLayout(Packing.CRUMB, 16, 1, 1, requant=False)
    values = [[-2], [-1], [0], [1]] * 4  # fields 0, 1, 2, 3: byte 0b11_10_01_00
    assert pack_weights(ints(values, [[1]] * 16, [0] * 16), crumb).hex() == "e4e4e4e4"


def test_runs_lie_one_behind_the_other() -> None:
    """Two columns of a byte matrix: rows 0 and 1 of both, then rows 2 and 3 of both."""
    layout = WeightLayout(Packing.BYTE, 4, 2, 2, requant=False)
    values = [[-127, 1], [-126, 2], [-125, 3], [-124, 4]]
    data = pack_weights(ints(values, [[1]] * 4, [0] * 4), layout)
    assert data.hex(" ") == "01 02 81 82 03 04 83 84"


@pytest.mark.parametrize("packing", CORE_PACKINGS)
def test_every_field_value_in_every_lane(packing: Packing) -> None:
    half = 1 << (packing.field_bits - 1)
    layout = WeightLayout(packing, packing.rows, 2 * half * packing.rows, 2 * half * packing.rows)
    lanes, columns = np.indices((packing.rows, layout.columns))
    values = ((columns + lanes * 7) % (2 * half) - half).astype(np.int8)
    weights = WeightInts(
        values, np.ones((packing.rows, 1), np.uint8), np.zeros(packing.rows, np.uint32)
    )
    assert (unpack_matrix(pack_weights(weights, layout), layout).values == values).all()


@st.composite
def packed_cases(draw: st.DrawFn) -> tuple[WeightInts, WeightLayout]:
    packing = draw(st.sampled_from(CORE_PACKINGS))
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    layout = WeightLayout(
        packing, rows, columns, draw(st.integers(1, columns)), draw(st.booleans())
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    half = 1 << (packing.field_bits - 1)
    multipliers = rng.integers(1, 256, (rows, layout.groups), dtype=np.uint8)
    return WeightInts(
        rng.integers(-half, half, (rows, columns)).astype(np.int8),
        multipliers if layout.groups > 1 else np.ones_like(multipliers),
        rng.integers(0, 2**32, rows, dtype=np.uint32) * np.uint32(layout.requant),
    ), layout


@given(packed_cases())
def test_unpack_inverts_pack(case: tuple[WeightInts, WeightLayout]) -> None:
    weights, layout = case
    data = pack_weights(weights, layout)
    assert len(data) == layout.size
    back = unpack_matrix(data, layout)
    assert (back.values == weights.values).all()
    assert (back.multipliers == weights.multipliers).all()
    assert (back.requant == weights.requant).all()


@given(packed_cases())
def test_a_run_of_records_decodes_by_itself(case: tuple[WeightInts, WeightLayout]) -> None:
    weights, layout = case
    first = layout.records // 2
    tail = pack_weights(weights, layout)[first * layout.record_size :]
    rows = layout.rows - first * layout.packing.rows
    back = unpack_records(tail, layout, rows)
    assert (back.values == weights.values[layout.rows - rows :]).all()


def test_what_does_not_fit_is_refused() -> None:
    layout = WeightLayout(Packing.NIBBLE, 1, 1, 1)
    with pytest.raises(ValueError, match="4 stored bits"):
        pack_weights(ints([[8]], [[1]], [0]), layout)
    with pytest.raises(ValueError, match="disagree"):
        pack_weights(ints([[1, 2]], [[1]], [0]), layout)
    with pytest.raises(ValueError, match="packed tensor has"):
        unpack_matrix(b"", layout)
    with pytest.raises(ValueError, match=r"2\.\.8"):
        packing_for_bits(9)


def test_bits_choose_the_narrowest_field() -> None:
    chosen = [packing_for_bits(bits).field_bits for bits in range(2, 9)]
    assert chosen == [2, 4, 4, 8, 8, 8, 8]
