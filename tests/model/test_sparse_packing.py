"""nm-sparse: packed bytes against hand-computed ones, the inverse, and what is refused."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.nm_weights import remove
from toolchain.model.matrix_storage import (
    pack_matrix,
    packing_name,
    smallest_layout,
    sparse_layout,
    unpack_matrix,
    unpack_matrix_records,
)
from toolchain.model.nm_pattern import PATTERNS, IndexForm, Pattern, parse_pattern
from toolchain.model.packing import CORE_PACKINGS, Packing, WeightInts, WeightLayout
from toolchain.model.sparse_packing import SparseLayout

ALL = pytest.mark.parametrize("pattern", PATTERNS, ids=str)
INDEX = {  # by hand: kept (M-N) * log2 M, removed N * log2 M, bitmask M
    "1:2": (IndexForm.KEPT, 1),
    "2:4": (IndexForm.KEPT, 4),
    "3:4": (IndexForm.KEPT, 2),
    "1:8": (IndexForm.REMOVED, 3),
    "4:8": (IndexForm.BITMASK, 8),
    "1:16": (IndexForm.REMOVED, 4),
    "8:16": (IndexForm.BITMASK, 16),
    "12:16": (IndexForm.KEPT, 16),
}
# Bits saved per group at 2, 4 and 8 stored bits per weight.
SAVED = {
    "1:2": (1, 3, 7),
    "2:4": (0, 4, 12),
    "3:4": (4, 10, 22),
    "1:8": (-1, 1, 5),
    "4:8": (0, 8, 24),
    "1:16": (-2, 0, 4),
    "8:16": (0, 16, 48),
    "12:16": (8, 32, 80),
}


def ints(values: npt.NDArray[np.int64], groups: int = 1) -> WeightInts:
    """Weights with multipliers and requantization words that differ from row to row."""
    rows = len(values)
    multipliers = np.ones((rows, 1), np.uint8)
    if groups > 1:
        multipliers = (1 + np.arange(rows * groups) % 255).reshape(rows, groups).astype(np.uint8)
    words = np.arange(rows, dtype=np.uint32) * 0x01010101 + 7
    return WeightInts(values.astype(np.int8), multipliers, words)


def round_trip(weights: WeightInts, layout: SparseLayout) -> bytes:
    data = pack_matrix(weights, layout)
    assert len(data) == layout.size
    back = unpack_matrix(data, layout)
    np.testing.assert_array_equal(back.values, weights.values)
    np.testing.assert_array_equal(back.multipliers, weights.multipliers)
    np.testing.assert_array_equal(back.requant, weights.requant)
    return data


@pytest.mark.parametrize("text", INDEX)
def test_the_cheapest_index(text: str) -> None:
    pattern = parse_pattern(text)
    assert pattern in PATTERNS
    assert (pattern.index_form, pattern.index_bits) == INDEX[text]


@pytest.mark.parametrize("text", ["", "2", "2:", "4:2", "0:4", "1:3", "1:32", "2:4 ", "\u0661:2"])
def test_other_patterns_are_unknown(text: str) -> None:
    assert parse_pattern(text) is None


@pytest.mark.parametrize("text", SAVED)
def test_what_pays(text: str) -> None:
    """A group pays when its removed weights have more bits than its index; so does a matrix."""
    pattern = Pattern(*map(int, text.split(":")))
    for packing, saved in zip(CORE_PACKINGS, SAVED[text], strict=True):
        dense = WeightLayout(packing, 64, 256, 32)
        layout = sparse_layout(dense, pattern)
        assert layout.saved_bits == saved
        assert layout.pays == (saved > 0)
        stored = smallest_layout(dense, [pattern])
        assert stored == (layout if saved > 0 else dense)
        # 256 weights per row are 256 / M groups, whole bytes in all these cases
        assert dense.size - layout.size == 64 * 256 // pattern.group * saved / 8


def test_record_by_hand() -> None:
    """The example of docs/packing.md: 2:4, 2 rows of 18 inputs, 4 bits."""
    values = np.array(
        [
            [0, 5, 0, -8, 1, 2, 0, 0, 0, 0, 0, 3, -1, 0, 0, 7, 6, -2],
            [-3, 0, 0, 4, 0, 0, 1, 1, 0, 0, 0, 0, 0, 7, -7, 0, 0, 0],
        ]
    )
    layout = sparse_layout(WeightLayout(Packing.NIBBLE, 2, 18, 18), Pattern(2, 4))
    weights = WeightInts(
        values.astype(np.int8),
        np.ones((2, 1), np.uint8),
        np.array([0x8001FFFF, 0xC0000010], np.uint32),
    )
    assert (layout.row_size, layout.record_size) == (2 + 5, 88)
    data = round_trip(weights, layout)
    assert data[:8].hex() == "ffff0180" + "100000c0"
    assert data[8:32] == bytes(24)
    assert data[32:39].hex() == "4dcc" + "85" + "21" + "30" + "7f" + "e6"
    assert data[39:46].hex() == "ec94" + "4d" + "11" + "00" + "97" + "00"
    # six rows of padding keep the first two inputs of every group: positions 0 and 1 are 0100
    assert data[46:88] == bytes.fromhex("4444" + "0000000000") * 6


def test_holes_by_hand() -> None:
    """1:8, 4 rows of 8 inputs, 8 bits: the last weight of a group fills the hole."""
    values = np.arange(1, 33).reshape(4, 8)
    for row, hole in enumerate((0, 3, 6, 7)):
        values[row, hole] = 0
    layout = sparse_layout(WeightLayout(Packing.BYTE, 4, 8, 8, requant=False), Pattern(1, 8))
    data = pack_matrix(ints(values), layout)
    assert data.hex(" ", 8) == " ".join(
        [
            "00" + "08020304050607",
            "03" + "090a0b100d0e0f",
            "06" + "11121314151618",
            "07" + "191a1b1c1d1e1f",
        ]
    )


def test_bitmask_by_hand() -> None:
    """4:8, 8 bits: bit c for input c; a fifth zero is kept as the first of the zeros."""
    values = np.array([[0, 1, 2, 0, 0, 3, 0, -4], [0, 0, 0, 0, 0, 5, 6, 7]])
    layout = sparse_layout(WeightLayout(Packing.BYTE, 2, 8, 8, requant=False), Pattern(4, 8))
    data = pack_matrix(ints(values), layout)
    assert data[:5].hex() == "a6" + "010203fc"
    assert data[5:10].hex() == "e1" + "00050607"
    assert data[10:20].hex() == "0f00000000" * 2


@ALL
def test_every_choice_of_a_group(pattern: Pattern) -> None:
    """Each set of kept inputs of one group, and each with one kept weight that is zero."""
    if pattern.group == 16 and pattern.removed == 8:
        kept_sets = [tuple(range(i, i + 8)) for i in range(9)] + [tuple(range(0, 16, 2))]
    else:
        kept_sets = list(combinations(range(pattern.group), pattern.kept))
    rows = np.zeros((2 * len(kept_sets), pattern.group), np.int64)
    for index, kept in enumerate(kept_sets):
        rows[2 * index, list(kept)] = 1
        rows[2 * index + 1, list(kept)[1:]] = -2
    for packing in CORE_PACKINGS:
        layout = sparse_layout(WeightLayout(packing, *rows.shape, pattern.group), pattern)
        round_trip(ints(rows), layout)


@pytest.mark.parametrize("packing", CORE_PACKINGS)
def test_every_value_at_every_place(packing: Packing) -> None:
    half = 1 << (packing.field_bits - 1)
    for place, value in product(range(4), range(-half, half)):
        row = np.zeros((1, 9), np.int64)
        row[0, [place, 4 + place, 8]] = value
        round_trip(ints(row), sparse_layout(WeightLayout(packing, 1, 9, 9), Pattern(2, 4)))


@st.composite
def packed_cases(draw: st.DrawFn) -> tuple[WeightInts, SparseLayout]:
    packing, pattern = draw(st.sampled_from(CORE_PACKINGS)), draw(st.sampled_from(PATTERNS))
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 80))
    group = draw(st.sampled_from([columns, 16, 32, 48]))
    dense = WeightLayout(packing, rows, columns, min(group, columns), draw(st.booleans()))
    layout = sparse_layout(dense, pattern)
    half = 1 << (packing.field_bits - 1)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    values = remove(rng.integers(-half, half, (rows, columns)), pattern, rng)
    weights = ints(values, layout.groups)
    if not dense.requant:
        weights = WeightInts(weights.values, weights.multipliers, np.zeros(rows, np.uint32))
    return weights, layout


@given(packed_cases())
def test_unpack_inverts_pack(case: tuple[WeightInts, SparseLayout]) -> None:
    weights, layout = case
    data = round_trip(weights, layout)
    assert layout.record_size % 4 == 0
    lanes = layout.packing.rows
    if layout.records > 1:  # any run of records can be read by itself
        tail = unpack_matrix_records(data[layout.record_size :], layout, layout.rows - lanes)
        np.testing.assert_array_equal(tail.values, weights.values[lanes:])


@given(packed_cases(), st.data())
def test_a_changed_bit_is_refused_or_is_another_matrix(
    case: tuple[WeightInts, SparseLayout], data: st.DataObject
) -> None:
    """Every bit has a meaning: what is not refused packs to the changed bytes or names a zero."""
    weights, layout = case
    packed = bytearray(pack_matrix(weights, layout))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << (bit % 8)
    try:
        changed = unpack_matrix_records(bytes(packed), layout, layout.records * layout.packing.rows)
    except ValueError:
        return
    original = unpack_matrix_records(pack_matrix(weights, layout), layout, len(changed.values))
    differs = [
        (a != b).any()
        for a, b in (
            (changed.values, original.values),
            (changed.multipliers, original.multipliers),
            (changed.requant, original.requant),
        )
    ]
    if not any(differs):  # an index that moves a kept zero to another zero
        assert (changed.values == 0).any()


@pytest.mark.parametrize(
    ("pattern", "offset", "value", "message"),
    [
        (Pattern(2, 4), 0, 0b0100_0001, "ascending"),  # 1 before 0
        (Pattern(2, 4), 0, 0b0100_0101, "ascending"),  # 1 twice
        (Pattern(4, 8), 0, 0b0001_1111, "bitmask"),
        (Pattern(4, 8), 0, 0b0000_0111, "bitmask"),
        (Pattern(1, 8), 0, 0b0100_0000, "last bits"),  # two indices of 3 bits
    ],
    ids=str,
)
def test_damaged_bytes_are_refused(pattern: Pattern, offset: int, value: int, message: str) -> None:
    dense = WeightLayout(Packing.BYTE, 3, 17, 17, requant=False)
    layout = sparse_layout(dense, pattern)
    data = bytearray(pack_matrix(ints(np.zeros((3, 17), np.int64)), layout))
    data[offset] = value
    with pytest.raises(ValueError, match=message):
        unpack_matrix(bytes(data), layout)


def test_what_cannot_be_packed() -> None:
    layout = sparse_layout(WeightLayout(Packing.NIBBLE, 1, 8, 8), Pattern(2, 4))
    with pytest.raises(ValueError, match="fewer zeros than 2:4"):
        pack_matrix(ints(np.array([[0, 0, 1, 1, 1, 1, 0, 1]])), layout)
    with pytest.raises(ValueError, match="stored bits"):
        pack_matrix(ints(np.array([[0, 0, 8, 1, 0, 0, 0, 1]])), layout)
    with pytest.raises(ValueError, match="disagree"):
        pack_matrix(ints(np.zeros((1, 7), np.int64)), layout)
    with pytest.raises(ValueError, match="bytes"):
        unpack_matrix(bytes(layout.size - 4), layout)


def test_scale_groups_are_whole_units() -> None:
    for group, possible in ((16, True), (32, True), (48, True), (8, False), (24, False)):
        layout = sparse_layout(WeightLayout(Packing.NIBBLE, 8, 64, group), Pattern(2, 4))
        assert layout.is_possible == possible
        assert layout.pays == possible
    assert sparse_layout(WeightLayout(Packing.NIBBLE, 8, 40, 40), Pattern(2, 4)).is_possible


def test_names() -> None:
    dense = WeightLayout(Packing.NIBBLE, 8, 64, 32)
    assert packing_name(dense) == "nibble"
    assert packing_name(sparse_layout(dense, Pattern(2, 4))) == "nm-sparse 2:4 nibble"
    assert Packing.NM_SPARSE.code == 4
