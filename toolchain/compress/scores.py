"""Which weights of one matrix to remove: scores and masks, as pure functions on tensors.

Scores are (n_out, n_in), not negative; a mask is bool, True where a weight is kept. Of equal scores
the one with the lower index goes first, so a mask follows from its scores alone.
"""

from __future__ import annotations

import torch

from toolchain.compress.checkpoint import Tensor

ALPHA_TOLERANCE = 1e-3  # sparsity
ALPHA_STEPS = 40  # halvings of [0, 1]: beyond the precision of the sums


def wanda_score(weight: Tensor, norms: Tensor) -> Tensor:
    """abs(W_ij) * norm2(X_j): Sun et al., "A Simple and Effective Pruning Approach for LLMs"
    (Wanda, arXiv 2306.11695), equation 1. `norms` is (n_in,).
    """
    return weight.abs() * norms


def gblm_score(weight: Tensor, norms: Tensor, gradient: Tensor, alpha: float) -> Tensor:
    """abs(W) * (norm2(X) + alpha * norm2(G)): Das et al., "Beyond Size: How Gradients Shape Pruning
    Decisions in Large Language Models" (GBLM-Pruner, arXiv 2311.04902), section 3.2.

    `norms` (n_in,) and `gradient` (n_out, n_in) are root mean squares over the samples, of the
    summed squares of a sample's inputs and of the gradient of a sample's loss.
    """
    return weight.abs() * (norms + alpha * gradient)


def keep_nm(score: Tensor, removed: int, group: int) -> Tensor:
    """Removes the `removed` lowest of every `group` consecutive inputs of a row.

    Inputs behind the last whole group are kept.
    """
    rows, columns = score.shape
    whole = columns // group * group
    grouped = score[:, :whole].reshape(rows, whole // group, group)
    keep = torch.ones_like(score, dtype=torch.bool)
    keep[:, :whole] = _all_but_lowest(grouped, removed).reshape(rows, whole)
    return keep


def keep_rows(score: Tensor, rate: float) -> Tensor:
    """Removes the same share of every row, rounded down to whole weights."""
    return _all_but_lowest(score, share(rate, score.shape[1]))


def keep_matrix(score: Tensor, rate: float) -> Tensor:
    """Removes a share of the whole matrix, wherever the lowest scores are."""
    flat = score.reshape(1, -1)
    return _all_but_lowest(flat, share(rate, flat.shape[1])).reshape(score.shape)


def keep_alpha(score: Tensor, rate: float) -> tuple[Tensor, float]:
    """Removes of every row the lowest weights whose scores sum up to alpha of the row's sum.

    Rows may lose different shares; alpha is found by bisection such that the matrix loses `rate`,
    to 0.001 or as near as the weights allow: the variant in the code of Wanda (`--use_variant`).
    Returns the mask and alpha.
    """
    device, score = score.device, score.cpu()  # sums on a GPU need not be the same every time
    order = torch.sort(score, dim=1, stable=True)
    sums = order.values.clamp(min=0).double().cumsum(dim=1)
    low, high, alpha = 0.0, 1.0, 0.5
    counts = _within(sums, alpha)
    for _ in range(ALPHA_STEPS):
        reached = float(counts.sum()) / score.numel()
        if abs(reached - rate) <= ALPHA_TOLERANCE:
            break
        low, high = (low, alpha) if reached > rate else (alpha, high)
        alpha = (low + high) / 2
        counts = _within(sums, alpha)
    places = torch.arange(score.shape[1])
    keep = torch.empty_like(score, dtype=torch.bool)
    keep.scatter_(1, order.indices, places >= counts[:, None])
    return keep.to(device), alpha


def share(rate: float, count: int) -> int:
    """Whole things in a share of `count`, robust against 0.29 * 100 = 28.999999999999996."""
    return int(rate * count + 1e-9)


def _within(sums: Tensor, alpha: float) -> Tensor:
    """Per row, how many of the ascending sums are at most alpha of the last."""
    return (sums <= alpha * sums[:, -1:]).sum(dim=1)


def _all_but_lowest(score: Tensor, count: int) -> Tensor:
    """True but for the `count` lowest along the last axis."""
    lowest = torch.sort(score, dim=-1, stable=True).indices[..., :count]
    keep = torch.ones_like(score, dtype=torch.bool)
    return keep.scatter_(-1, lowest, False)
