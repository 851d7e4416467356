"""What the 24 registers of an N-EUREKA job say, read independently of the code that writes them.

Refuses with JobError what the engine does not define, or what its public models define differently
(docs/engine.md): a simulation never guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WORD = 32  # bytes of a weight word
PIXELS = 6  # rows and columns of an output subtile
OUTPUTS = 32  # output channels of a subtile
DENSE, DEPTHWISE, POINTWISE = 0, 1, 2


class JobError(Exception):
    """A job that the engine would not run, or not run alike everywhere."""


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of the registers, subtiles added up."""

    mode: int
    bits: int
    weights: int
    in_weight_memory: bool
    input: int
    output: int
    scale: int
    shift: int
    bias: int
    input_pixel: int
    input_row: int
    output_pixel: int
    output_row: int
    channels: int  # outputs
    input_channels: int
    height: int  # output pixels
    width: int
    input_height: int  # rows from the first, padding above included, below excluded
    input_width: int
    top: int
    right: int
    bottom: int
    left: int
    padding: int  # byte
    least: int
    mask: int
    requant: bool
    strided: bool
    scale_size: int  # bytes
    stream_in: bool
    right_shift: int
    output_size: int  # bytes
    relu: bool
    channel_shift: bool
    use_bias: bool
    signed: bool

    @property
    def tile(self) -> int:
        """Input channels of a subtile."""
        return 32 if self.mode == POINTWISE else 28

    @property
    def tiles(self) -> int:
        """Input subtiles."""
        return -(-self.input_channels // self.tile)

    @property
    def planes(self) -> int:
        """Words per output channel and input subtile."""
        return 1 if self.mode == POINTWISE else self.bits


def decode(registers: Sequence[int]) -> Config:
    """Fields of `registers`, 24 words; raises JobError."""
    if len(registers) != 24 or not all(0 <= r < 1 << 32 for r in registers):
        raise JobError("a job has 24 registers of 32 bits")
    conf0 = registers[23]
    config = Config(
        mode=conf0 >> 5 & 3,
        bits=(conf0 & 7) + 1,
        weights=registers[0],
        in_weight_memory=bool(conf0 >> 9 & 1),
        input=registers[1],
        output=registers[2],
        scale=registers[3],
        shift=registers[4],
        bias=registers[5],
        input_pixel=registers[6],
        input_row=registers[7],
        output_pixel=registers[10],
        output_row=registers[11],
        least=registers[21] - (registers[21] >> 31 << 32),
        mask=registers[22],
        requant=bool(conf0 >> 4 & 1),
        strided=bool(conf0 >> 8 & 1),
        scale_size={0: 1, 1: 2, 2: 4}.get(conf0 >> 12 & 3, 0),
        stream_in=bool(conf0 >> 14 & 1),
        right_shift=conf0 >> 16 & 31,
        output_size={0: 1, 2: 4}.get(conf0 >> 21 & 3, 0),
        relu=not conf0 >> 23 & 1,
        channel_shift=bool(conf0 >> 24 & 1),
        use_bias=bool(conf0 >> 25 & 1),
        signed=bool(conf0 >> 26 & 1),
        **_extents(registers),
    )
    _check_fields(config, registers)
    _check_pixels(config, registers)
    return config


def _extents(registers: Sequence[int]) -> dict[str, int]:
    """Sizes in channels and pixels, and padding."""
    mode, padding = registers[23] >> 5 & 3, registers[20]
    tile = 32 if mode == POINTWISE else 28
    output_tile = 28 if mode == DEPTHWISE else OUTPUTS
    border = 0 if mode == POINTWISE else 2
    top, right, bottom, left = (padding >> at & 15 for at in (28, 24, 20, 16))
    height = _extent(registers[19] >> 16, registers[16] >> 16, PIXELS, "output rows")
    width = _extent(registers[19] & 0xFFFF, registers[16] & 0xFFFF, PIXELS, "output columns")
    inputs = _extent(registers[18] & 0xFFFF, registers[15] & 0xFFFF, tile, "input channels")
    return {
        "channels": _extent(registers[18] >> 16, registers[15] >> 16, output_tile, "channels"),
        "input_channels": inputs,
        "height": height,
        "width": width,
        "input_height": height + border - bottom,
        "input_width": width + border - right,
        "top": top,
        "right": right,
        "bottom": bottom,
        "left": left,
        "padding": padding & 0xFF,
    }


def _extent(count: int, last: int, tile: int, what: str) -> int:
    if count < 1 or not 1 <= last <= tile:
        raise JobError(f"{what}: {count} subtiles of {tile}, the last one of {last}")
    return (count - 1) * tile + last


def _check_fields(config: Config, registers: Sequence[int]) -> None:
    per_channel = 0 if config.mode == DEPTHWISE else WORD * config.tiles * config.planes
    raw = not config.requant
    rules = [
        (config.mode <= POINTWISE and not registers[23] & 0x88, "a mode that does not exist"),
        (not registers[23] >> 27, "bits of conf0 that do not exist"),
        (config.bits >= 2, "weights of one bit"),
        (config.weights % WORD == 0, "weights that are not on a word"),
        (tuple(registers[12:15]) == (WORD, per_channel, 0), "strides of the weights"),
        (registers[8] == 0, "a third stride of the input"),
        (registers[9] == 32, "words of the output that are not adjacent"),
        (-256 <= config.least <= 255, "Wmin outside -256..255"),
        (config.scale_size > 0, "a scale of unknown width"),
        (config.output_size > 0, "an output of unknown width"),
        (not raw or config.output_size == 4, "8-bit output of accumulators"),
        (not raw or not config.channel_shift, "a shift per channel without requantization"),
        (not raw or not config.use_bias, "a bias without requantization"),
        (not config.stream_in or config.output_size == 4, "stream-in of 8 bits"),
        (not config.stream_in or config.mode != DEPTHWISE, "stream-in in depthwise mode"),
        (
            config.mode != DEPTHWISE or config.channels == config.input_channels,
            "depthwise channels that are not as many as inputs",
        ),
        (config.mask < (1 if config.mode == POINTWISE else 0x200), "a filter mask of other taps"),
    ]
    _require(rules)


def _check_pixels(config: Config, registers: Sequence[int]) -> None:
    border = 0 if config.mode == POINTWISE else 2
    last_height = (registers[16] >> 16) + border - config.bottom
    last_width = (registers[16] & 0xFFFF) + border - config.right
    several = config.height > PIXELS or config.width > PIXELS
    least = max(1, border) if several else 1
    rules = [
        (registers[17] == last_height << 16 | last_width, "pixels of the last input subtile"),
        (min(last_height, last_width) >= least, "an input subtile that is all padding"),
        (max(config.top, config.right, config.bottom, config.left) <= 2, "padding of more than 2"),
        (not registers[20] & 0xFF00, "a padding value of more than 8 bits"),
        (not config.strided or max(config.height, config.width) <= 3, "more than 3 x 3 strided"),
        (_apart(config), "output pixels that overlap"),
    ]
    _require(rules)


def _apart(config: Config) -> bool:
    """Whether no two output pixels share a byte: row by row, or column by column."""
    size = config.channels * config.output_size

    def nested(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
        (count, stride), (outer_count, outer_stride) = inner, outer
        span = (count - 1) * stride + size
        return (count == 1 or stride >= size) and (outer_count == 1 or outer_stride >= span)

    rows, columns = (config.height, config.output_row), (config.width, config.output_pixel)
    return nested(columns, rows) or nested(rows, columns)


def _require(rules: Sequence[tuple[bool, str]]) -> None:
    broken = [what for good, what in rules if not good]
    if broken:
        raise JobError(f"a job with {', '.join(broken)}")
