"""Memories and random jobs for the tests of the engine's models."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from memory_planner.engine_registers import (
    Border,
    Job,
    JobShape,
    Mode,
    Plane,
    Requant,
    job_registers,
)

L1, L1_SIZE = 0x10000000, 0x20000
NMS, NMS_SIZE = 0x10400000, 0x20000


class OutsideError(Exception):
    """An access where there is no memory."""


class Image:
    """L1 and a weight memory, full of random bytes."""

    def __init__(self, seed: int = 0, l1_size: int = L1_SIZE, nms_size: int = NMS_SIZE) -> None:
        rng = np.random.default_rng(seed)
        self.parts = {
            L1: rng.integers(0, 256, l1_size, np.uint8),
            NMS: rng.integers(0, 256, nms_size, np.uint8),
        }

    def span(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        for base, data in self.parts.items():
            if base <= address and address + size <= base + len(data):
                return data[address - base : address - base + size]
        raise OutsideError(f"{size} bytes at {address:#x}")

    def read(self, address: int, size: int) -> bytes:
        return self.span(address, size).tobytes()

    def write(self, address: int, data: bytes) -> None:
        self.span(address, len(data))[:] = np.frombuffer(data, np.uint8)


@dataclass(frozen=True)
class Sizes:
    """Upper limits of a random job."""

    channels: int = 70
    inputs: int = 70
    pixels: int = 8


def random_job(rng: np.random.Generator, sizes: Sizes = Sizes()) -> Job:
    """A legal job on `Image`: every mode and option, strides wider than needed."""

    def pick(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    strided = pick(0, 7) == 0
    shape = _shape(rng, replace(sizes, pixels=3) if strided else sizes)
    mode, columns = shape.mode, shape.width + shape.mode.border
    pixel = shape.input_channels + pick(0, 5)
    row = columns * pixel + pick(0, 9)
    output_pixel = shape.channels * shape.output_bits // 8 + pick(0, 5)
    output_row = shape.width * output_pixel + pick(0, 9)
    # From the end of L1 downwards: output, scales, shifts, biases, weights; the input is below.
    output = L1 + L1_SIZE - shape.height * output_row - pick(0, 40)
    scale, shifts, biases = (output - n * 288 for n in (1, 2, 3))
    planes = 1 if mode is Mode.POINTWISE else shape.bits
    channels = 1 if mode is Mode.DEPTHWISE else shape.channels
    words = 32 * -(-shape.input_channels // mode.tile) * planes * channels
    rows = shape.height + mode.border
    in_l1 = bool(pick(0, 1)) and rows * row + words + 4096 < biases - L1
    weights = (biases - words) // 32 * 32 if in_l1 else 32 * pick(0, (NMS_SIZE - words) // 32)
    return Job(
        shape=shape,
        weights=weights,
        input=Plane(L1 + pick(0, 600), pixel, row),
        output=Plane(output, output_pixel, output_row),
        least=pick(-256, 255) if pick(0, 1) else -(1 << (shape.bits - 1)),
        weights_in_l1=in_l1,
        signed=bool(pick(0, 1)),
        requant=Requant(scale, shifts, biases, pick(0, 31), bool(pick(0, 1))),
        border=_border(rng, mode, shape.height, shape.width),
        mask=0 if mode is Mode.POINTWISE or pick(0, 1) else pick(0, 511),
        strided=strided,
    )


def _shape(rng: np.random.Generator, sizes: Sizes) -> JobShape:
    mode = list(Mode)[rng.integers(3)]
    channels, inputs = (int(rng.integers(n)) + 1 for n in (sizes.channels, sizes.inputs))
    scale_bits = (0, 8, 16, 32)[rng.integers(4)]
    output_bits = (8, 32)[rng.integers(2)] if scale_bits else 32
    flags = [bool(flag) for flag in rng.integers(0, 2, 4)]
    return JobShape(
        mode=mode,
        bits=int(rng.integers(2, 9)),
        input_channels=channels if mode is Mode.DEPTHWISE else inputs,
        channels=channels,
        height=int(rng.integers(sizes.pixels)) + 1,
        width=int(rng.integers(sizes.pixels)) + 1,
        output_bits=output_bits,
        scale_bits=scale_bits,
        bias=bool(scale_bits) and flags[0],
        channel_shift=bool(scale_bits) and flags[1],
        stream_in=mode is not Mode.DEPTHWISE and output_bits == 32 and flags[2],
        prefetch=flags[3],
    )


def _border(rng: np.random.Generator, mode: Mode, height: int, width: int) -> Border:
    if rng.integers(2):
        return Border()
    sides = [int(side) for side in rng.integers(0, 3, 4)]
    # Below and on the right the last subtile keeps an input, where there are several the border.
    several = max(height, width) > 6
    for index, extent in ((1, width), (2, height)):
        left = (extent - 1) % 6 + 1 + mode.border - (max(1, mode.border) if several else 1)
        sides[index] = min(sides[index], left)
    top, right, bottom, left = sides
    return Border(top, right, bottom, left, int(rng.integers(256)))


def random_case(seed: int, sizes: Sizes = Sizes()) -> tuple[Image, Job]:
    """A memory and a legal job on it; shifts per channel are at most 31, scales random."""
    rng = np.random.default_rng(seed)
    image, job = Image(seed), random_job(rng, sizes)
    if job.shape.channel_shift:
        shifts = image.span(job.requant.shift, job.shape.channels)
        shifts %= 32
    job_registers(job)
    return image, job
