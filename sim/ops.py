"""What every op means: the arithmetic of docs/numerics.md on NumPy int64 arrays.

All functions are pure and vectorised over leading axes (tokens). Inputs hold values that fit the
declared C types, and so do the results; products stay below 2^63. Matrix products go through
float64, which is exact here because every partial sum is below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolchain.model.packing import WeightInts
from toolchain.model.program import SHIFT_BITS, ActMode

Ints = npt.NDArray[np.int64]
INT32_MAX = (1 << 31) - 1
KV_SPREAD = 15  # of exponents in a scale word: as large, or larger


def round_shift(x: Ints, n: Ints | int) -> Ints:
    """x * 2^-n rounded half towards +infinity, for n in 0..62 (the only rounding mode)."""
    if isinstance(n, int):
        return x if n == 0 else ((x >> (n - 1)) + 1) >> 1
    shifted: Ints = ((x >> np.maximum(n - 1, 0)) + 1) >> 1
    return shifted if n.min(initial=1) >= 1 else np.where(n == 0, x, shifted)


def saturate32(x: Ints) -> Ints:
    """Clamp to [-(2^31-1), 2^31-1]."""
    clamped: Ints = np.minimum(np.maximum(x, -INT32_MAX), INT32_MAX)
    return clamped


def bit_length(x: Ints) -> Ints:
    """Bits of x in 0..2^53-1; 0 for 0."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def requantize(acc: Ints, multiplier: Ints, shift: Ints) -> Ints:
    """saturate(acc * multiplier * 2^-shift) for |acc| < 2^31 and multiplier in 0..2^31-1.

    A shift below 1 is exact as well: what overflows int64 there saturates in any case.
    """
    product = acc * multiplier
    if shift.min(initial=1) >= 1:
        return saturate32(round_shift(product, np.minimum(shift, 62)))
    right = round_shift(product, np.clip(shift, 1, 62))
    bound = np.int64(1 << 31)
    left = np.clip(product, -bound, bound) << np.clip(-shift, 0, 31)
    return saturate32(np.where(shift >= 1, right, left))


def block_normalize(x: Ints, bits: int) -> tuple[Ints, Ints]:
    """(y, shift) with x ~ y * 2^shift and |y| <= 2^bits, per vector of the last axis."""
    amax = np.maximum(x.max(-1, keepdims=True), -x.min(-1, keepdims=True))
    shift = bit_length(amax) - bits
    if shift.min(initial=0) >= 0:
        return round_shift(x, shift), shift
    y = np.where(shift >= 0, round_shift(x, np.maximum(shift, 0)), x << np.maximum(-shift, 0))
    return y, shift


def quantize_dynamic(x: Ints) -> tuple[Ints, Ints, Ints]:
    """int8 with one scale per vector: (q, amax, shift), x ~ q * amax * 2^shift / 127."""
    y, shift = block_normalize(x, 15)
    amax = np.maximum(y.max(-1, keepdims=True), -y.min(-1, keepdims=True))
    reciprocal = np.where(amax > 0, (127 << 23) // np.maximum(amax, 1), 0)
    return round_shift(y * reciprocal, 23), amax, shift


def quantize(x: Ints, mode: ActMode) -> tuple[Ints, Ints, Ints]:
    """(q, A, E) of numerics 1: int8 for A8, 15-bit integers for A16."""
    if mode is ActMode.A8:
        return quantize_dynamic(x)
    q, shift = block_normalize(x, 14)
    return q, np.full_like(shift, 1 << 14), shift - 14


def _scale(a: Ints, e: Ints) -> Ints:
    return np.concatenate([a, e], axis=-1)


def embed(rows: Ints, requant: Ints) -> Ints:
    """Residual vectors from embedding rows (T, d) and their requantization words (T,)."""
    words = requant[:, None]
    return requantize(rows, words >> 16, signed16(words))


def signed16(words: Ints) -> Ints:
    """The signed numbers in the lower 16 bits."""
    return ((words & 0xFFFF) ^ 0x8000) - 0x8000


def isqrt32(v: Ints) -> Ints:
    """floor(sqrt(v)) for v in 0..2^32-1."""
    root = np.floor(np.sqrt(v.astype(np.float64))).astype(np.int64)
    root = np.where(root * root > v, root - 1, root)
    return np.where((root + 1) * (root + 1) <= v, root + 1, root)


def rms_norm(r: Ints, gamma: Ints, eps: int, mode: ActMode) -> tuple[Ints, Ints]:
    """Quantized RMSNorm of r (T, d): (q, scale (T, 2)); eps = eps_real * d * 2^(2 FR)."""
    x, shift = block_normalize(r, 15)
    doubled = 2 * shift
    wide = np.uint64(eps)
    right = np.where(doubled > 62, np.uint64(0), wide >> np.clip(doubled, 0, 62).astype(np.uint64))
    left = wide << np.clip(-doubled, 0, 30).astype(np.uint64)
    total = (x * x).sum(-1, keepdims=True).astype(np.uint64)
    total = np.maximum(total + np.where(doubled >= 0, right, left), np.uint64(1))
    j = (_bit_length64(total) - 31) >> 1
    up, down = np.maximum(2 * j, 0).astype(np.uint64), np.maximum(-2 * j, 0).astype(np.uint64)
    root = isqrt32(np.where(j >= 0, total >> up, total << down).astype(np.int64))
    scaled = x * gamma
    if mode is ActMode.A16:
        q, shift2 = block_normalize(scaled, 14)
        return q, _scale((1 << 30) // root, shift2 - 30 - j)
    q, amax, shift2 = quantize_dynamic(scaled)
    a = (amax << 16) // root
    over = a > (1 << 15)
    return q, _scale(np.where(over, round_shift(a, 1), a), shift2 - 16 - j + over)


def _bit_length64(x: npt.NDArray[np.uint64]) -> Ints:
    high = (x >> np.uint64(32)).astype(np.int64)
    low = (x & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return np.where(high > 0, 32 + bit_length(high), bit_length(low))


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A weight matrix ready for exact float64 products."""

    transposed: npt.NDArray[np.float64]  # (n_in, n_out) = multipliers * values
    words: Ints  # (n_out,) requantization words


def matrix_of(weights: WeightInts, group_size: int) -> Matrix:
    """The matrix that packed integers stand for."""
    columns = weights.values.shape[1]
    values = weights.values.astype(np.float64)
    if weights.multipliers.shape[1] > 1:
        values *= np.repeat(weights.multipliers, group_size, axis=1)[:, :columns]
    return Matrix(np.ascontiguousarray(values.T), weights.requant.astype(np.int64))


def requantize_rows(acc: Ints, words: Ints, scale: Ints, _scaling: int) -> Ints:
    """Outputs (T, n_out) of accumulators, by the words (n_out,) and the input's scale (T, 2)."""
    return requantize(acc, (words >> 16) * scale[:, :1], signed16(words) - scale[:, 1:])


Rows = Callable[[Ints, Ints, Ints, int], Ints]


def linear(
    q: Ints, scale: Ints, matrix: Matrix, scaling: int, rows: Rows = requantize_rows
) -> Ints:
    """y (T, n_out) = requantized q (T, n_in) @ W; `scaling` is the element of linear.shift.

    acc_hi * 2^b + rs(acc_lo, 8 - b) equals rs(acc, 8 - b) of the undivided sum, because
    acc_hi * 2^8 is a multiple of 2^(8-b); so one product serves A8 and A16.
    """
    total = (q.astype(np.float64) @ matrix.transposed).astype(np.int64)
    acc = round_shift(total, scaling & SHIFT_BITS)
    assert np.abs(acc).max(initial=0) <= INT32_MAX, "accumulator bound of lowering violated"
    return rows(acc, matrix.words, scale, scaling)


def rotate(x: Ints, table: Ints) -> tuple[Ints, Ints]:
    """RoPE of heads x (T, H, hd) with table (T, hd) = cos, sin in Q14: (rotated, shift)."""
    y, shift = block_normalize(x, 15)
    half = x.shape[-1] // 2
    cos, sin = table[:, None, :half], table[:, None, half:]
    a, b = y[..., :half], y[..., half:]
    rotated = np.concatenate(
        [round_shift(a * cos - b * sin, 14), round_shift(a * sin + b * cos, 14)], axis=-1
    )
    return rotated, shift


def rope(x: Ints, table: Ints) -> tuple[Ints, Ints]:
    """Rotated and quantized heads: (q int8 (T, H, hd), scale (T, H, 2))."""
    rotated, shift = rotate(x, table)
    q, amax, shift2 = quantize_dynamic(rotated)
    return q, _scale(amax, shift + shift2)


def quantize_heads(x: Ints) -> tuple[Ints, Ints]:
    """Heads (T, H, hd) quantized without rotation: the V path."""
    q, amax, shift = quantize_dynamic(x)
    return q, _scale(amax, shift)


def pack_scale(scale: Ints, before: Ints | None = None) -> Ints:
    """Scales (T, KV, 2) of T cached rows -> int32 words (T, KV) of numerics 5.

    `before`: the words (KV,) of the position in front of them, None at position 0.
    """
    amax, exponent = scale[..., 0], scale[..., 1]
    top, low = (np.maximum, exponent), (np.minimum, exponent)
    if before is not None:
        last = _field(before, 22)
        top = (np.maximum, np.concatenate([last[None], exponent]))
        low = (np.minimum, np.concatenate([last[None] - (before >> 28 & 15), exponent]))
    tops, lows = (f.accumulate(x, axis=0)[-len(exponent) :] for f, x in (top, low))
    spread = np.minimum(tops - lows, KV_SPREAD)
    unsigned = amax | (exponent & 63) << 16 | (tops & 63) << 22 | spread << 28
    words: Ints = (unsigned ^ 1 << 31) - (1 << 31)
    return words


def unpack_scale(words: Ints) -> tuple[Ints, Ints]:
    """(amax, exponent) of words that `pack_scale` made."""
    return words & 0xFFFF, _field(words, 16)


def _field(words: Ints, at: int) -> Ints:
    """The signed number in 6 bits from bit `at` on."""
    return (words >> at & 63 ^ 32) - 32


@dataclass(frozen=True, slots=True)
class AttentionConstants:
    """Compile-time constants of attention (numerics 6)."""

    score_multiplier: int
    score_exponent: int
    exp_bits: int


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """Cache rows 0..U-1 of one block."""

    k: Ints  # (U, KV, hd)
    k_scale: Ints  # (U, KV) packed words
    v: Ints
    v_scale: Ints


def dot_products(q: Ints, cache: KVCache) -> Ints:
    """(KV, rows, U) of queries (KV, rows, hd) with all keys."""
    k = cache.k.astype(np.float64).transpose(1, 2, 0)
    return (q.astype(np.float64) @ k).astype(np.int64)


def k_scales(cache: KVCache) -> tuple[Ints, Ints]:
    """(amax, exponent) of all keys, each (KV, 1, U)."""
    amax, exponent = unpack_scale(cache.k_scale)
    return amax.T[:, None, :], exponent.T[:, None, :]


def log2_scores(q: Ints, q_scale: Ints, cache: KVCache, constants: AttentionConstants) -> Ints:
    """Log2-domain logits in Q8: (KV, rows, U)."""
    ka, ks = k_scales(cache)
    product = round_shift(q_scale[..., :1] * ka, 15) * constants.score_multiplier
    shift = constants.score_exponent - 15 - (q_scale[..., 1:] + ks)
    dots = dot_products(q, cache)
    return saturate32(round_shift(dots * product, np.clip(shift, 1, 62)))


Scores = Callable[[Ints, Ints, KVCache, AttentionConstants], Ints]
Power = Callable[[Ints, int], Ints]  # power_of_two of a table


def attention(
    queries: tuple[Ints, Ints],
    cache: KVCache,
    power: Power,
    constants: AttentionConstants,
    scores: Scores = log2_scores,
) -> tuple[Ints, Ints]:
    """Causal attention of the last T of U positions; queries: q (T, H, hd) and their scales;
    power: 2^-d.

    Returns the weighted sums acc (T, H, hd) and per head (R, b, vm) as stats (T, H, 3).
    """
    q, q_scale = queries
    tokens, heads, head_dim = q.shape
    length, kv_heads, _ = cache.k.shape
    rows = tokens * (heads // kv_heads)  # queries that share a KV head

    def by_kv_head(x: Ints) -> Ints:  # (T, H, c) -> (KV, rows, c)
        grouped = x.reshape(tokens, kv_heads, heads // kv_heads, -1)
        return grouped.transpose(1, 0, 2, 3).reshape(kv_heads, rows, -1)

    visible = np.arange(length)[None, :] <= (length - tokens) + np.arange(tokens)[:, None]
    visible = np.repeat(visible, heads // kv_heads, axis=0)[None]  # (1, rows, U)
    z = scores(by_kv_head(q), by_kv_head(q_scale), cache, constants)
    e = _softmax_weights(z, visible, power, constants.exp_bits)
    total = e.sum(-1, keepdims=True)
    va, vs = (s.T[:, None, :] for s in unpack_scale(cache.v_scale))
    vm = np.where(visible, vs, -(1 << 20)).max(-1, keepdims=True)
    align = np.maximum(15 + vm - vs, 15)  # hidden positions have weight 0 whatever the shift
    w = np.where(align > 31, 0, round_shift(e * va, np.minimum(align, 31)))
    v = cache.v.astype(np.float64).transpose(1, 0, 2)
    acc = (w.astype(np.float64) @ v).astype(np.int64)
    b = bit_length(total) - 16
    normal = np.where(b >= 0, round_shift(total, np.maximum(b, 0)), total << np.maximum(-b, 0))
    stats = np.concatenate([(1 << 31) // normal, b, vm], axis=-1)

    def by_token(x: Ints) -> Ints:  # (KV, rows, c) -> (T, H, c)
        grouped = x.reshape(kv_heads, tokens, heads // kv_heads, -1)
        return grouped.transpose(1, 0, 2, 3).reshape(tokens, heads, -1)

    return by_token(acc).reshape(tokens, heads, head_dim), by_token(stats)


def _softmax_weights(z: Ints, visible: npt.NDArray[np.bool_], power: Power, exp_bits: int) -> Ints:
    """2^(z - max) with `exp_bits` fraction bits, 0 where hidden."""
    top = np.where(visible, z, -(1 << 40)).max(-1, keepdims=True)
    return np.where(visible, power(np.clip(top - z, 0, 1 << 20), exp_bits), 0)


def power_of_two(table: Ints, d: Ints, exp_bits: int) -> Ints:
    """2^-d of Q8 values with `exp_bits` fraction bits."""
    whole = d >> 8
    e = np.where(whole > 16, 0, round_shift(table[d & 255], np.minimum(whole, 16)))
    return round_shift(e, 15 - exp_bits)


def attention_merge(acc: Ints, stats: Ints, mode: ActMode) -> tuple[Ints, Ints]:
    """Heads (T, H, hd) brought to a common exponent and quantized as one vector (T, H*hd)."""
    reciprocal, b, vm = (stats[..., i : i + 1] for i in range(3))
    top = vm.max(1, keepdims=True)
    out = round_shift(acc * reciprocal, np.clip(24 + b + top - vm, 1, 62))
    q, a, e = quantize(out.reshape(out.shape[0], -1), mode)
    return q, _scale(a, e + top[:, 0] + 8)


def quantize_vector(x: Ints, mode: ActMode) -> tuple[Ints, Ints]:
    """A vector (T, n) for the next linear: (q, scale (T, 2))."""
    q, a, e = quantize(x, mode)
    return q, _scale(a, e)


def gather(q: Ints, order: Ints) -> Ints:
    """Elements `order` of a quantized vector (T, n)."""
    return q[:, order]


def residual_add(r: Ints, y: Ints) -> Ints:
    """saturate(r + y)."""
    return saturate32(r + y)


def sigmoid(g: Ints, table: Ints) -> Ints:
    """Q15 sigmoid of Q16 values by 1/16 steps with linear interpolation."""
    a = np.minimum(np.abs(g), (16 << 16) - 1)
    i = a >> 12
    base = table[i]
    s = base + round_shift((table[i + 1] - base) * (a & 4095), 12)
    return np.where(g < 0, 32768 - s, s)


def silu(gate: Ints, table: Ints) -> Ints:
    """gate * sigmoid(gate)."""
    return saturate32(round_shift(gate * sigmoid(gate, table), 15))


Gate = Callable[[Ints, Ints], Ints]


def swiglu(
    gate: Ints, up: Ints, table: Ints, mode: ActMode, activation: Gate = silu
) -> tuple[Ints, Ints]:
    """silu(gate) * up (T, ffn), quantized: (q, scale (T, 2)); `table` is that of `activation`."""
    left, shift1 = block_normalize(activation(gate, table), 15)
    right, shift2 = block_normalize(up, 15)
    q, a, e = quantize(left * right, mode)
    return q, _scale(a, e + shift1 + shift2)


def argmax(logits: Ints) -> Ints:
    """Lowest index among the maxima of (T, vocab)."""
    best: Ints = np.argmax(logits, axis=-1).astype(np.int64)
    return best
