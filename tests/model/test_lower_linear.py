"""Constants of one matrix: the shift and the headroom that lowering proves."""

from __future__ import annotations

import numpy as np
import pytest

from toolchain.model.linear_scaling import MAX_HEADROOM, shared_scalings
from toolchain.model.lower import lower_linear
from toolchain.model.program import ActMode, Arithmetic
from toolchain.model.quantize import QuantTensor


@pytest.mark.parametrize("mode", list(ActMode))
@pytest.mark.parametrize(
    ("bits", "columns", "multiplier"), [(4, 8, 1), (4, 172, 255), (8, 900, 40)]
)
def test_headroom_is_what_the_largest_accumulator_leaves(
    mode: ActMode, bits: int, columns: int, multiplier: int
) -> None:
    rng = np.random.default_rng(columns)
    half = 1 << (bits - 1)
    values = rng.integers(-half + 1, half, (3, columns)).astype(np.int8)
    multipliers = np.full((3, 2), multiplier, np.uint8)
    tensor = QuantTensor("w", values, bits, -(-columns // 2), multipliers, np.ones(3))
    scaling = lower_linear(tensor, mode, 1.0, 0).scaling
    shift, headroom = scaling & 15, scaling >> 4 & 15
    largest = int(np.abs(values.astype(np.int64)).sum(1).max()) * multiplier
    acc = largest * (127 if mode is ActMode.A8 else 1 << 14)
    rounded = acc + (1 << shift >> 1) >> shift
    assert rounded < 1 << 31 - headroom
    assert headroom == MAX_HEADROOM or rounded + 1 >= 1 << 30 - headroom
    assert shift == 0 or mode is ActMode.A16


def words(headroom: int, least: int, most: int, narrow: int = 0) -> int:
    return headroom << 4 | least << 8 | most << 16 | narrow << 24


def test_linears_of_a_vector_share_their_scaling() -> None:
    sites = {"q_proj": "a", "k_proj": "a", "gate_proj": "b"}
    found = {
        "l0.attn.q_proj": words(9, 40, 43),
        "l0.attn.k_proj": words(8, 41, 45),
        "l0.mlp.gate_proj": words(7, 30, 31),
        "l1.attn.q_proj": words(9, 40, 43),
        "l1.attn.k_proj": words(7, 41, 45),
    }
    both = words(8, 40, 45)
    own = list(found.values())
    assert shared_scalings(found, sites, Arithmetic.PRECISE) == [both, both, *own[2:]]
    assert shared_scalings(found, sites, Arithmetic.FAST) == own


def test_fast_arithmetic_shares_only_what_rounds_alike() -> None:
    sites = {"q_proj": "a", "k_proj": "a", "v_proj": "a"}
    found = {
        "l0.attn.q_proj": words(9, 40, 43, 1),
        "l0.attn.k_proj": words(9, 38, 41, 1),
        "l0.attn.v_proj": words(9, 30, 31, 0),
    }
    both = words(9, 38, 43, 1)
    assert shared_scalings(found, sites, Arithmetic.FAST) == [both, both, words(9, 30, 31, 0)]
