"""Weights of the N-EUREKA engine as bytes: the words it reads, and what the cores need beside them.

A weight w of `bits` bits is stored as the code u = w + 2^(bits-1); bit n of a 32-byte word is bit
n % 8 of byte n / 8. Order of the words: group of columns, engine channel, tile of input channels,
bit plane. With C input channels per group:

    neureka-3x3   tiles of 28; `bits` words per (channel, tile), one per bit plane q:
                  bit 28 * (3 * fy + fx) + c is bit q of the code of tap (fy, fx), channel c
    neureka-1x1   tiles of 32; one word per (channel, tile): bit q of the code of channel c is
                  bit 4 * q + c % 4 of the 32-bit little-endian field c / 4

A linear has no pixels; `taps` says how its columns become taps of the 3 x 3 kernel:

    9  dense    tap (p % 3, p / 3) takes columns p * C .. p * C + C - 1; one row per channel
    3  column   tap row j takes columns j * C ..; three rows per channel, in kernel columns 2, 1, 0
    1  pixel    a tap takes all columns; nine rows per channel, in taps 8, 7 .. 0

Row r is slot r / channels of channel r % channels; docs/packing.md says how many there are. What is
left over holds weight 0, input channels
behind C hold code 0. The last `tail` columns are not in the words; the cores add them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolchain.model.lazy_numpy import np
from toolchain.model.packing import Packing, WeightInts

WORD_SIZE = 32  # bytes the engine reads per cycle
TAPS = 9  # of a 3 x 3 kernel
CHANNEL_TILE = 32  # output channels that the engine works on at a time
TEAM = 8  # cores that divide rows among them: none should have rows of two slots

if TYPE_CHECKING:
    import numpy.typing as npt

    _ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EngineLayout:
    """Everything that fixes the words of a matrix except its values.

    Raises ValueError for bits outside 2..8, an arrangement that the packing does not have, or a
    tail that leaves the engine no column of the last group.
    """

    packing: Packing  # NEUREKA_3X3 or NEUREKA_1X1
    rows: int  # outputs
    columns: int  # inputs, those of the tail included
    bits: int  # of a weight, 2..8
    group_size: int  # columns per group; `columns` for one group
    taps: int = 9  # kernel taps that one row uses: 9, 3 or 1; 1 with neureka-1x1
    tail: int = 0  # last columns, left to the cores

    def __post_init__(self) -> None:
        arrangements = {Packing.NEUREKA_3X3: (9, 3, 1), Packing.NEUREKA_1X1: (1,)}
        if self.taps not in arrangements.get(self.packing, ()):
            raise ValueError(f"{self.packing.value} has no arrangement of {self.taps} taps")
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2..8, got {self.bits}")
        if min(self.rows, self.columns, self.group_size) < 1:
            raise ValueError(f"rows, columns and group size must be at least 1: {self}")
        if not 0 <= self.tail < self.columns - (self.groups - 1) * self.group_size:
            raise ValueError(f"a tail of {self.tail} columns leaves none of the last group: {self}")

    @property
    def format(self) -> Packing:
        """How the bytes are arranged."""
        return self.packing

    @property
    def groups(self) -> int:
        """Scale groups per row; the last one may be shorter."""
        return -(-self.columns // self.group_size)

    @property
    def engine_columns(self) -> int:
        """Columns in the words: all but the tail."""
        return self.columns - self.tail

    @property
    def shared(self) -> int:
        """Rows per engine channel, each an output pixel of its own."""
        return TAPS // self.taps if self.packing is Packing.NEUREKA_3X3 else 1

    @property
    def channels(self) -> int:
        """Output channels of the engine; some have only zeros where that divides rows evenly."""
        least = -(-self.rows // self.shared)
        share = self.rows // TEAM if self.rows % TEAM == 0 else 1
        even = -(-least // share) * share
        return even if self.shared == 3 and even <= CHANNEL_TILE else least

    @property
    def input_channels(self) -> int:
        """C: columns per tap, equal for all groups."""
        return -(-min(self.group_size, self.engine_columns) // self.taps)

    @property
    def tile(self) -> int:
        """Input channels per word."""
        return 28 if self.packing is Packing.NEUREKA_3X3 else 32

    @property
    def tiles(self) -> int:
        """Words of one bit plane per channel and group."""
        return -(-self.input_channels // self.tile)

    @property
    def planes(self) -> int:
        """Words per channel and tile."""
        return self.bits if self.packing is Packing.NEUREKA_3X3 else 1

    @property
    def channel_size(self) -> int:
        """Bytes of one channel of one group."""
        return WORD_SIZE * self.tiles * self.planes

    @property
    def words_size(self) -> int:
        """Bytes of one group."""
        return self.channels * self.channel_size

    @property
    def size(self) -> int:
        """Bytes of the packed tensor."""
        return self.groups * self.words_size

    @property
    def least(self) -> int:
        """The smallest weight, that of code 0: the engine's Wmin."""
        return -(1 << (self.bits - 1))


def engine_group_slices(layout: EngineLayout) -> list[slice]:
    """Columns of each group that are in the words."""
    starts = range(0, layout.columns, layout.group_size)
    return [slice(s, min(s + layout.group_size, layout.engine_columns)) for s in starts]


def pack_engine(weights: WeightInts, layout: EngineLayout) -> bytes:
    """The words of `weights`; `len` equals `layout.size`. Multipliers and requant are not read.

    Raises ValueError when a value does not fit `layout.bits` or the shape disagrees.
    """
    values = weights.values
    if values.shape != (layout.rows, layout.columns):
        raise ValueError(f"values {values.shape} disagree with {layout}")
    if values.min(initial=0) < layout.least or values.max(initial=0) >= -layout.least:
        raise ValueError(f"values exceed {layout.bits} bits")
    codes = (values.astype(np.int16) - layout.least).astype(np.uint8)
    to_words = _words_3x3 if layout.packing is Packing.NEUREKA_3X3 else _words_1x1
    groups = engine_group_slices(layout)
    return b"".join(to_words(_to_taps(codes[:, g], layout), layout) for g in groups)


def unpack_engine(data: bytes | memoryview, layout: EngineLayout) -> npt.NDArray[np.int8]:
    """The inverse of `pack_engine`: values (rows, engine_columns).

    Raises ValueError when the length is not `layout.size`.
    """
    if len(data) != layout.size:
        raise ValueError(f"packed tensor has {len(data)} bytes, its layout {layout.size}")
    words = np.frombuffer(data, np.uint8).reshape(layout.groups, -1)
    from_words = _codes_3x3 if layout.packing is Packing.NEUREKA_3X3 else _codes_1x1
    values = np.empty((layout.rows, layout.engine_columns), np.int8)
    for group, columns in zip(words, engine_group_slices(layout), strict=True):
        codes = _from_taps(from_words(group, layout), layout)[:, : columns.stop - columns.start]
        values[:, columns] = codes.astype(np.int16) + layout.least
    return values


def _slots(layout: EngineLayout) -> list[list[int]]:
    """Per slot of a channel, the kernel taps that take its columns, in order of the columns."""
    if layout.packing is Packing.NEUREKA_1X1:
        return [[0]]
    if layout.taps == 9:
        return [[3 * (p % 3) + p // 3 for p in range(TAPS)]]
    if layout.taps == 3:
        return [[3 * j + 2 - slot for j in range(3)] for slot in range(3)]
    return [[8 - slot] for slot in range(TAPS)]


def _to_taps(codes: _ByteArray, layout: EngineLayout) -> _ByteArray:
    """Codes (rows, columns of a group) as (channels, kernel taps, tiles * tile)."""
    zero = -layout.least
    rows, columns = layout.channels * layout.shared, layout.taps * layout.input_channels
    padding = ((0, rows - layout.rows), (0, columns - codes.shape[1]))
    padded = np.pad(codes, padding, constant_values=zero)
    chunks = padded.reshape(layout.shared, layout.channels, layout.taps, layout.input_channels)
    kernel = TAPS if layout.packing is Packing.NEUREKA_3X3 else 1
    taps = np.zeros((layout.channels, kernel, layout.tiles * layout.tile), np.uint8)
    taps[:, :, : layout.input_channels] = zero
    for slot, positions in enumerate(_slots(layout)):
        taps[:, positions, : layout.input_channels] = chunks[slot]
    return taps


def _from_taps(taps: _ByteArray, layout: EngineLayout) -> _ByteArray:
    """The inverse of `_to_taps`, padding of the columns included."""
    slots = [taps[:, positions, : layout.input_channels] for positions in _slots(layout)]
    return np.stack(slots).reshape(layout.channels * layout.shared, -1)[: layout.rows]


def _words_3x3(taps: _ByteArray, layout: EngineLayout) -> bytes:
    by_tap = taps.reshape(layout.channels, TAPS, layout.tiles, layout.tile)
    tiled = by_tap.transpose(0, 2, 1, 3).reshape(layout.channels, layout.tiles, TAPS * layout.tile)
    bits = np.zeros((layout.channels, layout.tiles, layout.bits, 8 * WORD_SIZE), np.uint8)
    for plane in range(layout.bits):
        bits[:, :, plane, : TAPS * layout.tile] = tiled >> plane & 1
    return np.packbits(bits, axis=-1, bitorder="little").tobytes()


def _codes_3x3(words: _ByteArray, layout: EngineLayout) -> _ByteArray:
    bits = np.unpackbits(words, bitorder="little")
    bits = bits.reshape(layout.channels, layout.tiles, layout.bits, 8 * WORD_SIZE)
    codes = np.zeros((layout.channels, layout.tiles, TAPS * layout.tile), np.uint8)
    for plane in range(layout.bits):
        codes |= bits[:, :, plane, : TAPS * layout.tile] << np.uint8(plane)
    tiled = codes.reshape(layout.channels, layout.tiles, TAPS, layout.tile).transpose(0, 2, 1, 3)
    return tiled.reshape(layout.channels, TAPS, layout.tiles * layout.tile)


def _words_1x1(taps: _ByteArray, layout: EngineLayout) -> bytes:
    lanes = taps.reshape(layout.channels, layout.tiles, layout.tile // 4, 1, 4)
    planes = np.arange(8, dtype=np.uint8)[:, None]
    bits = lanes >> planes & 1  # codes of fewer than 8 bits have zeros in the upper planes
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def _codes_1x1(words: _ByteArray, layout: EngineLayout) -> _ByteArray:
    bits = np.unpackbits(words, bitorder="little").reshape(layout.channels, -1, 8, 4)
    weights = np.uint8(1) << np.arange(8, dtype=np.uint8)[:, None]
    codes: _ByteArray = np.bitwise_or.reduce(bits * weights, axis=2)
    return codes.reshape(layout.channels, 1, layout.tiles * layout.tile)
