"""The engine's model against sums in plain loops, for every mode and option."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from memory_planner.engine_registers import (
    Border,
    Job,
    JobShape,
    Mode,
    Plane,
    Requant,
    job_registers,
)
from sim.neureka import run_job
from sim.neureka_config import JobError
from tests.sim.engine_cases import L1, NMS, Image, OutsideError, Sizes, random_case


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


def code(image: Image, job: Job, channel: int, tap: int, i: int) -> int:
    """Code of one weight, bit by bit from its words."""
    shape = job.shape
    base = job.weights + (0 if job.weights_in_l1 else NMS)
    tile, c = divmod(i, shape.mode.tile)
    tiles = -(-shape.input_channels // shape.mode.tile)
    if shape.mode is Mode.POINTWISE:
        word = base + 32 * (channel * tiles + tile)
        bits = [(word + 4 * (c // 4) + q // 2, 4 * (q % 2) + c % 4) for q in range(shape.bits)]
    else:
        first = tile if shape.mode is Mode.DEPTHWISE else channel * tiles + tile
        n = 28 * tap + c
        bits = [(base + 32 * (first * shape.bits + q) + n // 8, n % 8) for q in range(shape.bits)]
    return sum((image.read(byte, 1)[0] >> bit & 1) << q for q, (byte, bit) in enumerate(bits))


def pixel_byte(image: Image, job: Job, y: int, x: int, i: int) -> int:
    """Input i of the pixel that is y rows below the first, padding included."""
    border, edge = job.border, job.shape.mode.border
    inside = border.top <= y < job.shape.height + edge - border.bottom
    inside = inside and border.left <= x < job.shape.width + edge - border.right
    value = border.value
    if inside:
        address = job.input.address + y * job.input.row + x * job.input.pixel + i
        value = image.read(address, 1)[0]
    return signed(value, 8) if job.signed else value


def accumulator(image: Image, job: Job, y: int, x: int, channel: int) -> int:
    shape = job.shape
    kernel = 1 if shape.mode is Mode.POINTWISE else 3
    depthwise = shape.mode is Mode.DEPTHWISE
    total = 0
    if shape.stream_in:
        address = job.output.address + y * job.output.row + x * job.output.pixel + 4 * channel
        total = int.from_bytes(image.read(address, 4), "little", signed=True)
    for tap in range(kernel * kernel):
        if job.mask >> tap & 1:
            continue
        for i in [channel] if depthwise else range(shape.input_channels):
            value = pixel_byte(image, job, y + tap // kernel, x + tap % kernel, i)
            total += (code(image, job, channel, tap, i) + job.least) * value
    return signed(total, 32)


def expected(image: Image, job: Job, y: int, x: int, channel: int) -> bytes:
    """The bytes of one output."""
    shape, requant = job.shape, job.requant
    value = accumulator(image, job, y, x, channel)
    if shape.scale_bits:
        size = shape.scale_bits // 8
        value *= int.from_bytes(image.read(requant.scale + size * channel, size), "little")
        if shape.bias:
            bias = int.from_bytes(image.read(requant.bias + 4 * channel, 4), "little", signed=True)
            value = signed(value + bias, 32)
        shift = image.read(requant.shift + channel, 1)[0] if shape.channel_shift else None
        value >>= requant.right_shift if shift is None else shift
        if shape.output_bits == 8:
            low, high = (0, 255) if requant.relu else (-128, 127)
            value = min(max(value, low), high)
        elif requant.relu:
            value = min(max(value, 0), (1 << 32) - 1)
    return (value & 0xFFFFFFFF).to_bytes(4, "little")[: shape.output_bits // 8]


@pytest.mark.parametrize("seed", range(60))
def test_every_mode_against_loops(seed: int) -> None:
    image, job = random_case(seed, Sizes(40, 40, 8))
    before = Image(seed)
    before.parts = {base: data.copy() for base, data in image.parts.items()}
    run_job(job_registers(job), image, NMS)
    shape, size = job.shape, job.shape.output_bits // 8
    rng = np.random.default_rng(seed)
    for _ in range(5):
        y, x, channel = (int(rng.integers(n)) for n in (shape.height, shape.width, shape.channels))
        address = job.output.address + y * job.output.row + x * job.output.pixel + size * channel
        if job.strided and (y % 2 or x % 2):
            assert image.read(address, size) == before.read(address, size)
        else:
            assert image.read(address, size) == expected(before, job, y, x, channel)
    for y in range(shape.height):  # and nothing else was written
        for x in range(shape.width):
            start = job.output.address + y * job.output.row + x * job.output.pixel
            before.write(start, image.read(start, size * shape.channels))
    assert all((image.parts[base] == data).all() for base, data in before.parts.items())


def test_cases_reach_every_option() -> None:
    jobs = [random_case(seed, Sizes(40, 40, 8))[1] for seed in range(60)]
    for job_field in ("weights_in_l1", "signed", "mask", "strided"):
        assert len({bool(getattr(job, job_field)) for job in jobs}) == 2, job_field
    for field in (
        "bias",
        "channel_shift",
        "stream_in",
        "mode",
        "bits",
        "scale_bits",
        "output_bits",
    ):
        values = {getattr(job.shape, field) for job in jobs}
        assert len(values) == {"mode": 3, "bits": 7, "scale_bits": 4}.get(field, 2), field
    for side in ("top", "right", "bottom", "left"):
        assert {getattr(job.border, side) for job in jobs} == {0, 1, 2}
    assert {job.requant.relu for job in jobs if job.shape.output_bits == 8} == {False, True}


def one_channel(total: int, scale: int, bias: int | None, shift: int, **options: bool) -> int:
    """Output of a job whose one accumulator is `total`, streamed in; 32-bit scale."""
    image = Image()
    shape = JobShape(Mode.POINTWISE, 8, 1, 1, scale_bits=32, bias=bias is not None, stream_in=True)
    requant = Requant(L1 + 64, 0, L1 + 128 if bias is not None else 0, shift, **options)
    job = Job(shape, 0, Plane(L1, 1, 1), Plane(L1 + 32, 4, 4), 0, requant=requant)
    image.write(L1, bytes(1))  # the input is zero
    image.write(L1 + 32, total.to_bytes(4, "little", signed=True))
    image.write(L1 + 64, scale.to_bytes(4, "little"))
    image.write(L1 + 128, (bias or 0).to_bytes(4, "little", signed=True))
    run_job(job_registers(job), image, NMS)
    return int.from_bytes(image.read(L1 + 32, 4), "little", signed=True)


def test_requantization_by_hand() -> None:
    assert one_channel(-3, 1, None, 1) == -2  # floor
    assert one_channel(-3, 1, 1, 1) == -1
    assert one_channel(-3, 1, 0, 1, relu=True) == 0
    assert one_channel(1 << 30, 4, 5, 0) == 5  # 2^32 + 5: only the low 32 bits meet the bias
    assert one_channel(1 << 30, 1, 1 << 30, 0) == -(1 << 31)  # the sum wraps
    assert one_channel(1 << 30, 4, None, 2) == 1 << 30  # without a bias all bits are shifted
    assert one_channel(-(1 << 31), 0xFFFFFFFF, None, 31) == -0xFFFFFFFF + (1 << 32)  # unsigned


def test_accumulators_wrap() -> None:
    image = Image()
    job = Job(JobShape(Mode.POINTWISE, 8, 1, 1, stream_in=True), 0, *two_planes(), 0)
    image.write(NMS, b"\x11\x11\x11\x11")  # lane 0, all planes: code 255
    image.write(L1, b"\x7f")
    image.write(L1 + 32, (0x7FFFFFFF).to_bytes(4, "little"))
    run_job(job_registers(job), image, NMS)
    assert int.from_bytes(image.read(L1 + 32, 4), "little") == 0x7FFFFFFF + 255 * 127


def two_planes() -> tuple[Plane, Plane]:
    return Plane(L1, 1, 1), Plane(L1 + 32, 4, 4)


GOOD = Job(
    JobShape(Mode.DENSE, 3, 40, 40, 8, 7, scale_bits=8, bias=True, channel_shift=True),
    *(0, Plane(L1 + 500, 40, 360), Plane(L1 + 0x8000, 160, 1120), -4),
    requant=Requant(L1 + 0x7000, L1 + 0x7100, L1 + 0x7200),
    border=Border(1, 1, 1, 1, 3),
)
MUTATIONS = [
    *(
        (index, 1) for index in (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 22)
    ),  # pointers, strides
    *((index, delta) for index in (15, 16, 17, 18, 19) for delta in (1, 1 << 16, -1, -(1 << 16))),
    *((21, delta) for delta in (1, -1, 1 << 8)),
    *((23, 1 << bit) for bit in (0, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 21, 22, 23, 24, 25, 26, 27)),
]


@pytest.mark.parametrize(("index", "delta"), MUTATIONS)
def test_a_wrong_register_is_seen(index: int, delta: int) -> None:
    """The result changes or the job is refused; conf0 bits are flipped, the rest is added."""
    registers = list(job_registers(GOOD))
    mutated = registers.copy()
    mutated[index] = registers[index] ^ delta if index == 23 else registers[index] + delta
    images = [Image(1), Image(1)]
    for image in images:
        image.span(L1 + 0x7100, 64)[:] %= 8
        image.span(L1 + 0x7000, 64)[:] = 1
        image.span(L1 + 0x7200, 256).view("<i4")[:] = 7
    run_job(registers, images[0], NMS)
    try:
        run_job(mutated, images[1], NMS)
    except (JobError, OutsideError):
        return
    assert (images[0].parts[L1] != images[1].parts[L1]).any()


def test_overlaps_are_refused() -> None:
    registers = list(job_registers(GOOD))
    starts = {
        "input": L1 + 900,
        "scales": L1 + 0x7020,
        "shifts": L1 + 0x7120,
        "biases": L1 + 0x7220,
    }
    for what, address in starts.items():
        with pytest.raises(JobError, match=what):
            run_job([*registers[:2], address, *registers[3:]], Image(), NMS)
    weights = job_registers(replace(GOOD, weights=L1 + 0x8020, weights_in_l1=True))
    with pytest.raises(JobError, match="weights"):
        run_job(weights, Image(), NMS)
    with pytest.raises(JobError, match="24 registers"):
        run_job(registers[1:], Image(), NMS)
    with pytest.raises(JobError, match="24 registers"):
        run_job([*registers[:23], -1], Image(), NMS)


def test_large_shift_per_channel_is_refused() -> None:
    image = Image()
    image.span(GOOD.requant.shift, 40)[:] = 32
    with pytest.raises(JobError, match="shift of 32"):
        run_job(job_registers(GOOD), image, NMS)


def test_a_large_job_is_fast() -> None:
    shape = JobShape(Mode.DENSE, 4, 228, 512)  # 2048 inputs, 512 outputs
    image = Image(0, nms_size=1 << 20)
    job = Job(shape, 0, Plane(L1, 228, 684), Plane(L1 + 0x4000, 2048, 2048), -8)
    run_job(job_registers(job), image, NMS)
    start = time.process_time()
    run_job(job_registers(job), image, NMS)
    assert time.process_time() - start < 0.5
