"""Cycles of an engine job from its shape, for one reading of the sources.

The loop nest is: output-channel subtiles, rows and columns of pixels, input-channel subtiles. Each
innermost step loads its input pixels, starts, and takes one word of weights per cycle. With
prefetch the words of a step are read while the input of the next one is loaded, except at the end
of an output-channel subtile. Then come requantization and the writing of the pixels.

The reading of the simulator counts the pixels that a job has; a conservative reading, after the
public sources of a sibling of the engine, always counts a full input buffer and a full output tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from memory_planner.engine_registers import PIXELS, JobShape, Mode


@dataclass(frozen=True, slots=True)
class EngineCycles:
    """Constants of one reading, all in cycles; the target file says where each comes from."""

    wake: int  # from the end of a job to a core awake
    job: int  # per job
    load: int  # per step, before the first input word
    input_words_3x3: int  # words of input per step, 0: one per input pixel
    input_words_1x1: int
    start_3x3: int  # per step, between input and weights
    start_1x1: int
    start_1x1_prefetch: int
    end_3x3: int  # per step, behind the weights
    depthwise: int  # per step, instead of start and end
    prefetched: int  # of a step's load that hides weights besides the input words
    stream_in: int  # per tile of pixels, besides the words
    shift: int  # per tile of pixels, with a shift per channel
    scale: int  # per tile of pixels, besides the words of scales
    bias: int  # per tile of pixels, with a bias
    requant_end: int  # per tile of pixels
    output_pixels: int  # pixels written per tile, 0: those up to the last of the job
    write_1x1: int  # per tile of pixels


@dataclass(frozen=True, slots=True)
class _Tile:
    """One output tile: its channels and pixels."""

    channels: int
    height: int
    width: int
    final: bool  # the last tile of pixels of its channels


@lru_cache(maxsize=4096)  # planners ask for the same shapes again and again
def job_cycles(shape: JobShape, cycles: EngineCycles) -> int:
    """Cycles that the engine is busy with the job; trigger to wake takes `cycles.wake` more."""
    rows, columns = _extents(shape.height, PIXELS), _extents(shape.width, PIXELS)
    total, pending = cycles.job, 0  # cycles of weights that the next load may hide
    for channels in _extents(shape.channels, shape.channel_tile):
        for a, height in enumerate(rows):
            for b, width in enumerate(columns):
                final = a == len(rows) - 1 and b == len(columns) - 1
                tile = _Tile(channels, height, width, final)
                steps, pending = _step_cycles(shape, tile, cycles, pending)
                total += steps + _requant_cycles(shape, tile, cycles)
                total += _move_cycles(shape, tile, cycles)
    return total


def weight_words(shape: JobShape) -> int:
    """Words of weights that a job reads, one per cycle at best: the bandwidth bound of the job."""
    tiles = -(-shape.input_channels // shape.mode.tile)
    pixels = -(-shape.height // PIXELS) * -(-shape.width // PIXELS)
    if shape.mode is Mode.DEPTHWISE:
        return tiles * shape.bits * pixels
    planes = 1 if shape.mode is Mode.POINTWISE else shape.bits
    return shape.channels * tiles * planes * pixels


def _step_cycles(
    shape: JobShape, tile: _Tile, cycles: EngineCycles, pending: int
) -> tuple[int, int]:
    """Cycles of all input-channel steps of a tile, and the weights still pending behind them."""
    border = shape.mode.border
    pointwise, depthwise = shape.mode is Mode.POINTWISE, shape.mode is Mode.DEPTHWISE
    pixels = (tile.height + border) * (tile.width + border)
    words = cycles.input_words_1x1 if pointwise else cycles.input_words_3x3 or pixels
    load = cycles.load + words
    if depthwise:
        return load + cycles.depthwise + tile.channels * shape.bits, 0
    weights = tile.channels if pointwise else tile.channels * shape.bits + cycles.end_3x3
    start = cycles.start_1x1 if pointwise else cycles.start_3x3
    tiles = -(-shape.input_channels // shape.mode.tile)
    if not shape.prefetch:
        return tiles * (load + start + weights), 0
    start = cycles.start_1x1_prefetch if pointwise else start
    total = 0
    for step in range(tiles):
        total += load + max(0, pending - (words + cycles.prefetched)) + start
        last = tile.final and step == tiles - 1
        total, pending = (total + weights, start) if last else (total, start + weights)
    return total, pending


def _requant_cycles(shape: JobShape, tile: _Tile, cycles: EngineCycles) -> int:
    if not shape.scale_bits:
        return 0
    words = -(-tile.channels * shape.scale_bits // 32)
    extra = cycles.shift * shape.channel_shift + cycles.bias * shape.bias
    return extra + words + cycles.scale + cycles.requant_end


def _move_cycles(shape: JobShape, tile: _Tile, cycles: EngineCycles) -> int:
    """Accumulators read back, and outputs written."""
    words = -(-tile.channels // 8)  # of int32, per pixel
    pixels = cycles.output_pixels or PIXELS * (tile.height - 1) + tile.width
    total = pixels * (words if shape.output_bits == 32 else 1)
    if shape.stream_in:
        total += cycles.stream_in + tile.height * tile.width * words
    return total + (cycles.write_1x1 if shape.mode is Mode.POINTWISE else 0)


def _extents(extent: int, tile: int) -> list[int]:
    """Sizes of the subtiles of `extent`."""
    return [min(tile, extent - at) for at in range(0, extent, tile)]
