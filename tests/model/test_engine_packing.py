"""Engine words against bytes computed by hand, a per-bit reading of the layout, and the inverse."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.model.engine_packing import (
    EngineLayout,
    engine_group_slices,
    pack_engine,
    unpack_engine,
)
from toolchain.model.packing import Packing, WeightInts

DENSE, POINTWISE = Packing.NEUREKA_3X3, Packing.NEUREKA_1X1

# 4 bits, Wmin = -8, 32 channels of 64 inputs; code of (o, i) = (o + i) mod 16
WORDS_1X1 = {
    0: "ca000000ca0f0000caf00000caff0000" * 2,  # o = 0, tile 0
    32: "ca000000ca0f0000caf00000caff0000" * 2,  # o = 0, tile 1
    64: "650800006587000065f8000065770000" * 2,  # o = 1
    2016: "95110000950e000095e1000095fe0000" * 2,  # o = 31, tile 1
}
# 4 bits, 32 channels of 28 inputs; code of (o, i, tap) = (o + i + tap) mod 16
WORDS_3X3 = {
    0: "aaaaaa5a555555aaaaaa5a555555aaaaaa5a555555aaaaaa5a555555aaaaaa0a",
    32: "cccccc6c66666633333393999999cccccc6c66666633333393999999cccccc0c",
    64: "f0f0f0808787873c3c3cece1e1e10f0f0f7f787878c3c3c3131e1e1ef0f0f000",
    96: "00ff000ff807f8c03fc00ffe01fef00ff08f7f807ffc03fce31fe01fff00ff00",
    128: "555555a5aaaaaa55",
}


def ints(values: npt.NDArray[np.int64], groups: int = 1) -> WeightInts:
    rows = len(values)
    ones, zeros = np.ones((rows, groups), np.uint8), np.zeros(rows, np.uint32)
    return WeightInts(values.astype(np.int8), ones, zeros)


def check_words(data: bytes, words: dict[int, str]) -> None:
    for address, word in words.items():
        assert data[address : address + len(word) // 2].hex() == word


def test_pointwise_words_by_hand() -> None:
    layout = EngineLayout(POINTWISE, 32, 64, 4, 64, taps=1)
    o, i = np.indices((32, 64))
    data = pack_engine(ints((o + i) % 16 - 8), layout)
    assert len(data) == layout.size == 2048
    check_words(data, WORDS_1X1)


def test_dense_words_by_hand() -> None:
    layout = EngineLayout(DENSE, 32, 252, 4, 252)
    o, k = np.indices((32, 252))
    p, i = k // 28, k % 28  # C = 28; chunks 0, 1, 2 are in taps 0, 3, 6, the next in 1, 4, 7
    tap = 3 * (p % 3) + p // 3
    data = pack_engine(ints((o + i + tap) % 16 - 8), layout)
    assert len(data) == layout.size == 4096
    check_words(data, WORDS_3X3)


@pytest.mark.parametrize(
    ("rows", "channels"), [(64, 24), (32, 12), (24, 9), (88, 30), (96, 32), (66, 22), (504, 168)]
)
def test_rows_of_a_core_lie_in_one_slot_of_columns(rows: int, channels: int) -> None:
    """64 rows: 8 per core, 22 channels would do; 96 rows: 12 per core, 36 channels are too many."""
    assert EngineLayout(DENSE, rows, 64, 4, 64, taps=3).channels == channels
    assert EngineLayout(DENSE, rows, 64, 4, 64, taps=1).channels == -(-rows // 9)


def test_column_and_pixel_words_by_hand() -> None:
    """2 bits, so weight 0 is code 2: plane 1 is all ones over C channels of nine taps."""
    column = EngineLayout(DENSE, 4, 3, 2, 3, taps=3)  # C = 1, n = 2 channels of rows o, o + 2, (4)
    assert (column.channels, column.input_channels, column.size) == (2, 1, 2 * 2 * 32)
    # Row 2 is slot 1 of channel 0: kernel column 1, taps 1, 4, 7, at bits 28, 112, 196.
    values = np.zeros((4, 3), np.int64)
    values[2] = [-1, 1, -2]  # codes 1, 3, 0
    data = pack_engine(ints(values), column)
    plane0, plane1, *_ = (int.from_bytes(data[at : at + 32], "little") for at in range(0, 128, 32))
    assert plane0 == 1 << 28 | 1 << 112
    assert plane1 == sum(1 << 28 * tap for tap in (0, 2, 3, 4, 5, 6, 8))
    pixel = EngineLayout(DENSE, 18, 1, 2, 1, taps=1)  # n = 2; row 7 is slot 3 of channel 1: tap 5
    values = np.zeros((18, 1), np.int64)
    values[7] = 1
    data = pack_engine(ints(values), pixel)
    channel1 = data[pixel.channel_size :]
    assert int.from_bytes(channel1[:32], "little") == 1 << 28 * 5
    assert int.from_bytes(channel1[32:], "little") == sum(1 << 28 * tap for tap in range(9))


def code_at(data: bytes, layout: EngineLayout, group: int, row: int, column: int) -> int:
    """Code of one weight by its bits, in plain loops over the documented addresses."""
    slot, channel = divmod(row, layout.channels)
    c, tile = layout.input_channels, layout.tile
    if layout.packing is POINTWISE:
        word = 32 * (layout.channels * group + channel) * layout.tiles + 32 * (column // 32)
        at = [(word + 4 * (column % 32 // 4) + q // 2, 4 * (q % 2) + column % 4) for q in range(8)]
        return sum((data[byte] >> bit & 1) << q for q, (byte, bit) in enumerate(at))
    chunk, i = divmod(column, c)
    tap = {9: 3 * (chunk % 3) + chunk // 3, 3: 3 * chunk + 2 - slot, 1: 8 - slot}[layout.taps]
    word = ((group * layout.channels + channel) * layout.tiles + i // tile) * layout.bits
    n = 28 * tap + i % tile
    return sum((data[32 * (word + q) + n // 8] >> n % 8 & 1) << q for q in range(layout.bits))


def check_layout(layout: EngineLayout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(layout.least, -layout.least, (layout.rows, layout.columns))
    data = pack_engine(ints(values, layout.groups), layout)
    assert len(data) == layout.size
    assert (unpack_engine(data, layout) == values[:, : layout.engine_columns]).all()
    for _ in range(20):
        row, group = int(rng.integers(layout.rows)), int(rng.integers(layout.groups))
        columns = engine_group_slices(layout)[group]
        column = int(rng.integers(columns.stop - columns.start))
        code = code_at(data, layout, group, row, column)
        assert code + layout.least == values[row, columns.start + column]


@pytest.mark.parametrize(("packing", "taps"), [(DENSE, 9), (DENSE, 3), (DENSE, 1), (POINTWISE, 1)])
def test_small_shapes(packing: Packing, taps: int) -> None:
    shapes = product(range(2, 9), (1, 2, 4, 10), (1, 2, 9, 10, 28), (1, 3, 64), (0, 1))
    count = 0
    for bits, rows, columns, group_size, tail in shapes:
        left = columns - (columns - 1) // group_size * group_size  # columns of the last group
        if tail < left:
            layout = EngineLayout(
                packing, rows, columns, bits, min(group_size, columns), taps, tail
            )
            check_layout(layout, count)
            count += 1
    assert count > 400


@given(data=st.data())
@settings(max_examples=60)
def test_random_shapes(data: st.DataObject) -> None:
    packing, taps = data.draw(st.sampled_from([(DENSE, 9), (DENSE, 3), (DENSE, 1), (POINTWISE, 1)]))
    columns = data.draw(st.one_of(st.integers(1, 600), st.sampled_from([252, 253, 504, 512])))
    group_size = data.draw(st.sampled_from([32, 64, columns, 1000]))
    left = columns - (columns - 1) // group_size * group_size
    tail = data.draw(st.integers(0, left - 1))
    rows, bits = data.draw(st.integers(1, 70)), data.draw(st.integers(2, 8))
    layout = EngineLayout(packing, rows, columns, bits, group_size, taps, tail)
    check_layout(layout, data.draw(st.integers(0, 1000)))


def test_every_code_survives() -> None:
    for bits in range(2, 9):
        least = -(1 << (bits - 1))
        values = np.arange(least, -least)[:, None]
        for packing, taps in ((DENSE, 9), (POINTWISE, 1)):
            layout = EngineLayout(packing, len(values), 1, bits, 1, taps)
            assert (unpack_engine(pack_engine(ints(values), layout), layout) == values).all()


def test_compatible_tensors_concatenate() -> None:
    """Words of q, k and v of one group are those of one job of all their channels."""
    rng = np.random.default_rng(0)
    parts = [rng.integers(-8, 8, (rows, 64)) for rows in (32, 16, 16)]
    packed = [pack_engine(ints(p), EngineLayout(DENSE, len(p), 64, 4, 64)) for p in parts]
    whole = EngineLayout(DENSE, 64, 64, 4, 64)
    assert b"".join(packed) == pack_engine(ints(np.concatenate(parts)), whole)


def test_stored_sizes() -> None:
    """256 / 252 * bits per weight where 252 divides the columns; eight bits in 1x1."""
    assert EngineLayout(DENSE, 512, 504, 4, 504).size * 8 * 252 == 512 * 504 * 4 * 256
    assert EngineLayout(POINTWISE, 512, 512, 2, 512, taps=1).size == 512 * 512
    # 64 columns fill a quarter of a word: three rows per channel store a third.
    dense, column = (EngineLayout(DENSE, 96, 64, 4, 64, taps) for taps in (9, 3))
    assert (dense.size, column.size) == (96 * 4 * 32, 32 * 4 * 32)


def test_what_does_not_fit_is_refused() -> None:
    layout = EngineLayout(DENSE, 1, 2, 2, 2)
    with pytest.raises(ValueError, match="exceed 2 bits"):
        pack_engine(ints(np.array([[2, 0]])), layout)
    with pytest.raises(ValueError, match="disagree"):
        pack_engine(ints(np.array([[1]])), layout)
    with pytest.raises(ValueError, match="packed tensor has"):
        unpack_engine(bytes(layout.size - 1), layout)
    refused = [
        ("arrangement of 3 taps", POINTWISE, (1, 2, 2, 2, 3)),
        ("arrangement of 9 taps", Packing.NIBBLE, (1, 2, 2, 2, 9)),
        (r"2\.\.8", DENSE, (1, 2, 9, 2)),
        ("at least 1", DENSE, (0, 2, 2, 2)),
        ("leaves none", DENSE, (1, 5, 2, 4, 9, 1)),
    ]
    for text, packing, arguments in refused:
        with pytest.raises(ValueError, match=text):
            EngineLayout(packing, *arguments)
