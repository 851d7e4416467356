"""LLM.int8(): vector-wise 8-bit products, columns with outliers in 16 bit.

Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (arXiv
2208.07339), sections 2 and 3: weights have one scale per output, activations one per token; inputs
with a feature of abs >= 6 are multiplied in 16 bit. The paper finds these columns anew for every
batch; here they are those that calibration text shows, so that the checkpoint says what is kept.
Stored as bitsandbytes stores it, with the 16-bit columns in two tensors beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from toolchain.compress.checkpoint import Tensor

THRESHOLD = 6.0
LEVELS = 127


@dataclass(frozen=True, slots=True, eq=False)
class Int8Matrix:
    """One matrix; `columns` are the inputs that stay in 16 bit."""

    values: Tensor  # int8 (n_out, n_in), -127..127, rounded in all columns
    absmax: Tensor  # float32 (n_out,)
    columns: Tensor  # int64 (k,), ascending
    wide: Tensor  # float16 (n_out, k)

    def decode(self) -> Tensor:
        """The weights, float32 (n_out, n_in)."""
        weight = self.values.float() * (self.absmax / LEVELS)[:, None]
        weight[:, self.columns] = self.wide.float()
        return weight

    def project(self, x: Tensor) -> Tensor:
        """y = W x of states (..., n_in), with the activations of the narrow columns in int8."""
        columns = self.columns.to(x.device)
        narrow = x.clone()
        narrow[..., columns] = 0
        scale = narrow.abs().amax(dim=-1, keepdim=True) / LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        # Products of integers below 2^24 are exact in float32.
        steps = torch.round(narrow / scale)
        y = functional.linear(steps, self.values.to(x.device).float()) * scale
        y = y * (self.absmax / LEVELS).to(x.device)
        return y + functional.linear(x[..., columns], self.wide.to(x.device).float())

    def tensors(self, module: str) -> dict[str, Tensor]:
        """The tensors of a checkpoint under the module's name."""
        return {
            f"{module}.weight": self.values,
            f"{module}.SCB": self.absmax,
            f"{module}.weight_format": torch.tensor(0, dtype=torch.uint8),
            f"{module}.outlier_columns": self.columns,
            f"{module}.outlier_weight": self.wide,
        }


def quantize_int8(weight: Tensor, largest: Tensor, threshold: float = THRESHOLD) -> Int8Matrix:
    """`weight` (n_out, n_in); `largest` (n_in,): the largest abs(input) of each column."""
    weight = weight.float().cpu()
    absmax = weight.abs().amax(dim=1)
    scale = torch.where(absmax > 0, absmax, torch.ones_like(absmax)) / LEVELS
    columns = torch.nonzero(largest.cpu() >= threshold).reshape(-1)
    values = torch.round(weight / scale[:, None]).to(torch.int8)
    return Int8Matrix(values, absmax, columns, weight[:, columns].to(torch.float16))


def read_int8(stored: Mapping[str, Tensor], module: str) -> Int8Matrix:
    """The inverse of `Int8Matrix.tensors`."""
    names = ("weight", "SCB", "outlier_columns", "outlier_weight")
    return Int8Matrix(*(stored[f"{module}.{name}"] for name in names))
