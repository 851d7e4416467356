"""Grids, the GPTQ layout, NF4 and LLM.int8: hand-computed values, round trips, exact zeros."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolchain.compress.gptq_format import BITS, V1, V2, CodeMatrix, read_codes
from toolchain.compress.grids import GridKind, find_grid, round_to_nearest
from toolchain.compress.llm_int8 import quantize_int8, read_int8
from toolchain.compress.nf4 import TABLE, quantize_nf4, read_nf4
from toolchain.model.errors import QuantizationError


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_symmetric_grid_by_hand() -> None:
    grid = find_grid(torch.tensor([[-3.0, 1.0, 0.0], [7.5, 0.0, -1.0]]), GridKind(4, -1))
    assert grid.scale.tolist() == [torch.tensor(6 / 15).half().item(), 1.0]
    assert grid.zero.tolist() == [8, 8]
    codes = grid.codes(torch.tensor([[-3.0, 1.0, 0.0], [7.5, 0.0, -1.0]]))
    assert codes.tolist() == [[0, 11, 8], [15, 8, 7]]  # 7.5 is a tie, to even, then the highest


def test_asymmetric_grid_by_hand() -> None:
    grid = find_grid(torch.tensor([[-1.0, 2.0, 0.5]]), GridKind(2, -1, sym=False))
    assert (grid.scale.item(), grid.zero.item()) == (1.0, 1.0)
    assert grid.codes(torch.tensor([[-1.0, 2.0, 0.0]])).tolist() == [[0, 3, 1]]


def test_clipping_lowers_the_error_it_minimises() -> None:
    weight = random(8, 64)
    weight[:, 0] *= 6
    errors = []
    for clip in (False, True):
        decoded = round_to_nearest(weight, GridKind(3, -1, clip=clip)).decode()
        errors.append(float((decoded - weight).abs().pow(2.4).sum()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_zero_stays_zero(bits: int, sym: bool) -> None:
    weight = random(6, 20).masked_fill(torch.rand(6, 20) < 0.5, 0) + 0.0
    matrix = round_to_nearest(weight, GridKind(bits, 8, sym))
    assert torch.count_nonzero(matrix.decode()[weight == 0]) == 0
    assert matrix.scales.shape == (6, 3)


@given(st.sampled_from(BITS), st.integers(1, 40), st.integers(1, 40), st.sampled_from([V1, V2]))
def test_layout_round_trip(bits: int, rows: int, columns: int, form: str) -> None:
    generator = torch.Generator().manual_seed(rows * 41 + columns)
    top = 1 << bits
    matrix = CodeMatrix(
        bits,
        torch.randint(top, (rows, columns), generator=generator, dtype=torch.uint8),
        torch.randint(top, (rows, 2), generator=generator, dtype=torch.uint8),
        torch.rand(rows, 2, generator=generator).half() + 0.1,
        torch.randint(2, (columns,), generator=generator),
    )
    tensors = matrix.tensors("m", form)
    assert tensors["m.qweight"].shape == (math.ceil(columns * bits / 32), rows)
    assert tensors["m.qzeros"].shape == (2, math.ceil(rows * bits / 32))
    found = read_codes(tensors, "m", bits, form)
    for name in ("codes", "zeros", "scales", "group_of"):
        assert torch.equal(getattr(found, name), getattr(matrix, name)), name


def test_layout_words_by_hand() -> None:
    """Nibble j of word r is weight 8 r + j; 3-bit codes run over the ends of words."""
    codes = torch.arange(16, dtype=torch.uint8).reshape(1, 16)
    groups, scale = torch.zeros(16, dtype=torch.int64), torch.ones(1, 1).half()
    eight = torch.tensor([[8]], dtype=torch.uint8)
    four = CodeMatrix(4, codes, eight, scale, groups).tensors("m", V1)
    assert [word & 0xFFFFFFFF for word in four["m.qweight"][:, 0].tolist()] == [
        0x76543210,
        0xFEDCBA98,
    ]
    assert four["m.qzeros"].tolist() == [[7]]
    three = CodeMatrix(3, codes & 7, eight // 2, scale, groups).tensors("m", V2)
    stream = sum((i & 7) << (3 * i) for i in range(16))
    words = [word & 0xFFFFFFFF for word in three["m.qweight"][:, 0].tolist()]
    assert words == [stream & 0xFFFFFFFF, stream >> 32]
    assert three["m.qzeros"].tolist() == [[4]]


def test_nf4_is_the_nearest_entry() -> None:
    weight = random(5, 27)
    matrix = quantize_nf4(weight, block=16)
    flat, decoded = weight.reshape(-1), matrix.decode().reshape(-1)
    for start in range(0, len(flat), 16):
        block = flat[start : start + 16]
        top = float(block.abs().max())
        for value, found in zip(block.tolist(), decoded[start : start + 16].tolist(), strict=True):
            assert abs(found - value) <= min(abs(e * top - value) for e in TABLE) + 1e-6
    back = read_nf4(matrix.tensors("m"), "m")
    assert torch.equal(back.decode(), matrix.decode())
    assert TABLE[7] == 0.0


def test_int8_products_and_outliers() -> None:
    weight, x = random(6, 10), random(3, 10, seed=1)
    x[1, 4] = 30.0
    matrix = quantize_int8(weight, x.abs().amax(dim=0))
    assert matrix.columns.tolist() == [4]
    narrow = x.clone()
    narrow[:, 4] = 0
    scale = narrow.abs().amax(dim=1, keepdim=True) / 127
    steps = torch.round(narrow / scale).long() @ matrix.values.long().T
    expected = steps * scale * (matrix.absmax / 127) + x[:, 4:5] * matrix.wide.float().T
    assert torch.allclose(matrix.project(x), expected, rtol=1e-5, atol=1e-6)
    assert float((matrix.project(x) - x @ weight.T).abs().max()) < 0.1
    back = read_int8(matrix.tensors("m"), "m")
    assert torch.equal(back.decode(), matrix.decode())


def test_a_scale_that_float16_cannot_hold() -> None:
    with pytest.raises(QuantizationError, match="65504"):
        round_to_nearest(torch.full((2, 4), 1e7), GridKind(4, -1))
