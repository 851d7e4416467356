"""N:M storage: sizes are those of bytes that a packer really needs and can read back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.fit.pattern import Pattern, SparseLayout
from toolchain.model.packing import CORE_PACKINGS, Packing, WeightLayout

INDEX_BITS = {  # by hand: bitmask M, kept (M-N) * log2 M, removed N * log2 M
    "1:2": ("removed", 1),
    "2:4": ("bitmask", 4),
    "1:8": ("removed", 3),
    "4:8": ("bitmask", 8),
    "1:16": ("removed", 4),
    "8:16": ("bitmask", 16),
    "12:16": ("bitmask", 16),
    "3:4": ("kept", 2),
    "15:16": ("kept", 4),
    "1:5": ("removed", 3),
}
# Bits saved per group at 2, 4 and 8 stored bits per weight.
SAVED = {"1:2": (1, 3, 7), "2:4": (0, 4, 12), "1:8": (-1, 1, 5), "1:16": (-2, 0, 4)}


def pattern(text: str) -> Pattern:
    return Pattern(*map(int, text.split(":")))


@pytest.mark.parametrize("text", INDEX_BITS)
def test_the_cheapest_index(text: str) -> None:
    form, bits = INDEX_BITS[text]
    assert pattern(text).index_bits == bits
    if text not in ("1:2", "12:16"):  # two forms take the same bits
        assert pattern(text).index_form == form


@pytest.mark.parametrize("text", SAVED)
def test_what_a_group_saves(text: str) -> None:
    packings = (Packing.CRUMB, Packing.NIBBLE, Packing.BYTE)
    assert tuple(pattern(text).saved_bits(packing) for packing in packings) == SAVED[text]


def test_record_by_hand() -> None:
    """8 rows of 20 inputs at 4 bits, 1:8, scale groups of 8: 2 whole groups and a tail of 4."""
    layout = SparseLayout(Packing.NIBBLE, 8, 20, 8, pattern=Pattern(1, 8))
    scales = 8 * 4 + 3 * 8  # requantization words, three groups of multipliers
    words = 4 * (7 + 7 + 4)
    index = 8  # 8 rows * 2 groups * 3 bits = 48 bits = 6 bytes, padded to 2 words
    assert layout.sparse_record_size == scales + words + index
    assert layout.dense_record_size == scales + 4 * 20
    assert layout.record_size == layout.dense_record_size  # 80 against 80: does not pay
    assert not layout.pays
    assert layout.scale_size == scales
    assert layout.kept == 8 * 18


def test_storage_never_exceeds_dense() -> None:
    for group in range(2, 17):
        for removed in range(1, group):
            for packing in CORE_PACKINGS:
                sparse = SparseLayout(packing, 33, 50, 16, pattern=Pattern(removed, group))
                dense = WeightLayout(packing, 33, 50, 16)
                assert sparse.size <= dense.size
                assert sparse.dense_record_size == dense.record_size
                assert sparse.scale_size == dense.scale_size


@given(
    packing=st.sampled_from(CORE_PACKINGS),
    columns=st.integers(1, 70),
    group=st.integers(2, 16),
    data=st.data(),
)
def test_a_record_really_fits_and_can_be_read(
    packing: Packing, columns: int, group: int, data: st.DataObject
) -> None:
    """Packs one record of random pruned rows, bit by bit, and reads it back."""
    removed = data.draw(st.integers(1, group - 1))
    the_pattern = Pattern(removed, group)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    values = rng.integers(1, 1 << packing.field_bits, (packing.rows, columns))
    for row in values:
        for start in range(0, columns // group * group, group):
            row[start + rng.choice(group, removed, replace=False)] = 0
    layout = SparseLayout(packing, packing.rows, columns, columns, pattern=the_pattern)
    words, index = pack_record(values, the_pattern)
    assert 4 * len(words) + index_size(index) + layout.scale_size == layout.sparse_record_size
    np.testing.assert_array_equal(unpack_record(words, index, values.shape, the_pattern), values)


def index_size(bits: str) -> int:
    return -(-len(bits) // 32) * 4


def pack_record(values: npt.NDArray[np.int64], pattern: Pattern) -> tuple[list[list[int]], str]:
    """Words as lists of their fields, and the index as a string of bits."""
    rows, columns = values.shape
    whole = columns // pattern.group * pattern.group
    words: list[list[int]] = []
    index = ""
    for start in range(0, whole, pattern.group):
        group = values[:, start : start + pattern.group]
        kept = [np.flatnonzero(row).tolist() for row in group]
        words += [[int(group[r, kept[r][k]]) for r in range(rows)] for k in range(len(kept[0]))]
        index += "".join(encode(positions, pattern) for positions in kept)
    words += [values[:, column].tolist() for column in range(whole, columns)]
    return words, index


def encode(kept: list[int], pattern: Pattern) -> str:
    width = (pattern.group - 1).bit_length()
    removed = [p for p in range(pattern.group) if p not in kept]
    if pattern.index_form == "bitmask":
        return "".join("1" if p in kept else "0" for p in range(pattern.group))
    chosen = kept if pattern.index_form == "kept" else removed
    return "".join(format(p, f"0{width}b") for p in chosen)


def unpack_record(
    words: list[list[int]], index: str, shape: tuple[int, ...], pattern: Pattern
) -> npt.NDArray[np.int64]:
    rows, columns = shape
    values = np.zeros(shape, np.int64)
    keep, bits = pattern.group - pattern.removed, pattern.index_bits
    groups = columns // pattern.group
    for group in range(groups):
        for row in range(rows):
            at = (group * rows + row) * bits
            kept = decode(index[at : at + bits], pattern)
            for k, position in enumerate(kept):
                values[row, group * pattern.group + position] = words[group * keep + k][row]
    for column in range(groups * pattern.group, columns):
        values[:, column] = words[groups * keep + column - groups * pattern.group]
    return values


def decode(bits: str, pattern: Pattern) -> list[int]:
    if pattern.index_form == "bitmask":
        return [p for p, bit in enumerate(bits) if bit == "1"]
    width = (pattern.group - 1).bit_length()
    listed = [int(bits[at : at + width], 2) for at in range(0, len(bits), width)]
    if pattern.index_form == "kept":
        return listed
    return [p for p in range(pattern.group) if p not in listed]
