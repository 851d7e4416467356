"""GPTQ of one matrix, with weights that must stay 0.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), algorithm 1: columns are rounded one after the other, and the error of each is
spread over the columns behind it by the inverse of H = 2 X X^T + lambda I, lambda a share of the
mean diagonal. A removed weight is given the zero point, and its error is spread the same way:
Frantar and Alistarh, "SparseGPT" (arXiv 2301.00774), section 3.5, with a mask that is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from toolchain.compress.checkpoint import Tensor
from toolchain.compress.gptq_format import CodeMatrix
from toolchain.compress.grids import Grid, GridKind, code_matrix, find_grid
from toolchain.model.errors import CompressionError, Problem

BLOCK = 128  # columns whose updates are gathered
DAMP_STEPS = 10


@dataclass(slots=True, eq=False)
class Hessian:
    """2 / n * sum of x x^T over the n inputs seen, float64 (n_in, n_in)."""

    total: Tensor
    count: int = 0

    @staticmethod
    def zero(inputs: int, device: str) -> Hessian:
        """Before the first input."""
        return Hessian(torch.zeros(inputs, inputs, dtype=torch.float64, device=device))

    def add(self, x: Tensor) -> None:
        """Inputs (rows, n_in)."""
        self.total += (x.T @ x).double()
        self.count += len(x)

    def mean(self) -> Tensor:
        """The matrix; refuses NaN and infinity."""
        value = self.total * (2 / max(self.count, 1))
        if not bool(torch.isfinite(value).all()):
            problem = Problem("inputs of a projection", "NaN or infinite", "finite values")
            raise CompressionError("the model cannot be calibrated", [problem])
        return value


@dataclass(frozen=True, slots=True)
class Manner:
    """How the columns are gone through."""

    damp: float = 0.01  # share of the mean diagonal of H added to it
    by_activation: bool = False  # columns with the largest diagonal of H first (desc_act)


USUAL = Manner()


def quantize_matrix(
    weight: Tensor,
    hessian: Tensor,
    kind: GridKind,
    keep: Tensor | None = None,
    manner: Manner = USUAL,
) -> CodeMatrix:
    """Codes of a float32 matrix (n_out, n_in); `keep` is bool, False where weights must be 0."""
    inputs = weight.shape[1]
    order = torch.arange(inputs, device=weight.device)
    if manner.by_activation:
        order = torch.sort(hessian.diagonal(), descending=True, stable=True).indices
    w = weight.float()[:, order].clone()
    kept = None if keep is None else keep.to(weight.device)[:, order]
    if kept is not None:
        w = w.masked_fill(~kept, 0)
    h = hessian[order][:, order].clone()
    silent = h.diagonal() == 0  # inputs that were never seen: nothing to compensate
    h[silent, silent] = 1
    factor = _inverse_factor(h, manner.damp).float()
    codes, grids = _round_columns(w, factor, kind, kept)
    back = torch.argsort(order)
    return code_matrix(kind.bits, codes[:, back], grids, kind.group_of(inputs)[back.cpu()])


def _inverse_factor(h: Tensor, damp: float) -> Tensor:
    """Upper Cholesky factor of the inverse of H; more damping where H is not positive definite."""
    base = float(h.diagonal().mean())
    for step in range(1, DAMP_STEPS + 1):
        damped = h + torch.eye(len(h), dtype=h.dtype, device=h.device) * (damp * base * step)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return upper
    found = f"not positive definite with {damp * DAMP_STEPS:g} of its mean diagonal added"
    problem = Problem("H of a projection", found, "a positive definite matrix")
    raise CompressionError("GPTQ fails", [problem], "raise damp, or give more samples")


def _round_columns(
    w: Tensor, factor: Tensor, kind: GridKind, keep: Tensor | None
) -> tuple[Tensor, list[Grid]]:
    """Codes in the order of the columns, and one grid per group; `w` is used up."""
    inputs, width = w.shape[1], kind.width(w.shape[1])
    codes, grids = torch.empty_like(w), []
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = torch.zeros_like(w[:, start:end])
        for column in range(start, end):
            if column % width == 0:
                # Columns behind this block have not got this block's errors yet.
                group = slice(column, min(column + width, inputs))
                current = w[:, group].clone()
                ahead = max(0, group.stop - end)
                if ahead:
                    current[:, -ahead:] -= errors @ factor[start:end, end : group.stop]
                if keep is not None:
                    current = current.masked_fill(~keep[:, group], 0)
                grids.append(find_grid(current, kind))
            grid = grids[-1]
            code = grid.codes(w[:, column : column + 1])[:, 0]
            if keep is not None:
                code = torch.where(keep[:, column], code, grid.zero)
            codes[:, column] = code
            rounded = (code - grid.zero) * grid.scale
            error = (w[:, column] - rounded) / factor[column, column]
            errors[:, column - start] = error
            row = factor[column, column + 1 : end]
            w[:, column + 1 : end] -= error[:, None] * row[None, :]
        w[:, end:] -= errors @ factor[start:end, end:]
    return codes, grids
