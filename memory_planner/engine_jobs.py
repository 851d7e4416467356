"""The jobs of a linear: where inputs are staged and accumulators come out, and the registers.

The inputs of a linear become the pixels of a small image in L1 in which every byte that is not an
input is zero (docs/packing.md 9 has the arrangements of the weights). `windows` vectors share one
job: 1, or 2 for the high and low bytes of 16-bit activations, or more tokens:

    dense    3 x 3 patches: 1, 2 (3 x 6) or 4 (6 x 6) windows, an output pixel each
    column   the centre column of 3 x 5, columns 2 and 5 of 3 x 8; three output pixels each
    pixel    the centre of 5 x 5, pixels (2, 2) and (2, 5) of 5 x 8; 3 x 3 output pixels each
             (four windows: two such rows of windows, three pixels apart)
    1 x 1    one pixel each, rows of up to six

The pixels of a dense image lie column by column, so that a vector in its natural order is a patch
and two vectors are patches side by side: the engine writes whole rows of output pixels but for the
last, so a row of four takes less time than a column of four. Accumulators are int32, all channels
of a pixel side by side. Output pixels between the windows are written too and mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.engine_registers import PIXELS, Job, JobShape, Mode, Plane
from toolchain.model.engine_packing import TAPS, EngineLayout
from toolchain.model.errors import InternalError
from toolchain.model.packing import Packing

ACC_SIZE = 4  # bytes of an accumulator
HALVES_APART = 3  # pixels from the upper half of a vector to the lower one


@dataclass(frozen=True, slots=True)
class StageGeometry:
    """Where the inputs of one group lie in the image: input i of window v is the byte

    origins[v] + i // chunk * stride + i % chunk; every other byte is zero.
    """

    size: int  # bytes of the image
    chunk: int  # inputs side by side
    chunks: int
    stride: int  # bytes from one chunk to the next
    origins: tuple[int, ...]  # per window
    pixel: int  # bytes from pixel to pixel
    row: int  # bytes from row to row


@dataclass(frozen=True, slots=True)
class AccGeometry:
    """Where accumulators come out: (window v, slot s, channel c) is the int32 at

    origins[v] + slots[s] + 4 * c. Row r of a tensor whose n channels start at channel b is slot
    r // n, channel b + r % n.
    """

    size: int  # bytes, from the first pixel to the end of the last
    height: int  # output pixels
    width: int
    pixel: int  # bytes from pixel to pixel
    origins: tuple[int, ...]  # per window
    slots: tuple[int, ...]  # per row of a channel

    def offset(self, window: int, row: int, channels: int, first: int = 0) -> int:
        """Byte offset of output `row` of a tensor that has `channels` channels from `first` on."""
        slot, channel = divmod(row, channels)
        return self.origins[window] + self.slots[slot] + ACC_SIZE * (first + channel)


@dataclass(frozen=True, slots=True)
class LinearJob:
    """What a job of one group computes, addresses apart."""

    layout: EngineLayout
    channels: int  # of all tensors in the job
    windows: int = 1


def window_of(layout: EngineLayout, halves: int, token: int, half: int = 0) -> int:
    """The window of a token's vector in a job of several tokens, or of one of its two halves.

    In 1 x 1 the lower halves lie three pixels behind the upper ones, as they do in 3 x 3: a row of
    six pixels serves three tokens.
    """
    if layout.packing is Packing.NEUREKA_1X1 and halves > 1:
        line, place = divmod(token, HALVES_APART)
        return line * PIXELS + place + half * HALVES_APART
    return halves * token + half


def window_count(layout: EngineLayout, halves: int, tokens: int) -> int:
    """Windows up to the last one of `tokens` tokens."""
    return window_of(layout, halves, tokens - 1, halves - 1) + 1


def tokens_per_line(layout: EngineLayout, halves: int) -> int:
    """Tokens whose windows lie in a row of pixels; the next row begins as far behind for all."""
    if layout.packing is Packing.NEUREKA_1X1:
        return PIXELS // halves
    return 2


def stage_geometry(layout: EngineLayout, windows: int = 1) -> StageGeometry:
    """The input image of one group; sizes in bytes. InternalError for windows it cannot have."""
    rows, columns = _input_pixels(layout, windows)
    c = layout.input_channels
    pixel, row = (rows * c, c) if layout.taps == TAPS else (c, columns * c)
    if layout.packing is Packing.NEUREKA_1X1:
        origins = tuple(v * c for v in range(windows))
        chunk, chunks, stride = c, 1, c
    elif layout.taps == TAPS and windows == 4:
        origins = (0, 3 * pixel, 3 * row, 3 * row + 3 * pixel)
        chunk, chunks, stride = 3 * c, 3, pixel
    elif layout.taps == TAPS:
        origins = tuple(9 * c * v for v in range(windows))
        chunk, chunks, stride = 9 * c, 1, 9 * c
    else:
        first = 0 if layout.taps == 3 else 2 * row
        origins = tuple(first + v // 2 * 3 * row + (2 + v % 2 * 3) * c for v in range(windows))
        chunk, chunks, stride = c, layout.taps, row
    return StageGeometry(rows * columns * c, chunk, chunks, stride, origins, pixel, row)


def acc_geometry(layout: EngineLayout, channels: int, windows: int = 1) -> AccGeometry:
    """The accumulators of a job of `channels` channels; sizes in bytes."""
    height, width = _output_pixels(layout, windows)
    pixel = ACC_SIZE * channels
    row = width * pixel
    if layout.packing is Packing.NEUREKA_1X1:
        origins = tuple(v * pixel for v in range(windows))
    else:
        origins = (0, 3 * pixel, 3 * row, 3 * row + 3 * pixel)
    slots = tuple(s // 3 * row + s % 3 * pixel for s in range(layout.shared))
    return AccGeometry(height * row, height, width, pixel, origins[:windows], slots)


def linear_shape(job: LinearJob) -> JobShape:
    """What decides the cycles of `job`; int32 output.

    Where there is a next tile of input channels, the engine loads it ahead.
    """
    height, width = _output_pixels(job.layout, job.windows)
    return JobShape(
        mode=Mode.POINTWISE if job.layout.packing is Packing.NEUREKA_1X1 else Mode.DENSE,
        bits=job.layout.bits,
        input_channels=job.layout.input_channels,
        channels=job.channels,
        height=height,
        width=width,
        prefetch=job.layout.tiles > 1,
    )


def linear_job(
    job: LinearJob, weights: int, staged: int, output: int, weights_in_l1: bool = False
) -> Job:
    """`job` at its addresses: `staged` of the input image and `output` in L1.

    `weights` is the offset of the group's first word from the base of the weight memories, or its
    L1 address. `job_registers` of the result is what the engine gets.
    """
    stage = stage_geometry(job.layout, job.windows)
    acc = acc_geometry(job.layout, job.channels, job.windows)
    return Job(
        shape=linear_shape(job),
        weights=weights,
        input=Plane(staged, stage.pixel, stage.row),
        output=Plane(output, acc.pixel, acc.width * acc.pixel),
        least=job.layout.least,
        weights_in_l1=weights_in_l1,
    )


def _output_pixels(layout: EngineLayout, windows: int) -> tuple[int, int]:
    """Height and width of the output."""
    if layout.packing is Packing.NEUREKA_1X1:
        table = {windows: (-(-windows // PIXELS), min(windows, PIXELS))} if windows > 0 else {}
    else:
        table = {
            9: {1: (1, 1), 2: (1, 4), 4: (4, 4)},
            3: {1: (1, 3), 2: (1, 6), 4: (4, 6)},
            1: {1: (3, 3), 2: (3, 6), 4: (6, 6)},
        }[layout.taps]
    if windows not in table:
        raise InternalError(f"no job of {windows} windows with {layout}")
    return table[windows]


def _input_pixels(layout: EngineLayout, windows: int) -> tuple[int, int]:
    """Height and width of the input image."""
    height, width = _output_pixels(layout, windows)
    border = 0 if layout.packing is Packing.NEUREKA_1X1 else 2
    return height + border, width + border
