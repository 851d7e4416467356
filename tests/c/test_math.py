"""edgec_math.h: hand-computed values, and exact integers for random arguments."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_uint32
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.c.runtime import Runtime

INT32_MAX = 2**31 - 1
INT32 = st.integers(-INT32_MAX, INT32_MAX)


def call(runtime: Runtime, name: str, *arguments: object) -> int:
    return int(getattr(runtime.library, "math_" + name)(*arguments))


def exact_round(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


@pytest.mark.parametrize(
    ("x", "n", "expected"),
    [
        *((6, 2, 2), (5, 2, 1), (-6, 2, -1), (-5, 2, -1), (-7, 2, -2)),  # half goes up
        *((1, 1, 1), (-1, 1, 0), (3, 1, 2), (-3, 1, -1)),
        *((INT32_MAX, 1, 2**30), (-INT32_MAX, 1, -(2**30) + 1)),
        *((INT32_MAX, 31, 1), (-(2**31), 31, -1), (-(2**30), 31, 0), (2**30, 31, 1)),
        *((INT32_MAX, 32, 0), (-(2**31), 32, 0), (-1, 99, 0)),
    ],
)
def test_rs32_by_hand(runtime: Runtime, x: int, n: int, expected: int) -> None:
    assert call(runtime, "rs32", c_int32(x), c_uint32(n)) == expected


@given(st.integers(-(2**62), 2**62), st.integers(0, 80))
def test_rs64_is_exact(runtime: Runtime, x: int, n: int) -> None:
    runtime.library.math_rs64.restype = c_int64
    expected = exact_round(Fraction(x, 2 ** min(n, 62)))
    assert call(runtime, "rs64", c_int64(x), c_uint32(n)) == expected


@pytest.mark.parametrize(
    ("acc", "multiplier", "n", "expected"),
    [
        *((3, 1 << 15, 16, 2), (-3, 1 << 15, 16, -1), (1, 1 << 15, 17, 0)),  # 1.5, -1.5, 0.25
        *((5, 1 << 15, 15, 5), (1, 1 << 15, 0, 1 << 15), (-1, 1 << 15, -3, -(1 << 18))),
        *((1, 1 << 15, -16, INT32_MAX), (-1, 1 << 15, -16, -INT32_MAX)),  # 2^31: saturated
        *((-1, 1 << 15, -200, -INT32_MAX), (0, 1 << 15, -200, 0), (7, 0, -200, 0)),
        *((INT32_MAX, INT32_MAX, 1, INT32_MAX), (-INT32_MAX, INT32_MAX, 1, -INT32_MAX)),
        *((INT32_MAX, INT32_MAX, 62, 1), (-INT32_MAX, INT32_MAX, 99, -1)),  # n counts as 62
        (1 << 30, 1 << 30, 33, 1 << 27),
    ],
)
def test_requantize_by_hand(
    runtime: Runtime, acc: int, multiplier: int, n: int, expected: int
) -> None:
    assert call(runtime, "requantize", c_int32(acc), c_int32(multiplier), c_int32(n)) == expected


@given(INT32, st.integers(0, INT32_MAX), st.integers(-70, 80))
def test_requantize_is_exact_then_saturates(
    runtime: Runtime, acc: int, multiplier: int, n: int
) -> None:
    exact = exact_round(Fraction(acc * multiplier) / Fraction(2) ** min(n, 62))
    expected = max(-INT32_MAX, min(INT32_MAX, exact))
    assert call(runtime, "requantize", c_int32(acc), c_int32(multiplier), c_int32(n)) == expected


@given(INT32, INT32)
def test_mulh_is_the_upper_half(runtime: Runtime, a: int, b: int) -> None:
    assert call(runtime, "mulh", c_int32(a), c_int32(b)) == (a * b) >> 32


@given(st.integers(0, 2**32 - 1))
def test_signed_keeps_the_bits(runtime: Runtime, bits: int) -> None:
    assert call(runtime, "signed", c_uint32(bits)) % 2**32 == bits


@given(st.integers(-(2**63), 2**63 - 1))
def test_sat32_is_symmetric(runtime: Runtime, v: int) -> None:
    assert call(runtime, "sat32", c_int64(v)) == max(-INT32_MAX, min(INT32_MAX, v))


@pytest.mark.parametrize("bits", range(33))
def test_bit_length_at_every_power(runtime: Runtime, bits: int) -> None:
    for value in {(1 << bits) - 1, (1 << bits) >> 1}:
        assert call(runtime, "bit_length", c_uint32(value)) == value.bit_length()


def test_requantization_word_by_hand(runtime: Runtime) -> None:
    word = c_uint32(0x8001FFFF)
    assert call(runtime, "word_multiplier", word) == 0x8001
    assert call(runtime, "word_exponent", word) == -1
    assert call(runtime, "word_exponent", c_uint32(0xC0000010)) == 16
    assert call(runtime, "word_exponent", c_uint32(0xFFFF8000)) == -32768
