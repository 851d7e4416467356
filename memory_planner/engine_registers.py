"""One job of the N-EUREKA engine as a value, and as the 24 registers that describe it.

A job convolves an input in L1, channels innermost, with 3 x 3 or 1 x 1 kernels whose words lie in a
weight memory or in L1 (docs/packing.md 9), and writes accumulators or requantized bytes to L1. The
register file holds subtile counts and the size of the last subtile: 32 output channels, 28 (3 x 3)
or 32 (1 x 1) input channels, 6 x 6 output pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from toolchain.model.engine_packing import WORD_SIZE
from toolchain.model.errors import InternalError, Problem

REGISTERS = 24
PIXELS = 6  # rows and columns of an output subtile
CHANNELS = 32  # output channels of a subtile, 28 in depthwise mode
_COUNT = 0xFFFF  # the largest number of subtiles
_SHIFT = 31
_PADDING = 2  # of a side; the fields hold 15, no driver writes more


class Mode(Enum):
    """What the engine computes; the value is the field of conf0."""

    DENSE = 0  # 3 x 3
    DEPTHWISE = 1  # 3 x 3, output channel c sees input channel c alone
    POINTWISE = 2  # 1 x 1

    @property
    def tile(self) -> int:
        """Input channels per subtile."""
        return 32 if self is Mode.POINTWISE else 28

    @property
    def border(self) -> int:
        """Rows and columns of input beyond those of the output."""
        return 0 if self is Mode.POINTWISE else 2


@dataclass(frozen=True, slots=True)
class JobShape:
    """What decides the cycles of a job."""

    mode: Mode
    bits: int  # of a weight, 2..8
    input_channels: int
    channels: int  # outputs
    height: int = 1  # output pixels
    width: int = 1
    output_bits: int = 32  # 32 or, requantized, 8
    scale_bits: int = 0  # 0 without requantization, else 8, 16 or 32
    bias: bool = False  # an int32 per channel is added before the shift
    channel_shift: bool = False  # a shift per channel instead of one per job
    stream_in: bool = False  # accumulators start from the output
    prefetch: bool = False  # of the next input subtile

    @property
    def channel_tile(self) -> int:
        """Output channels per subtile."""
        return self.mode.tile if self.mode is Mode.DEPTHWISE else CHANNELS


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the pixels of an input or output lie."""

    address: int  # in L1; of an input, where pixel (-top, -left) would be
    pixel: int  # bytes from one pixel of a row to the next
    row: int  # bytes from one row to the next


@dataclass(frozen=True, slots=True)
class Requant:
    """Operands of y = clip((a * scale + bias) >> shift); addresses in L1, 0 for those unused."""

    scale: int = 0  # per channel, unsigned, of `scale_bits`
    shift: int = 0  # per channel, bytes
    bias: int = 0  # per channel, int32
    right_shift: int = 0  # 0..31, where there is no shift per channel
    relu: bool = False  # clip to 0..255 instead of -128..127


@dataclass(frozen=True, slots=True)
class Border:
    """Rows and columns of padding, 0..2, and the byte that they read as."""

    top: int = 0
    right: int = 0
    bottom: int = 0
    left: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job with its addresses."""

    shape: JobShape
    weights: int  # bytes from the base of the weight memories, or an L1 address
    input: Plane
    output: Plane
    least: int  # Wmin: the weight of code 0, -256..255
    weights_in_l1: bool = False
    signed: bool = True  # input bytes are int8
    requant: Requant = Requant()
    border: Border = Border()
    mask: int = 0  # bit p leaves out tap p
    strided: bool = False  # write only pixels of even row and column


def job_registers(job: Job) -> tuple[int, ...]:
    """The 24 registers of `job`, each 0 <= r < 2^32.

    Raises InternalError for what the engine or its sources do not define (docs/engine.md).
    """
    _check(job)
    shape, border = job.shape, job.border
    tiles = -(-shape.input_channels // shape.mode.tile)
    planes = 1 if shape.mode is Mode.POINTWISE else shape.bits
    per_channel = 0 if shape.mode is Mode.DEPTHWISE else WORD_SIZE * tiles * planes
    height, width = _last(shape.height, PIXELS), _last(shape.width, PIXELS)
    input_height = height + shape.mode.border - border.bottom
    input_width = width + shape.mode.border - border.right
    registers = (
        *(job.weights, job.input.address, job.output.address),
        *(job.requant.scale, job.requant.shift, job.requant.bias),
        *(job.input.pixel, job.input.row, 0),
        *(32, job.output.pixel, job.output.row),
        *(WORD_SIZE, per_channel, 0),
        _pair(
            _last(shape.channels, shape.channel_tile), _last(shape.input_channels, shape.mode.tile)
        ),
        _pair(height, width),
        _pair(input_height, input_width),
        _pair(-(-shape.channels // shape.channel_tile), tiles),
        _pair(-(-shape.height // PIXELS), -(-shape.width // PIXELS)),
        border.top << 28
        | border.right << 24
        | border.bottom << 20
        | border.left << 16
        | border.value,
        job.least & 0xFFFFFFFF,
        job.mask,
        _conf0(job),
    )
    wide = [index for index, value in enumerate(registers) if not 0 <= value < 1 << 32]
    if wide or len(registers) != REGISTERS:
        raise InternalError(f"registers {wide} of a job are not words: {job}")
    return registers


def _conf0(job: Job) -> int:
    shape = job.shape
    return (
        (shape.bits - 1)
        | (shape.scale_bits > 0) << 4
        | shape.mode.value << 5
        | job.strided << 8
        | (not job.weights_in_l1) << 9
        | shape.prefetch << 10
        | {0: 0, 8: 0, 16: 1, 32: 2}[shape.scale_bits] << 12
        | shape.stream_in << 14
        | 1 << 15  # Wmin holds for the whole job
        | job.requant.right_shift << 16
        | {8: 0, 32: 2}[shape.output_bits] << 21
        | (shape.scale_bits > 0 and not job.requant.relu) << 23
        | shape.channel_shift << 24
        | shape.bias << 25
        | job.signed << 26
    )


def _check(job: Job) -> None:
    """Collects everything about `job` that is not defined."""
    problems = [*_shape_problems(job.shape), *_value_problems(job)]
    if problems:
        raise InternalError(f"not a job of the engine: {job}", problems)


def _shape_problems(shape: JobShape) -> list[Problem]:
    requant = shape.scale_bits > 0
    depthwise = shape.mode is Mode.DEPTHWISE
    largest = max(
        -(-shape.channels // shape.channel_tile),
        -(-shape.input_channels // shape.mode.tile),
        -(-max(shape.height, shape.width) // PIXELS),
    )
    least = min(shape.channels, shape.input_channels, shape.height, shape.width)
    rules = [
        ("bits", shape.bits, "2..8", 2 <= shape.bits <= 8),
        ("smallest extent", least, "1 or more", least >= 1),
        ("subtiles", largest, f"at most {_COUNT}", largest <= _COUNT),
        ("bits of a scale", shape.scale_bits, "0, 8, 16, 32", shape.scale_bits in {0, 8, 16, 32}),
        ("bits of an output", shape.output_bits, "8, 32", shape.output_bits in {8, 32}),
        ("8-bit output", "no scale", "a scale", requant or shape.output_bits == 32),
        ("bias or shift per channel", "no scale", "a scale", requant or not _extras(shape)),
        (
            *("stream-in", f"{shape.mode.name.lower()}, {shape.output_bits} bits"),
            *("dense or pointwise, 32 bits",),
            not shape.stream_in or (shape.output_bits == 32 and not depthwise),
        ),
        (
            *("depthwise channels", f"{shape.input_channels} and {shape.channels}", "as many"),
            not depthwise or shape.channels == shape.input_channels,
        ),
    ]
    return [
        Problem(where, str(found), allowed) for where, found, allowed, good in rules if not good
    ]


def _extras(shape: JobShape) -> bool:
    return shape.bias or shape.channel_shift


def _value_problems(job: Job) -> list[Problem]:
    shape, border = job.shape, job.border
    sides = (border.top, border.right, border.bottom, border.left)
    left_over = min(
        _last(shape.height, PIXELS) + shape.mode.border - border.bottom,
        _last(shape.width, PIXELS) + shape.mode.border - border.right,
    )
    # The subtile above the last one reads the border's rows from memory, so they must be there.
    needed = 1 if max(shape.height, shape.width) <= PIXELS else max(1, shape.mode.border)
    masks = 0 if shape.mode is Mode.POINTWISE else 0x1FF
    pixel = shape.channels * shape.output_bits // 8
    row = (shape.width - 1) * job.output.pixel + pixel
    rules = [
        ("weights", job.weights, "a multiple of 32", job.weights % WORD_SIZE == 0),
        ("Wmin", job.least, "-256..255", -256 <= job.least <= 255),
        ("shift", job.requant.right_shift, "0..31", 0 <= job.requant.right_shift <= _SHIFT),
        ("padding", sides, f"0..{_PADDING}", all(0 <= side <= _PADDING for side in sides)),
        ("padding byte", border.value, "0..255", 0 <= border.value <= 255),
        ("input of the last subtile", left_over, f"{needed} or more", left_over >= needed),
        ("filter mask", job.mask, f"0..{masks}", 0 <= job.mask <= masks),
        (
            *("output pixel stride", job.output.pixel, f"{pixel} or more"),
            shape.width == 1 or job.output.pixel >= pixel,
        ),
        (
            *("output row stride", job.output.row, f"{row} or more"),
            shape.height == 1 or job.output.row >= row,
        ),
        (
            *("strided pixels", f"{shape.height} x {shape.width}", "at most 3 x 3"),
            not job.strided or max(shape.height, shape.width) <= 3,
        ),
    ]
    return [
        Problem(where, str(found), allowed) for where, found, allowed, good in rules if not good
    ]


def _pair(high: int, low: int) -> int:
    return high << 16 | low


def _last(extent: int, tile: int) -> int:
    """Size of the last of the subtiles of `extent`."""
    return (extent - 1) % tile + 1
