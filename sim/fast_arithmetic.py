"""Fast arithmetic (docs/numerics.md 11): the three steps whose products are made for 32 bits."""

from __future__ import annotations

import numpy as np

from sim.ops import (
    AttentionConstants,
    Ints,
    KVCache,
    dot_products,
    k_scales,
    requantize,
    round_shift,
    signed16,
)
from toolchain.model.program import FAST_FACTOR_BITS, NARROW_AT, NARROW_BITS, fast_drop

FACTOR_DROP = 31 - FAST_FACTOR_BITS  # lower bits of M * A
FACTOR_LESS = 6  # of A: half of what is dropped, for an M in the middle of its range
SCALE_DROP = 16  # lower bits of the products of two scales
GATE_STEP = 11  # bits of a gate from one entry of the table to the next
GATE_LIMIT = (16 << 16) - 1
POWER_REACH = 16 << 8


def requantize_rows(acc: Ints, words: Ints, scale: Ints, scaling: int) -> Ints:
    """Outputs (T, n_out) of accumulators, by the words (n_out,) and the input's scale (T, 2)."""
    narrow, drop = scaling >> NARROW_AT & NARROW_BITS, fast_drop(scaling)
    a = np.maximum(round_shift(scale[:, :1], narrow) - FACTOR_LESS, 0)
    factor = ((words >> 16) * a >> FACTOR_DROP) + 1
    product = round_shift(acc, drop) * factor
    assert np.abs(product).max(initial=0) <= 1 << 30, "accumulator bound of lowering violated"
    shift = signed16(words) - scale[:, 1:] - (FACTOR_DROP + narrow + drop)
    return requantize(product, np.ones_like(factor), shift)


def log2_scores(q: Ints, q_scale: Ints, cache: KVCache, constants: AttentionConstants) -> Ints:
    """Log2-domain logits in Q8: (KV, rows, U)."""
    ka, ks = k_scales(cache)
    drop = max((q.shape[-1] - 1).bit_length() - 2, 0)
    of_query = round_shift(q_scale[..., :1] * constants.score_multiplier, SCALE_DROP)
    factor = (of_query * ka >> SCALE_DROP) + 1
    shift = constants.score_exponent - 2 * SCALE_DROP - drop - (q_scale[..., 1:] + ks)
    product = round_shift(dot_products(q, cache), drop) * factor
    return round_shift(product, np.clip(shift, 0, 31))


def power_of_two(table: Ints, d: Ints, _exp_bits: int) -> Ints:
    """2^-d of Q8 values by half as many entries; the table has their fraction bits."""
    e: Ints = table[np.minimum(d, POWER_REACH) >> 1]
    return e


def silu(gate: Ints, table: Ints) -> Ints:
    """max(gate, 0) less |gate| / (1 + exp |gate|), which the table has, interpolated."""
    a = np.minimum(np.abs(gate), GATE_LIMIT)
    steps, values = table.reshape(-1, 2).T
    i = a >> GATE_STEP
    step = ((steps[i] ^ 1 << 15) - (1 << 15)) * (a & ((1 << GATE_STEP) - 1))
    result: Ints = np.maximum(gate, 0) - (values[i] + round_shift(step, GATE_STEP))
    return result
