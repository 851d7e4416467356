"""Axes, tick marks and number formats."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.report.scale import BINARY, DECIMAL, Axis, decimal, percent, ticks


def test_axis_maps_ends_to_ends() -> None:
    axis = Axis(100, 300, 50, -20)  # upwards
    assert [axis.at(v) for v in (100, 200, 300)] == [50, 40, 30]
    assert axis.span(50) == 5


@pytest.mark.parametrize(
    ("low", "high", "most", "base", "expected"),
    [
        (0, 100, 6, DECIMAL, [0, 20, 40, 60, 80, 100]),
        (7, 95, 3, DECIMAL, [50]),  # steps of 20 would be four marks
        (0, 423_251, 9, DECIMAL, [50_000 * i for i in range(9)]),
        (18_440, 44_264, 8, BINARY, [4096 * i for i in range(5, 11)]),
        (3, 3, 5, DECIMAL, [3]),
    ],
)
def test_ticks_by_hand(low: int, high: int, most: int, base: int, expected: list[int]) -> None:
    assert ticks(low, high, most, base) == expected


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(2, 12))
def test_ticks_are_inside_evenly_spaced_and_few(low: int, size: int, most: int) -> None:
    for base in (DECIMAL, BINARY):
        found = ticks(low, low + size, most, base)
        assert len(found) <= most
        assert all(low <= value <= low + size for value in found)
        assert len({b - a for a, b in pairwise(found)}) <= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.001, "0"), (1.0, "1"), (1.25, "1.25"), (1.256, "1.26"), (100, "100")],
)
def test_decimal(value: float, text: str) -> None:
    assert decimal(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0.0"), (1, 3, "33.3"), (1, 10_000, "< 0.1"), (30, 2, "1,500.0"), (1, 0, "0.0")],
)
def test_percent(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text
