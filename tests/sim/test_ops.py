"""The arithmetic against hand-computed values, exact fractions and float functions."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from math import floor, isqrt

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sim import ops
from sim.ops import Ints
from toolchain.model.lower import exp2_table, sigmoid_table
from toolchain.model.outline import attention_constants
from toolchain.model.program import ActMode

POWER = partial(ops.power_of_two, exp2_table().astype(np.int64))
INT32 = st.integers(-(2**31) + 1, 2**31 - 1)
MODES = pytest.mark.parametrize("mode", list(ActMode))


def array(*values: int) -> Ints:
    return np.array(values, np.int64)


def exact_round(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


def test_rounding_is_half_towards_plus_infinity() -> None:
    x = array(-6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6)
    assert ops.round_shift(x, 2).tolist() == [-1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2]
    assert ops.round_shift(x, 1).tolist() == [-3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 3]
    assert ops.round_shift(x, 0).tolist() == x.tolist()


@given(st.integers(-(2**62), 2**62), st.integers(1, 62))
def test_round_shift_equals_exact_rounding(x: int, n: int) -> None:
    expected = exact_round(Fraction(x, 2**n))
    assert ops.round_shift(array(x), n)[0] == expected
    assert ops.round_shift(array(x), array(n))[0] == expected


@example(1, 1, -31)
@example(-1, 1, -40)
@example(2**31 - 1, 2**31 - 1, 0)
@given(INT32, st.integers(0, 2**31 - 1), st.integers(-40, 80))
def test_requantize_is_exact_then_saturates(acc: int, multiplier: int, shift: int) -> None:
    n = min(shift, 62)
    exact = exact_round(Fraction(acc * multiplier) / Fraction(2) ** n)
    expected = max(-(2**31) + 1, min(2**31 - 1, exact))
    assert ops.requantize(array(acc), array(multiplier), array(shift))[0] == expected


@given(st.lists(INT32, min_size=1, max_size=9), st.sampled_from([14, 15]))
def test_block_normalize_keeps_values_within_half_a_unit(values: list[int], bits: int) -> None:
    y, shift = ops.block_normalize(array(*values), bits)
    unit = Fraction(2) ** int(shift[0])
    assert np.abs(y).max() <= 1 << bits
    for value, code in zip(values, y.tolist(), strict=True):
        assert abs(code * unit - value) <= unit / 2


@given(st.lists(INT32, min_size=1, max_size=9))
def test_dynamic_quantization_error_and_range(values: list[int]) -> None:
    q, amax, shift = ops.quantize_dynamic(array(*values))
    assert np.abs(q).max() <= 127
    step = Fraction(int(amax[0])) * Fraction(2) ** int(shift[0]) / 127
    worst = max(abs(v) for v in values)
    for value, code in zip(values, q.tolist(), strict=True):
        assert abs(code * step - value) <= step * Fraction(6, 10) + Fraction(worst, 2**14)


def test_dynamic_quantization_by_hand() -> None:
    q, amax, shift = ops.quantize_dynamic(array(1000, -500, 0))
    # blen(1000) = 10: shift = -5, y = 32000; r = 127 * 2^23 // 32000 = 33292
    assert (int(amax[0]), int(shift[0])) == (32000, -5)
    assert q.tolist() == [127, -63, 0]  # rs(-16000 * 33292, 23) = rs(-63.4995) = -63


@given(st.integers(0, 2**32 - 1))
def test_isqrt(v: int) -> None:
    assert ops.isqrt32(array(v))[0] == isqrt(v)


def real(q: Ints, scale: Ints, mode: ActMode) -> npt.NDArray[np.float64]:
    unit = scale[:, :1] * 2.0 ** scale[:, 1:]
    return q * unit / (127.0 if mode is ActMode.A8 else 1.0)


@MODES
@pytest.mark.parametrize("size", [1e-3, 1.0, 3e4])
def test_rms_norm_approximates_the_float_function(mode: ActMode, size: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, size, (5, 96))
    x[0] = 0.0
    x[1, 3] *= 100
    gamma = rng.integers(-20000, 20000, 96)
    r = np.rint(x * 2**12).astype(np.int64)
    eps = round(1e-5 * 96 * 2.0**24)
    q, scale = ops.rms_norm(r, gamma, eps, mode)
    fixed = r / 2.0**12
    expected = fixed / np.sqrt((fixed**2).mean(-1, keepdims=True) + 1e-5) * gamma
    got = real(q, scale, mode) * np.sqrt(96)
    bound = np.abs(expected).max(-1, keepdims=True) * (1 / 250 if mode is ActMode.A8 else 3e-4)
    assert (np.abs(got - expected) <= bound).all()


@MODES
def test_swiglu_approximates_the_float_function(mode: ActMode) -> None:
    rng = np.random.default_rng(2)
    gate, up = rng.normal(0, 3, (2, 4, 100))
    table = sigmoid_table().astype(np.int64)
    fixed = [np.rint(v * 65536).astype(np.int64) for v in (gate, up)]
    q, scale = ops.swiglu(fixed[0], fixed[1], table, mode)
    expected = gate / (1 + np.exp(-gate)) * up
    got = real(q, scale, mode) * 2.0**-32
    bound = np.abs(expected).max(-1, keepdims=True) * (1 / 200 if mode is ActMode.A8 else 1e-3)
    assert (np.abs(got - expected) <= bound).all()


def make_attention(
    tokens: int, length: int, heads: int, kv_heads: int
) -> tuple[Ints, Ints, ops.KVCache]:
    rng = np.random.default_rng(3)
    q, q_scale = ops.quantize_heads(rng.integers(-(1 << 18), 1 << 18, (tokens, heads, 6)))
    k, k_scale = ops.quantize_heads(rng.integers(-(1 << 18), 1 << 18, (length, kv_heads, 6)))
    v, v_scale = ops.quantize_heads(rng.integers(-(1 << 17), 1 << 17, (length, kv_heads, 6)))
    cache = ops.KVCache(k, ops.pack_scale(k_scale), v, ops.pack_scale(v_scale))
    return q, q_scale, cache


def test_attention_approximates_softmax() -> None:
    q, q_scale, cache = make_attention(1, 20, 6, 2)
    constants = ops.AttentionConstants(**attention_constants(6, 64))
    acc, stats = ops.attention((q, q_scale), cache, POWER, constants)
    ka, ks = ops.unpack_scale(cache.k_scale)
    va, vs = ops.unpack_scale(cache.v_scale)
    k = cache.k * (ka * 2.0**ks)[..., None] / 127 / 65536
    v = cache.v * (va * 2.0**vs)[..., None] / 127 / 65536
    query = q[0] * (q_scale[0, :, :1] * 2.0 ** q_scale[0, :, 1:]) / 127 / 65536
    for head in range(6):
        logits = k[:, head // 3] @ query[head] / np.sqrt(6)
        weights = np.exp(logits - logits.max())
        expected = weights @ v[:, head // 3] / weights.sum()
        reciprocal, b, vm = (int(s) for s in stats[0, head])
        # acc / (sum of e): the sum is about 2^(31 + b) / reciprocal in units of 2^-15
        got = acc[0, head] * reciprocal * 2.0 ** (-31 - b + 15 + vm) / 127 / 65536
        assert np.abs(got - expected).max() < 0.01 * np.abs(v).max()


def test_prefill_equals_token_by_token() -> None:
    """Attention of many queries at once gives each query the bits it gets alone."""
    q, q_scale, cache = make_attention(7, 11, 6, 2)
    constants = ops.AttentionConstants(**attention_constants(6, 1000))
    acc, stats = ops.attention((q, q_scale), cache, POWER, constants)
    for t in range(7):
        end = 11 - 7 + t + 1
        prefix = ops.KVCache(cache.k[:end], cache.k_scale[:end], cache.v[:end], cache.v_scale[:end])
        one = ops.attention((q[t : t + 1], q_scale[t : t + 1]), prefix, POWER, constants)
        assert (one[0][0] == acc[t]).all()
        assert (one[1][0] == stats[t]).all()


def test_scale_words_by_hand() -> None:
    scale = np.array([[[20000, -3]], [[20000, 2]], [[20000, 1]]], np.int64)
    words = ops.pack_scale(scale)
    assert [int(w) for w in words[:, 0]] == [0x0F7D4E20, 0x50824E20, 0x50814E20]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 15), st.integers(-30, 17)), min_size=1, max_size=9),
    st.integers(0, 8),
)
def test_scale_words(scales: list[tuple[int, int]], cut: int) -> None:
    """All fields come back, and tokens can be packed in any partition."""
    scale = np.array(scales, np.int64)[:, None]
    words = ops.pack_scale(scale)
    amax, exponent = ops.unpack_scale(words)
    assert list(zip(amax[:, 0].tolist(), exponent[:, 0].tolist(), strict=True)) == scales
    assert (words == words.astype(np.int32)).all()
    for t, word in enumerate(int(w) for w in words[:, 0]):
        seen = [e for _, e in scales[: t + 1]]
        assert (word >> 22 & 63 ^ 32) - 32 == max(seen)
        assert word >> 28 & 15 == min(15, max(seen) - min(seen))
    if 0 < cut < len(scales):
        rest = ops.pack_scale(scale[cut:], ops.pack_scale(scale[:cut])[-1])
        assert (rest == words[cut:]).all()


@given(st.lists(st.integers(-128, 127), min_size=3, max_size=3), st.integers(0, 8))
def test_split_activations_equal_the_single_product(weights: list[int], shift: int) -> None:
    """acc_hi * 2^b + rs(acc_lo, 8 - b) of numerics 2 is rs(acc, 8 - b)."""
    q = array(-16384, 12345, 255)
    w = array(*weights)
    high = (q + 128) >> 8
    low = q - (high << 8)
    b = 8 - shift
    split = (int(high @ w) << b) + int(ops.round_shift(array(int(low @ w)), shift)[0])
    assert split == ops.round_shift(array(int(q @ w)), shift)[0]


def test_gather_by_hand() -> None:
    q, order = np.array([[5, -7, 9], [1, 2, 3]]), np.array([2, 0, 1])
    assert ops.gather(q, order).tolist() == [[9, 5, -7], [3, 1, 2]]


def test_argmax_takes_the_lowest_index() -> None:
    assert ops.argmax(np.array([[1, 5, 5], [7, 7, 0]])).tolist() == [1, 0]
