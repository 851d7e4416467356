"""Constants of one matrix: the shift and the headroom that lowering proves."""

from __future__ import annotations

import numpy as np
import pytest

from toolchain.model.linear_scaling import MAX_HEADROOM
from toolchain.model.lower import lower_linear
from toolchain.model.program import ActMode
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
