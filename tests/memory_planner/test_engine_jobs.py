"""Registers against values derived by hand, staging and accumulators against the arrangement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.engine_jobs import (
    LinearJob,
    acc_geometry,
    linear_job,
    stage_geometry,
)
from memory_planner.engine_registers import (
    Border,
    Job,
    JobShape,
    Mode,
    Plane,
    Requant,
    job_registers,
)
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.errors import InternalError
from toolchain.model.packing import Packing

DENSE, POINTWISE = Packing.NEUREKA_3X3, Packing.NEUREKA_1X1
L1 = 0x10000000


def registers(layout: EngineLayout, windows: int = 1, channels: int | None = None) -> list[int]:
    job = LinearJob(layout, channels or layout.channels, windows)
    return list(job_registers(linear_job(job, 0x400020, L1 + 0x100, L1 + 0x2000)))


def test_dense_registers_by_hand() -> None:
    """504 columns: C = 56, two tiles of 28; 100 rows: three subtiles of 32 and one of 4."""
    assert registers(EngineLayout(DENSE, 100, 504, 3, 504)) == [
        *(0x400020, L1 + 0x100, L1 + 0x2000, 0, 0, 0),
        *(168, 56, 0),  # input: pixel, row
        *(32, 400, 400),  # output: 32-byte words, pixel and row of 100 int32
        *(32, 32 * 2 * 3, 0),  # weights: word, channel of two tiles of three planes
        *(4 << 16 | 28, 1 << 16 | 1, 3 << 16 | 3),  # last subtiles: channels, output, input
        *(4 << 16 | 2, 1 << 16 | 1),  # subtiles
        *(0, 0xFFFFFFFC, 0),  # no padding, Wmin = -4, no mask
        # bits - 1, weight memory, prefetch, job-wise Wmin, int32 output, signed input
        2 | 1 << 9 | 1 << 10 | 1 << 15 | 2 << 21 | 1 << 26,
    ]


def test_dense_pair_registers_by_hand() -> None:
    """High and low bytes side by side: a 3 x 6 input, 1 x 4 outputs."""
    one = registers(EngineLayout(DENSE, 64, 64, 8, 64))
    pair = registers(EngineLayout(DENSE, 64, 64, 8, 64), windows=2)
    changed = {index: pair[index] for index in range(24) if pair[index] != one[index]}
    assert changed == {11: 1024, 16: 1 << 16 | 4, 17: 3 << 16 | 6}
    assert one[6:12] == [24, 8, 0, 32, 256, 256]
    four = registers(EngineLayout(DENSE, 64, 64, 8, 64), windows=4)
    assert four[6:12] == [48, 8, 0, 32, 256, 1024]
    assert four[16:18] == [4 << 16 | 4, 6 << 16 | 6]


def test_column_registers_by_hand() -> None:
    """64 columns: C = 22 in a 3 x 5 image; 96 rows are 32 channels of three output pixels."""
    layout = EngineLayout(DENSE, 96, 64, 4, 64, taps=3)
    assert registers(layout) == [
        *(0x400020, L1 + 0x100, L1 + 0x2000, 0, 0, 0),
        *(22, 110, 0, 32, 128, 384, 32, 128, 0),
        *(32 << 16 | 22, 1 << 16 | 3, 3 << 16 | 5, 1 << 16 | 1, 1 << 16 | 1),
        *(0, 0xFFFFFFF8, 0, 0x04408203),
    ]
    pair = registers(layout, windows=2)
    assert (pair[7], pair[10], pair[11]) == (8 * 22, 128, 6 * 128)
    assert pair[16:18] == [1 << 16 | 6, 3 << 16 | 8]


def test_pixel_and_pointwise_registers_by_hand() -> None:
    """Nine rows per channel; then pixels of 64 channels in rows of six."""
    pixel = registers(EngineLayout(DENSE, 100, 30, 2, 30, taps=1), windows=2)
    assert pixel[6:12] == [30, 240, 0, 32, 48, 288]  # 12 channels
    assert pixel[12:20] == [
        *(32, 128, 0, 12 << 16 | 2),
        *(3 << 16 | 6, 5 << 16 | 8, 1 << 16 | 2, 1 << 16 | 1),
    ]
    point = registers(EngineLayout(POINTWISE, 40, 64, 4, 64, taps=1), windows=8)
    assert point[6:12] == [64, 384, 0, 32, 160, 960]
    assert point[12:20] == [
        *(32, 64, 0, 8 << 16 | 32),
        *(2 << 16 | 6, 2 << 16 | 6, 2 << 16 | 2, 1 << 16 | 1),
    ]
    assert point[23] == 3 | 2 << 5 | 1 << 9 | 1 << 10 | 1 << 15 | 2 << 21 | 1 << 26


def test_fused_tensors_widen_the_output_alone() -> None:
    layout = EngineLayout(DENSE, 32, 64, 4, 64)
    alone, fused = registers(layout), registers(layout, channels=64)
    assert {i for i in range(24) if alone[i] != fused[i]} == {10, 11, 18}
    acc = acc_geometry(layout, 64)
    assert acc.offset(0, 5, channels=32, first=32) == 4 * 37


def test_requantizing_job_by_hand() -> None:
    """Every register of a convolution with padding, bias, shifts per channel and 8-bit output."""
    shape = JobShape(
        *(Mode.DENSE, 5, 30, 40, 13, 6, 8, 16),
        bias=True,
        channel_shift=True,
        prefetch=True,
    )
    job = Job(
        shape,
        *(L1 + 0x4000, Plane(L1, 30, 180), Plane(L1 + 0x8000, 40, 240), -126),
        weights_in_l1=True,
        signed=False,
        requant=Requant(L1 + 0x100, L1 + 0x200, L1 + 0x300, 7, relu=True),
        border=Border(1, 2, 1, 2, 0xA5),
        mask=0x101,
    )
    assert list(job_registers(job)) == [
        *(L1 + 0x4000, L1, L1 + 0x8000, L1 + 0x100, L1 + 0x200, L1 + 0x300),
        *(30, 180, 0, 32, 40, 240, 32, 320, 0),
        *(8 << 16 | 2, 1 << 16 | 6, 2 << 16 | 6, 2 << 16 | 2, 3 << 16 | 1),
        *(0x121200A5, 0xFFFFFF82, 0x101),
        4 | 1 << 4 | 1 << 10 | 1 << 12 | 1 << 15 | 7 << 16 | 1 << 24 | 1 << 25,
    ]
    signed = job_registers(replace(job, signed=True, requant=Requant(), weights_in_l1=False))
    assert signed[23] & (1 << 26 | 1 << 23 | 1 << 9) == 1 << 26 | 1 << 23 | 1 << 9
    depthwise = replace(shape, mode=Mode.DEPTHWISE, channels=30, output_bits=32, scale_bits=32)
    result = job_registers(replace(job, shape=depthwise, output=Plane(L1, 120, 720)))
    assert result[12:16] == (32, 0, 0, 2 << 16 | 2)
    assert result[18] == 2 << 16 | 2
    assert result[23] >> 5 & 3 == 1
    assert result[23] >> 12 & 3 == 2
    assert result[23] >> 21 & 3 == 2


def test_what_is_not_defined_is_refused() -> None:
    shape = JobShape(Mode.DENSE, 4, 28, 32)
    good = Job(shape, 0, Plane(L1, 28, 84), Plane(L1, 128, 128), -8)
    job_registers(good)
    bad_shapes = [
        replace(shape, bits=9),
        replace(shape, width=0),
        replace(shape, channels=32 * 65536),
        replace(shape, scale_bits=24),
        replace(shape, output_bits=16),
        replace(shape, output_bits=8),
        replace(shape, bias=True),
        replace(shape, scale_bits=8, output_bits=8, stream_in=True),
        replace(shape, mode=Mode.DEPTHWISE),
        replace(shape, mode=Mode.DEPTHWISE, channels=28, stream_in=True),
    ]
    bad = [
        *(replace(good, shape=s) for s in bad_shapes),
        replace(good, weights=16),
        replace(good, least=-257),
        replace(good, requant=Requant(right_shift=32)),
        replace(good, border=Border(top=3)),
        replace(good, border=Border(bottom=3)),
        replace(good, border=Border(value=256)),
        replace(good, shape=replace(shape, height=7), border=Border(bottom=2)),
        replace(good, mask=512),
        replace(good, strided=True, shape=replace(shape, height=4)),
        replace(good, input=Plane(-4, 28, 84)),
        replace(good, shape=replace(shape, width=2), output=Plane(L1, 127, 256)),
        replace(good, shape=replace(shape, height=2), output=Plane(L1, 128, 127)),
    ]
    for job in bad:
        with pytest.raises(InternalError):
            job_registers(job)


@pytest.mark.parametrize(("taps", "windows"), [(9, 3), (3, 3), (1, 0)])
def test_windows_that_do_not_exist(taps: int, windows: int) -> None:
    with pytest.raises(InternalError, match="windows"):
        stage_geometry(EngineLayout(DENSE, 4, 30, 4, 30, taps), windows)


def test_geometry_by_hand() -> None:
    """C = 10 (30 columns in three chunks): hi in image column 2, lo in column 5 of eight."""
    layout = EngineLayout(DENSE, 7, 29, 4, 29, taps=3)
    stage = stage_geometry(layout, 2)
    assert (stage.size, stage.chunk, stage.chunks, stage.stride) == (240, 10, 3, 80)
    assert stage.origins == (20, 50)
    acc = acc_geometry(layout, layout.channels, 2)  # three channels, six pixels of 12 bytes
    assert (acc.size, acc.origins, acc.slots) == (72, (0, 36), (0, 12, 24))
    assert acc.offset(1, 5, channels=3) == 36 + 12 + 8
    pixel = EngineLayout(DENSE, 18, 10, 4, 10, taps=1)
    assert stage_geometry(pixel).origins == (2 * 50 + 20,)
    assert acc_geometry(pixel, 2).slots == tuple(8 * s for s in range(9))
    assert acc_geometry(pixel, 2, 2).slots == (0, 8, 16, 48, 56, 64, 96, 104, 112)
    four = stage_geometry(EngineLayout(DENSE, 7, 30, 4, 30), 4)  # C = 4, 6 x 6 pixels
    assert (four.size, four.chunk, four.stride) == (144, 12, 24)
    assert four.origins == (0, 72, 12, 84)
