"""The N-EUREKA engine, register by register: runs one job on the bytes of a memory.

For every output pixel and channel the accumulator is the sum over taps and input channels of
(code + Wmin) * input, modulo 2^32, from zero or from the output (stream-in); then it is written as
it is, or requantized: a * scale, plus bias modulo 2^32, arithmetic shift right (floor), clip.
Modes, strides, padding and refusals are those of docs/engine.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.neureka_config import DEPTHWISE, POINTWISE, WORD, Config, JobError, decode

_Ints = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_Pixels = list[list[int]]


class ByteMemory(Protocol):
    """Bytes by target address."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address` on; raises where there is no memory."""

    def write(self, address: int, data: bytes) -> None:
        """Stores `data` from `address` on; raises where there is no memory."""


def run_job(registers: Sequence[int], memory: ByteMemory, weight_base: int) -> None:
    """Run the job of `registers` on `memory`; offsets of weight memories count from `weight_base`.

    Raises JobError for registers that are not a defined job, or whose output overlaps what it
    reads; whatever `memory` raises passes through. Nothing is written unless all was read.
    """
    config = decode(registers)
    _check_overlap(config, weight_base)
    patches = _patches(config, memory)  # (pixels, taps, tiles, tile)
    codes = _codes(config, memory, weight_base)
    weighted = _depthwise(patches, codes) if config.mode == DEPTHWISE else _dense(patches, codes)
    offset = config.least * _input_sums(config, patches)
    accumulators = _wrap(weighted[:, : config.channels] + offset + _start(config, memory))
    outputs = _requantize(config, memory, accumulators) if config.requant else accumulators
    dtype = "<i4" if config.output_size == 4 else "<u1"
    rows = (outputs & 0xFFFFFFFF).astype("<u4").astype(dtype)
    for row, address in zip(rows, _written(config), strict=True):
        if address is not None:
            memory.write(address, row.tobytes())


def _wrap(values: _Ints) -> _Ints:
    """The low 32 bits as a signed integer."""
    return (values + (1 << 31)) % (1 << 32) - (1 << 31)


def _output_addresses(config: Config) -> _Pixels:
    return [
        [
            config.output + y * config.output_row + x * config.output_pixel
            for x in range(config.width)
        ]
        for y in range(config.height)
    ]


def _written(config: Config) -> list[int | None]:
    """Address of each output pixel in order, None for one that strided mode leaves out."""
    return [
        None if config.strided and (y % 2 or x % 2) else address
        for y, row in enumerate(_output_addresses(config))
        for x, address in enumerate(row)
    ]


def _check_overlap(config: Config, weight_base: int) -> None:
    """The hull of the output against those of inputs, weights and operands."""
    last = _output_addresses(config)[-1][-1]
    end = last + config.channels * config.output_size
    rows, columns = config.input_height - 1, config.input_width - 1
    words = config.tiles * config.planes * (1 if config.mode == DEPTHWISE else config.channels)
    input_end = config.input + rows * config.input_row + columns * config.input_pixel
    first_row, first_column = min(config.top, rows), min(config.left, columns)
    first = config.input + first_row * config.input_row + first_column * config.input_pixel
    weights = config.weights + (weight_base if config.in_weight_memory else 0)
    parts = [
        ("input", first, input_end + config.input_channels),
        ("weights", weights, weights + WORD * words),
    ]
    if config.requant:
        scales = config.scale + config.scale_size * config.channels
        parts.append(("scales", config.scale, scales))
    if config.channel_shift:
        parts.append(("shifts", config.shift, config.shift + config.channels))
    if config.use_bias:
        parts.append(("biases", config.bias, config.bias + 4 * config.channels))
    for what, low, high in parts:
        if low < end and config.output < high:
            raise JobError(f"the output of a job overlaps its {what}")


def _patches(config: Config, memory: ByteMemory) -> _Ints:
    """Inputs of each output pixel: (pixels, taps, tiles, tile), zero where masked or absent."""
    size = config.tiles * config.tile
    image = np.zeros(
        (config.input_height + config.bottom, config.input_width + config.right, size), np.uint8
    )
    image[:, :, : config.input_channels] = config.padding
    for y in range(config.top, config.input_height):
        for x in range(config.left, config.input_width):
            address = config.input + y * config.input_row + x * config.input_pixel
            data = memory.read(address, config.input_channels)
            image[y, x, : config.input_channels] = np.frombuffer(data, np.uint8)
    values: _Ints = (image.view(np.int8) if config.signed else image).astype(np.int64)
    kernel = 1 if config.mode == POINTWISE else 3
    shifted = [
        values[y : y + config.height, x : x + config.width]
        for y in range(kernel)
        for x in range(kernel)
    ]
    taps = np.stack(shifted, axis=2).reshape(-1, kernel * kernel, config.tiles, config.tile)
    kept = [not config.mask >> tap & 1 for tap in range(kernel * kernel)]
    return np.ascontiguousarray(taps * np.array(kept)[:, None, None])


def _codes(config: Config, memory: ByteMemory, weight_base: int) -> _Bytes:
    """Codes of the weights: (channels, taps, tiles, tile); depthwise has one channel."""
    channels = 1 if config.mode == DEPTHWISE else config.channels
    size = WORD * config.tiles * config.planes * channels
    start = config.weights + (weight_base if config.in_weight_memory else 0)
    words = np.frombuffer(memory.read(start, size), np.uint8)
    bits = np.unpackbits(words, bitorder="little")
    if config.mode == POINTWISE:
        planes = bits.reshape(channels, config.tiles, 8, 8, 4).transpose(3, 0, 1, 2, 4)
        planes = planes[: config.bits].reshape(config.bits, channels, config.tiles, 1, config.tile)
    else:
        planes = bits.reshape(channels, config.tiles, config.bits, 256)[..., : 9 * config.tile]
        planes = planes.transpose(2, 0, 1, 3).reshape(
            config.bits, channels, config.tiles, 9, config.tile
        )
    codes = np.zeros(planes.shape[1:], np.uint8)
    for plane, values in enumerate(planes):
        codes |= values << np.uint8(plane)
    return codes.transpose(0, 2, 1, 3)


def _dense(patches: _Ints, codes: _Bytes) -> _Ints:
    """Products of all pixels and channels; exact in doubles, |sum| < 2^53."""
    inputs = patches.reshape(len(patches), -1).astype(np.float64)
    weights = codes.reshape(len(codes), -1).astype(np.float64)
    return (inputs @ weights.T).astype(np.int64)


def _depthwise(patches: _Ints, codes: _Bytes) -> _Ints:
    sums: _Ints = (patches * codes).sum(axis=1)
    return sums.reshape(len(patches), -1)


def _input_sums(config: Config, patches: _Ints) -> _Ints:
    """Sum of the inputs that each accumulator has seen: (pixels, channels or 1)."""
    if config.mode == DEPTHWISE:
        sums: _Ints = patches.sum(axis=1)
        return sums.reshape(len(patches), -1)[:, : config.channels]
    totals: _Ints = patches.reshape(len(patches), -1).sum(axis=1, keepdims=True)
    return totals


def _start(config: Config, memory: ByteMemory) -> _Ints:
    """Accumulators before the first product."""
    if not config.stream_in:
        return np.zeros((1, 1), np.int64)
    size = 4 * config.channels
    rows = [bytes(size) if at is None else memory.read(at, size) for at in _written(config)]
    return np.frombuffer(b"".join(rows), "<i4").reshape(len(rows), -1).astype(np.int64)


def _requantize(config: Config, memory: ByteMemory, accumulators: _Ints) -> _Ints:
    """Scale, bias, shift and clip; the product has 64 bits, with a bias only the low 32 remain."""

    def operand(address: int, dtype: str) -> _Ints:
        size = config.channels * np.dtype(dtype).itemsize
        return np.frombuffer(memory.read(address, size), dtype).astype(np.int64)

    values = accumulators * operand(config.scale, f"<u{config.scale_size}")
    if config.use_bias:
        values = _wrap(_wrap(values) + operand(config.bias, "<i4"))
    shift = operand(config.shift, "<u1") if config.channel_shift else np.int64(config.right_shift)
    if np.max(shift) > 31:
        raise JobError(f"a shift of {np.max(shift)}")
    values = values >> shift
    if config.output_size == 1:
        return np.clip(values, 0, 255) if config.relu else np.clip(values, -128, 127)
    return np.clip(values, 0, (1 << 32) - 1) if config.relu else values
