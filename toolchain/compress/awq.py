"""AWQ: input channels are scaled so that those with large activations lose least.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (arXiv
2306.00978), section 3.2: s = mean(abs(x))^alpha per input, alpha of 20 steps in [0, 1) by least
squared error of the outputs. 1 / s goes into what makes the input: a norm, or the rows of the
projection before, so the result is an ordinary checkpoint of integer codes. As in the paper's code,
o_proj is scaled only where every value head has a query head of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from toolchain.compress.checkpoint import Block, Tensor
from toolchain.compress.gptq import Hessian
from toolchain.compress.grids import GridKind, round_to_nearest

STEPS = 20
SMALLEST = 1e-4
# What makes the input, and the projections that read it.
SITES = (
    ("attn.norm", ("attn.q_proj", "attn.k_proj", "attn.v_proj")),
    ("attn.v_proj", ("attn.o_proj",)),
    ("mlp.norm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)


@dataclass(slots=True, eq=False)
class InputStatistics:
    """Of the inputs of one projection."""

    hessian: Hessian
    magnitudes: Tensor  # sum of abs(x) per input, float64

    @staticmethod
    def zero(inputs: int, device: str) -> InputStatistics:
        """Before the first input."""
        sums = torch.zeros(inputs, dtype=torch.float64, device=device)
        return InputStatistics(Hessian.zero(inputs, device), sums)

    def add(self, x: Tensor) -> None:
        """Inputs (rows, n_in)."""
        self.hessian.add(x)
        self.magnitudes += x.abs().double().sum(dim=0)


def scale_block(
    weights: Block, seen: Mapping[str, InputStatistics], kinds: Mapping[str, GridKind]
) -> dict[str, float]:
    """Scales the float32 weights of a block in place, the function unchanged; alpha by maker."""
    alphas = {}
    for maker, readers in SITES:
        if maker == "attn.v_proj" and len(weights[maker]) != weights[readers[0]].shape[1]:
            continue
        scale, alphas[maker] = _search(weights, seen[readers[0]], kinds, readers)
        for suffix in readers:
            weights[suffix] = weights[suffix] * scale
        made = weights[maker]
        weights[maker] = made / (scale if made.dim() == 1 else scale[:, None])
    return alphas


def _search(
    weights: Block,
    seen: InputStatistics,
    kinds: Mapping[str, GridKind],
    readers: tuple[str, ...],
) -> tuple[Tensor, float]:
    mean = (seen.magnitudes / max(seen.hessian.count, 1)).clamp(min=SMALLEST).float()
    gram = seen.hessian.mean().float()
    best, best_error, best_alpha = torch.ones_like(mean), float("inf"), 0.0
    for step in range(STEPS):
        alpha = step / STEPS
        scale = mean**alpha
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = sum(_error(weights[s], scale, gram, kinds[s]) for s in readers)
        if error < best_error:
            best, best_error, best_alpha = scale, error, alpha
    return best, best_alpha


def _error(weight: Tensor, scale: Tensor, gram: Tensor, kind: GridKind) -> float:
    """Squared error of the outputs, up to a constant factor: tr(D H D^T)."""
    rounded = round_to_nearest(weight * scale, kind).decode().to(weight.device) / scale
    difference = rounded - weight
    return float(((difference @ gram) * difference).double().sum())
