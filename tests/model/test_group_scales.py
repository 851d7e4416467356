from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.paths import SHARED, STORIES, needs_shared
from toolchain.model import group_scales
from toolchain.model.checkpoint import load_model
from toolchain.model.group_scales import GroupQuant, combine_scales, integer_range, quantize_matrix
from toolchain.model.quantize import QuantConfig, QuantTensor, hf_name_of, quantize_model

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

ANY_BITS = st.integers(2, 8)
MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-(2.0**20), 2.0**20, width=32),
)


def dequantize(result: GroupQuant, group_size: int) -> F64:
    tensor = QuantTensor("x", result.values, 4, group_size, result.multipliers, result.scale)
    return tensor.dequantize()


def naive_rtn(weights: F32, bits: int, group_size: int) -> F64:
    """Plain round-to-nearest, one group at a time, without the search."""
    low, high = integer_range(bits)
    divisor = 127.0 if bits == 8 else high + 0.5
    out = np.zeros(weights.shape)
    for o, row in enumerate(weights.astype(np.float64)):
        starts = range(0, row.size, group_size)
        groups = [row[start : start + group_size] for start in starts]
        scales = [np.abs(group).max() / divisor for group in groups]
        if len(groups) == 1:
            steps = scales
        else:
            unit = max(scales) / 255
            steps = [max(1, np.rint(s / unit)) * unit if unit else 0.0 for s in scales]
        for start, group, step in zip(starts, groups, steps, strict=True):
            if step:
                rounded = np.clip(np.rint(group / step), low, high) * step
                out[o, start : start + group_size] = rounded
    return out


def row_errors(weights: F32, image: F64) -> F64:
    return np.asarray(((image - weights) ** 2).sum(axis=1))


def reference_quantizer() -> ModuleType:
    path = SHARED / "reference" / "isim.py"
    spec = importlib.util.spec_from_file_location("reference_isim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_per_channel_by_hand() -> None:
    # Exactly 0.5 * q with 4 bits: the search must find the step without any error.
    q = np.array([[-8, 7, 3, 0, -1], [7, -2, 3, -4, 5]], dtype=np.int8)
    weights = np.array([[-4, 3.5, 1.5, 0, -0.5], [3.5, -1, 1.5, -2, 2.5]], dtype=np.float32)
    result = quantize_matrix(weights, bits=4, group_size=5)
    np.testing.assert_array_equal(result.values, q)
    np.testing.assert_allclose(result.scale, 0.5, rtol=1e-6)
    np.testing.assert_array_equal(result.multipliers, [[1], [1]])
    np.testing.assert_allclose(dequantize(result, 5), weights, rtol=1e-6)


def test_two_groups_by_hand() -> None:
    # Steps 1 and 1/3 -> scale 1/255, multipliers 255 and 85; all weights are representable.
    weights = np.array([[-8, 7, -8 / 3, 7 / 3]], dtype=np.float32)
    result = quantize_matrix(weights, bits=4, group_size=2)
    np.testing.assert_array_equal(result.values, [[-8, 7, -8, 7]])
    np.testing.assert_array_equal(result.multipliers, [[255, 85]])
    np.testing.assert_allclose(result.scale, [1 / 255], rtol=1e-6)


def test_combine_scales_by_hand() -> None:
    multipliers, scale = combine_scales(np.array([[1.0, 0.5, 0.0, 1e-9], [0.0, 0.0, 0.0, 0.0]]))
    # 0.5 * 255 = 127.5 rounds half to even; too small a group still gets 1.
    np.testing.assert_array_equal(multipliers, [[255, 128, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(scale, [1 / 255, 0.0])


@pytest.mark.parametrize(
    ("bits", "expected"), [(2, (-2, 1)), (4, (-8, 7)), (7, (-64, 63)), (8, (-127, 127))]
)
def test_integer_range(bits: int, expected: tuple[int, int]) -> None:
    assert integer_range(bits) == expected


@given(MATRICES, ANY_BITS, st.integers(1, 20))
def test_never_worse_than_plain_rtn(weights: F32, bits: int, group_size: int) -> None:
    group_size = min(group_size, weights.shape[1])
    result = quantize_matrix(weights, bits, group_size)
    error = row_errors(weights, dequantize(result, group_size))
    plain = row_errors(weights, naive_rtn(weights, bits, group_size))
    power = (weights.astype(np.float64) ** 2).sum(axis=1)
    assert (error <= plain + 1e-12 * power).all()
    np.testing.assert_allclose(result.squared_error, error, rtol=1e-9, atol=1e-12 * power.max())


@given(MATRICES, ANY_BITS, st.integers(1, 20))
def test_half_a_step_where_nothing_clips(weights: F32, bits: int, group_size: int) -> None:
    group_size = min(group_size, weights.shape[1])
    result = quantize_matrix(weights, bits, group_size)
    low, high = integer_range(bits)
    multipliers = np.repeat(result.multipliers, group_size, axis=1)[:, : weights.shape[1]]
    step = multipliers * result.scale[:, None]
    inside = (weights > (low - 0.5) * step) & (weights < (high + 0.5) * step)
    error = np.abs(dequantize(result, group_size) - weights)
    assert (error <= step * (0.5 + 1e-9))[inside].all()
    assert (np.isin(result.values, (low, high)) | inside).all()


@given(MATRICES, ANY_BITS, st.integers(1, 20))
def test_shapes_and_ranges(weights: F32, bits: int, group_size: int) -> None:
    group_size = min(group_size, weights.shape[1])
    result = quantize_matrix(weights, bits, group_size)
    low, high = integer_range(bits)
    n_out, n_in = weights.shape
    n_groups = -(-n_in // group_size)
    assert result.values.shape == (n_out, n_in)
    assert result.values.dtype == np.int8
    assert low <= result.values.min() <= result.values.max() <= high
    assert result.multipliers.shape == (n_out, n_groups)
    assert result.multipliers.dtype == np.uint8
    assert result.multipliers.min() >= 1
    assert n_groups > 1 or result.multipliers.max() == 1
    assert result.scale.shape == (n_out,)
    assert result.scale.dtype == np.float64
    assert (result.scale > 0).all()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [1, 8, 32, 40])
def test_extreme_weights(bits: int, group_size: int) -> None:
    weights = np.zeros((6, 40), dtype=np.float32)
    weights[0] = np.finfo(np.float32).max
    weights[1] = -1e-45  # the smallest denormal
    weights[2, ::2], weights[2, 1::2] = 3e38, 1e-45
    weights[3, :32], weights[3, 32:] = 1e-45, 3e38
    weights[4, 7] = 1e-45
    result = quantize_matrix(weights, bits, group_size)
    image = dequantize(result, group_size)
    assert np.isfinite(image).all()
    assert (result.scale > 0).all()
    np.testing.assert_allclose(image[:2], weights[:2].astype(np.float64), rtol=1e-6)
    assert not result.values[5].any()


def test_zero_rows_take_the_largest_scale() -> None:
    weights = np.zeros((3, 4), dtype=np.float32)
    assert (quantize_matrix(weights, 4, 2).scale == 2.0**-10).all()
    weights[1], weights[2] = 1.0, 4.0
    result = quantize_matrix(weights, 4, 2)
    assert result.scale[0] == result.scale[2] > result.scale[1]
    np.testing.assert_array_equal(result.multipliers[0], [1, 1])


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(3).standard_normal((37, 50)).astype(np.float32)
    whole = quantize_matrix(weights, 4, 16)
    monkeypatch.setattr(group_scales, "_BLOCK_ELEMS", 120)
    blocks = quantize_matrix(weights, 4, 16)
    np.testing.assert_array_equal(whole.values, blocks.values)
    np.testing.assert_array_equal(whole.multipliers, blocks.multipliers)
    np.testing.assert_array_equal(whole.scale, blocks.scale)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_near_the_best_scale_by_brute_force(bits: int) -> None:
    weights = np.random.default_rng(7).standard_normal((20, 48)).astype(np.float32)
    low, high = integer_range(bits)
    amax = np.abs(weights).max(axis=1, keepdims=True).astype(np.float64)
    best = np.full(20, np.inf)
    for ratio in np.linspace(0.2, 2, 4000):
        step = amax / high * ratio
        image = np.clip(np.rint(weights / step), low, high) * step
        best = np.minimum(best, row_errors(weights, image))
    assert quantize_matrix(weights, bits, 48).squared_error.sum() <= best.sum() * 1.01


@needs_shared
@pytest.mark.parametrize(
    ("bits", "group_size"), [(2, 32), (3, -1), (4, 16), (4, 32), (4, 64), (4, -1), (6, 32), (8, -1)]
)
def test_no_worse_than_the_reference_search(bits: int, group_size: int) -> None:
    reference = reference_quantizer()
    model = load_model(STORIES)
    quantized = quantize_model(model, QuantConfig(bits=bits, group_size=group_size))
    ours = theirs = 0.0
    for op_id, tensor in quantized.linears.items():
        weights = model.load(hf_name_of(op_id))
        image = reference.quant_w(weights, max(group_size, 0), bits, search=True)
        # Not its float32 `Wf`: at 8 bits that would add an error of its own.
        theirs += float(row_errors(weights, image.Wi * image.S[:, None]).sum())
        ours += float(row_errors(weights, tensor.dequantize()).sum())
    assert ours <= theirs
