"""Cycles of engine jobs against what was measured on the SoC's simulator, trigger to wake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.engine_jobs import LinearJob, linear_shape
from memory_planner.engine_registers import JobShape, Mode
from memory_planner.engine_time import EngineCycles, job_cycles, weight_words
from tests.memory_planner.engine_cycles import CONSERVATIVE, SIMULATOR
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import Packing


def linear(columns: int, rows: int, bits: int = 4, taps: int = 9, windows: int = 1) -> JobShape:
    layout = EngineLayout(Packing.NEUREKA_3X3, rows, columns, bits, columns, taps)
    return linear_shape(LinearJob(layout, layout.channels, windows))


def pointwise(columns: int, rows: int, windows: int = 1) -> JobShape:
    layout = EngineLayout(Packing.NEUREKA_1X1, rows, columns, 4, columns, taps=1)
    return linear_shape(LinearJob(layout, rows, windows))


def requantized(shape: JobShape) -> JobShape:
    """With 8-bit scales, biases and 8-bit output."""
    return replace(shape, output_bits=8, scale_bits=8, bias=True)


def wake_cycles(shape: JobShape, cycles: EngineCycles = SIMULATOR) -> int:
    return job_cycles(shape, cycles) + cycles.wake


@pytest.mark.parametrize(
    ("shape", "measured"),
    [
        (linear(252, 256), 1302),
        (linear(252, 256, bits=8), 2326),
        (linear(252, 256, bits=3), 1046),
        (linear(252, 256, bits=2), 790),
        (linear(504, 512), 5006),
        (linear(1008, 512), 9838),
        (linear(64, 256), 1302),
        (linear(172, 256), 1302),
        (linear(256, 256), 2510),
        (linear(504, 512, windows=2), 5342),
        (linear(504, 512, windows=4), 6782),
        (requantized(pointwise(252, 256)), 4054),
        (requantized(pointwise(504, 512)), 15134),
        (requantized(pointwise(1008, 512)), 29214),
        (requantized(pointwise(504, 512, windows=36)), 15694),
    ],
)
def test_measured_jobs(shape: JobShape, measured: int) -> None:
    assert wake_cycles(shape) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    ("columns", "rows", "expected"), [(252, 256, 2218), (504, 512, 6850), (1008, 512, 11682)]
)
def test_conservative_reading(columns: int, rows: int, expected: int) -> None:
    shape = requantized(linear(columns, rows))
    assert job_cycles(shape, CONSERVATIVE) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("taps", "windows", "per_subtile"), [(9, 1, 161), (3, 1, 175), (3, 2, 196)]
)
def test_subtile_of_64_columns(taps: int, windows: int, per_subtile: int) -> None:
    """32 channels more: 32 rows in the dense arrangement, 96 in columns."""
    rows = 32 * 9 // taps
    more, less = (linear(64, n * rows, taps=taps, windows=windows) for n in (3, 2))
    assert job_cycles(more, SIMULATOR) - job_cycles(less, SIMULATOR) == per_subtile


def test_windows_side_by_side_cost_three_pixels() -> None:
    """A word of eight int32 per pixel: four words each for 32 channels, and the wider input."""
    one, two = (linear(252, 32, windows=windows) for windows in (1, 2))
    assert (two.height, two.width) == (1, 4)
    assert job_cycles(two, SIMULATOR) - job_cycles(one, SIMULATOR) == 3 * 4 + (18 - 9)


def test_requantized_output_costs_200_cycles_per_256_channels() -> None:
    shape = linear(252, 256)
    extra = replace(shape, output_bits=8, scale_bits=8, bias=True)
    assert job_cycles(extra, SIMULATOR) - job_cycles(shape, SIMULATOR) == pytest.approx(200, abs=10)


def test_prefetch_helps_only_beyond_one_tile() -> None:
    for columns, rows, low, high in (
        (252, 256, 0, 0),
        (504, 512, 0.015, 0.04),
        (1008, 512, 0.015, 0.04),
    ):
        shape = linear(columns, rows)
        plain, ahead = (job_cycles(replace(shape, prefetch=p), SIMULATOR) for p in (False, True))
        assert low <= 1 - ahead / plain <= high


def test_sibling_measurements_bound_the_other_parts() -> None:
    """By hand: one tile of each, 10 output pixels in two rows (4 + 6), from the formula's terms."""
    dense = JobShape(Mode.DENSE, 3, 28, 8, 2, 4)
    # 2 + (6 + 4 * 6) + 6 + (8 * 3 + 8) + (6 + 4) * 1
    assert job_cycles(dense, SIMULATOR) == 80
    # and 10 + 8 words for the stream-in
    assert job_cycles(replace(dense, stream_in=True), SIMULATOR) == 98
    # shift 8, scales 8 * 32 / 32 + 9, bias 4, end 8
    full = replace(dense, scale_bits=32, bias=True, channel_shift=True)
    assert job_cycles(full, SIMULATOR) == 80 + 8 + 8 + 9 + 4 + 8
    # 2 + (6 + 9) + 34 + 28 * 3 + ceil(28 / 8)
    assert job_cycles(JobShape(Mode.DEPTHWISE, 3, 28, 28), SIMULATOR) == 139
    # two tiles of rows, 42 + 6 + 10 + 32 each, written 36 * 4 + 3 and 6 * 4 + 3
    point = JobShape(Mode.POINTWISE, 5, 32, 32, 7, 6)
    assert job_cycles(point, SIMULATOR) == 2 + 2 * 90 + 147 + 27


def test_words_are_the_bound() -> None:
    shapes = [linear(504, 100, bits, taps) for bits in (2, 5) for taps in (9, 3, 1)]
    for shape in [*shapes, pointwise(100, 40), JobShape(Mode.DEPTHWISE, 3, 60, 60)]:
        assert weight_words(shape) <= job_cycles(shape, SIMULATOR)
    assert weight_words(linear(504, 512)) == 512 * 2 * 4
    assert weight_words(pointwise(504, 512, 37)) == 512 * 16 * 2
