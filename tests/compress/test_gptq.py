"""GPTQ of one matrix against a plain transcription of the algorithm, masks, and EoRA's optimum."""

from __future__ import annotations

import pytest
import torch

from tests.compress.test_grids import random
from toolchain.compress.eora import compensate
from toolchain.compress.gptq import Hessian, Manner, quantize_matrix
from toolchain.compress.grids import GridKind, find_grid, round_to_nearest
from toolchain.model.errors import CompressionError


def inputs(rows: int, columns: int) -> torch.Tensor:
    """Correlated, as activations are."""
    mixing = random(columns, columns, seed=7) * 0.3 + torch.eye(columns)
    return random(rows, columns, seed=8) @ mixing


def moment(x: torch.Tensor) -> torch.Tensor:
    hessian = Hessian.zero(x.shape[1], "cpu")
    hessian.add(x[:7])
    hessian.add(x[7:])
    return hessian.mean()


def one_by_one(weight: torch.Tensor, h: torch.Tensor, kind: GridKind) -> torch.Tensor:
    """Optimal brain quantization in a fixed order: the inverse is updated by elimination."""
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    w, inverse = weight.double().clone(), torch.linalg.inv(h)
    result = torch.zeros_like(w)
    for column in range(w.shape[1]):
        if column % kind.group_size == 0:
            grid = find_grid(w[:, column : column + kind.group_size].float(), kind)
        code = grid.codes(w[:, column : column + 1].float())
        result[:, column] = grid.decode(code)[:, 0].double()
        error = (w[:, column] - result[:, column]) / inverse[column, column]
        w -= error[:, None] * inverse[column]
        inverse = (
            inverse - torch.outer(inverse[:, column], inverse[column]) / (inverse[column, column])
        )
    return result


def test_equals_optimal_brain_quantization() -> None:
    weight, h = random(5, 24), moment(inputs(200, 24))
    kind = GridKind(4, 8)
    found = quantize_matrix(weight, h, kind).decode().double()
    assert torch.allclose(found, one_by_one(weight, h, kind), atol=1e-3)


@pytest.mark.parametrize("columns", [24, 150])  # within and beyond a block of columns
@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("group", [16, -1])
def test_beats_rounding_on_outputs(columns: int, by_activation: bool, group: int) -> None:
    weight, x = random(12, columns), inputs(400, columns)
    kind, manner = GridKind(3, group), Manner(by_activation=by_activation)
    errors = [
        float(((matrix.decode() - weight) @ x.T).pow(2).sum())
        for matrix in (
            quantize_matrix(weight, moment(x), kind, None, manner),
            round_to_nearest(weight, kind),
        )
    ]
    assert errors[0] < 0.9 * errors[1]


def test_masked_weights_are_zero_and_their_error_is_compensated() -> None:
    weight, x = random(8, 32), inputs(300, 32)
    keep = random(8, 32, seed=5) > 0
    kind = GridKind(4, 8)
    found = quantize_matrix(weight, moment(x), kind, keep).decode()
    assert torch.count_nonzero(found[~keep]) == 0
    plain = round_to_nearest(weight.masked_fill(~keep, 0), kind).decode()
    target = weight.masked_fill(~keep, 0)
    errors = [float(((m - target) @ x.T).pow(2).sum()) for m in (found, plain)]
    assert errors[0] < errors[1]


def test_broken_inputs_are_refused() -> None:
    hessian = Hessian.zero(4, "cpu")
    hessian.add(torch.tensor([[1.0, float("nan"), 0, 0]]))
    with pytest.raises(CompressionError, match="NaN"):
        hessian.mean()


def test_eora_is_the_best_of_its_rank() -> None:
    """Brute force: gradient descent on the output error finds nothing better."""
    error, x = random(6, 10).double(), inputs(100, 10).double()
    down, up, left = compensate(error, x.T @ x, 2)
    assert (down.shape, up.shape) == ((2, 10), (6, 2))
    total = float((error @ x.T).pow(2).sum())
    best = float(((error - up @ down) @ x.T).pow(2).sum())
    assert left == pytest.approx(best / total)
    a, b = down.clone().requires_grad_(), up.clone().requires_grad_()
    optimizer = torch.optim.Adam([a, b], lr=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = ((error - b @ a) @ x.T).pow(2).sum()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) > best * (1 - 1e-6)


def test_eora_of_full_rank_leaves_nothing_and_unseen_inputs_nothing() -> None:
    error = random(4, 6).double()
    x = inputs(50, 6).double()
    x[:, 5] = 0
    down, up, left = compensate(error, x.T @ x, 4)
    assert left < 1e-12
    assert torch.allclose((up @ down)[:, :5], error[:, :5], atol=1e-6)
    assert float((up @ down)[:, 5].abs().max()) < 1e-6
