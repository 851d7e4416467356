"""The fast arithmetic: vectors by hand, its bounds, and how far it is from the precise one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import fast_arithmetic as fast
from sim import ops
from sim.session import Session
from tests.test_accuracy import windows_of
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import QuantizationError
from toolchain.model.lower import lower_linear, lower_model, silu_table
from toolchain.model.outline import LowerConfig, attention_constants
from toolchain.model.program import NARROW_AT, ActMode, Arithmetic, fast_drop
from toolchain.model.quantize import QuantConfig, QuantTensor, quantize_model
from toolchain.options import bundled_model

FAST = Arithmetic.FAST


def row(acc: int, word: int, a: int, e: int, scaling: int) -> int:
    ints = np.array([[acc]]), np.array([word]), np.array([[a, e]])
    return int(fast.requantize_rows(*ints, scaling)[0, 0])


@pytest.mark.parametrize(
    ("acc", "m", "e", "scale", "scaling", "expected"),
    [
        (990, 42273, 13, (32000, -5), 15 << 4, 5108400),  # P = (42273 * 31994 >> 19) + 1 = 2580
        (990, 42273, 13, (32000, -5), 0, 0),  # 13 bits dropped: rs(990, 13) = 0
        (1 << 20, 42273, 13, (32000, -20), 0, 165120),  # 128 * 2580 / 2^(33 - 32)
        (1 << 20, 42273, 13, (32000, -20), 1 << NARROW_AT, 165120),  # 256 * 1290 / 2
        (990, 65535, 50, (1 << 15, 0), 15 << 4, 0),  # 990 * 4096 / 2^31
        (-990, 65535, 3, (1 << 15, 0), 15 << 4, -(2**31) + 1),  # saturates
    ],
)
def test_rows_by_hand(
    acc: int, m: int, e: int, scale: tuple[int, int], scaling: int, expected: int
) -> None:
    assert row(acc, m << 16 | e, *scale, scaling) == expected


def test_gate_by_hand() -> None:
    table = silu_table().astype(np.int64)
    # x = 1: 2^16 / (1 + e) = 17625; x = 1/32 and half a step: rs(5 * 1024, 11) = 3 more
    assert table.reshape(512, 2)[[0, 32]].tolist() == [[1008, 0], [139, 17625]]
    gates = [0, 1 << 16, -(1 << 16), 20 << 16, -(20 << 16)]
    silu = fast.silu(np.array(gates), table)
    assert silu.tolist() == [0, 65536 - 17625, -17625, 20 << 16, 0]


def test_gate_is_silu() -> None:
    x = np.linspace(-18, 18, 4001)
    found = fast.silu(np.rint(x * 65536).astype(np.int64), silu_table().astype(np.int64)) / 65536
    assert np.abs(found - x / (1 + np.exp(-x))).max() < 2.0**-13.5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_accumulator_leaves_its_product_bound(data: st.DataObject) -> None:
    """Weights and activations at their ends: `requantize_rows` asserts |acc' * P| <= 2^30."""
    mode = data.draw(st.sampled_from(list(ActMode)))
    bits = data.draw(st.integers(2, 8))
    columns = data.draw(st.sampled_from([1, 7, 64, 300, 1536]))
    multiplier = data.draw(st.sampled_from([1, 40, 255]))
    low = -(1 << (bits - 1))
    values = np.full((2, columns), low, np.int8)
    values[1, ::2] = data.draw(st.integers(low, -low - 1))
    multipliers = np.full((2, 1), multiplier, np.uint8)
    tensor = QuantTensor("w", values, bits, columns, multipliers, np.array([3e-4, 2e3]))
    try:
        lowered = lower_linear(tensor, mode, 1.0, 16, FAST)
    except QuantizationError:
        assert mode is ActMode.A16 or 127 * multiplier * columns << (bits - 1) > 2**31 - 2**13
        return
    matrix = ops.matrix_of(lowered.weights, lowered.layout.group_size)
    bound = 127 if mode is ActMode.A8 else 1 << 14
    for q in (np.full((1, columns), -bound), bound * np.sign(matrix.transposed.T[1:])):
        for scale in (1 << 15, 1 << 14, 1):
            pair = np.array([[scale, data.draw(st.integers(-40, 20))]])
            found = ops.linear(
                q.astype(np.int64), pair, matrix, lowered.scaling, fast.requantize_rows
            )
            precise = ops.linear(q.astype(np.int64), pair, matrix, lowered.scaling)
            if scale > 1:  # smaller ones than 2^14 never belong to more than zeros
                error = np.abs(found - precise) - 2.0**-8 * np.abs(precise)
                assert (error <= 1).all()


def test_sums_and_scales_share_the_bits_by_weight() -> None:
    """Few columns leave the scale its bits, many take them for sums; k is the best of the four."""
    rng = np.random.default_rng(5)
    narrow = {}
    for columns, multiplier in ((32, 1), (1536, 200)):
        values = rng.integers(-7, 8, (64, columns)).astype(np.int8)
        multipliers = np.full((64, 1), multiplier, np.uint8)
        tensor = QuantTensor("w", values, 4, columns, multipliers, np.full(64, 1e-4))
        lowered = lower_linear(tensor, ActMode.A16, 1e-4, 16, FAST)
        narrow[columns] = lowered.scaling >> NARROW_AT
        assert fast_drop(lowered.scaling) == max(
            13 - (lowered.scaling >> 4 & 15) - narrow[columns], 0
        )
        assert lower_linear(tensor, ActMode.A16, 1e-4, 16).scaling >> NARROW_AT == 0
    assert narrow[32] < narrow[1536]


def test_logits_by_hand() -> None:
    """hd = 4: D = 0. C = rs(2^14 * Mc, 16), P = (C * 20000 >> 16) + 1; dot * P >> n."""
    constants = ops.AttentionConstants(**attention_constants(4, 64))
    assert (constants.score_multiplier, constants.score_exponent) == (48022, 54)
    cache = ops.KVCache(
        np.array([[[127, 127, 0, -1]]]), ops.pack_scale(np.array([[[20000, 2]]])), *np.zeros((2, 1))
    )
    q = np.array([[[100, 27, 5, 6]]])  # dot 16123
    z = fast.log2_scores(q, np.array([[[1 << 14, 1]]]), cache, constants)
    # C = 12006, P = 3664, n = 54 - 32 - 3 = 19: 59074672 / 524288
    assert z.tolist() == [[[113]]]


def test_logits_are_near_those_of_the_precise_arithmetic() -> None:
    rng = np.random.default_rng(1)
    for head_dim in (2, 4, 6, 64, 128):
        constants = ops.AttentionConstants(**attention_constants(head_dim, 64))
        heads = [rng.integers(-(1 << 19), 1 << 19, (20, 2, head_dim)) for _ in range(3)]
        (q, q_scale), (k, k_scale), (v, v_scale) = map(ops.quantize_heads, heads)
        cache = ops.KVCache(k, ops.pack_scale(k_scale), v, ops.pack_scale(v_scale))
        queries = q.transpose(1, 0, 2), q_scale.transpose(1, 0, 2)
        precise = ops.log2_scores(*queries, cache, constants)
        found = fast.log2_scores(*queries, cache, constants)
        magnitude = np.abs(precise)
        bound = 1 + magnitude * 2.0**-11 + magnitude.max() * 2.0**-13
        assert (np.abs(found - precise) <= bound).all()


def test_perplexity_of_the_bundled_model() -> None:
    """Costs less than 0.1 %; of single logits the divergence is the sharper measure."""
    directory = bundled_model()
    windows = windows_of(directory, (directory / "heldout.txt").read_text(), 4)
    quant = quantize_model(load_model(directory), QuantConfig())
    found = []
    for arithmetic in Arithmetic:
        program = lower_model(quant, LowerConfig(256, arithmetic=arithmetic))
        session = Session(program, program.constants)
        rows = []
        for window in windows:
            session.reset()
            logits = session.forward(window) / 65536.0
            shifted = logits - logits.max(-1, keepdims=True)
            rows.append(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
        found.append(np.stack(rows))
    chosen = [np.take_along_axis(log[:, :-1], windows[:, 1:, None], -1).mean() for log in found]
    assert abs(np.exp(chosen[0] - chosen[1]) - 1) < 1e-3
    divergence = (np.exp(found[0]) * (found[0] - found[1])).sum(-1).mean()
    assert 0 < divergence < 2e-4
