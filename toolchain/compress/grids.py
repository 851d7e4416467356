"""Grids of integer weights: scale and zero point per output and group, and rounding to them.

Symmetric: zero point 2^(bits-1), scale 2 * amax / (2^bits - 1). Asymmetric: the range of the
weights, widened to hold 0, over 2^bits - 1 steps. With `clip` the range shrinks in 80 steps of 1 %
to the least sum of abs(error)^2.4: Frantar et al., "GPTQ" (arXiv 2210.17323), the quantizer of its
code. Scales are rounded to float16 before weights are rounded to them, since that is what is
stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from toolchain.compress.checkpoint import Tensor
from toolchain.compress.gptq_format import CodeMatrix
from toolchain.model.errors import Problem, QuantizationError

SMALLEST_SCALE = 2.0**-24  # of float16
LARGEST_SCALE = 65504.0
CLIP_STEPS, CLIP_POWER = 80, 2.4
PER_CHANNEL = -1


@dataclass(frozen=True, slots=True)
class GridKind:
    """How weights become integers."""

    bits: int
    group_size: int  # inputs; -1: one group per output
    sym: bool = True
    clip: bool = False

    def width(self, inputs: int) -> int:
        """Inputs per group of a row of `inputs`."""
        return inputs if self.group_size == PER_CHANNEL else min(self.group_size, inputs)

    def group_of(self, inputs: int) -> Tensor:
        """Group of each input, int64."""
        return torch.arange(inputs) // self.width(inputs)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Scale and zero point per output, float32 (n_out,), of one group."""

    scale: Tensor
    zero: Tensor
    high: int

    def codes(self, weight: Tensor) -> Tensor:
        """Nearest codes of (n_out, n) weights, as float32."""
        steps = torch.round(weight / self.scale[:, None]) + self.zero[:, None]
        return steps.clamp(0, self.high)

    def decode(self, codes: Tensor) -> Tensor:
        """Weights of (n_out, n) codes."""
        return (codes - self.zero[:, None]) * self.scale[:, None]


def find_grid(weight: Tensor, kind: GridKind) -> Grid:
    """The grid of one group, (n_out, n) float32; a group of zeros gets scale 2 / high."""
    low = weight.amin(dim=1).clamp(max=0)
    high = weight.amax(dim=1).clamp(min=0)
    if kind.sym:
        high = torch.maximum(-low, high)
        low = -high
    empty = (low == 0) & (high == 0)
    low, high = low.masked_fill(empty, -1), high.masked_fill(empty, 1)
    best = _grid(low, high, kind)
    if not kind.clip:
        return best
    least = _error(weight, best)
    for step in range(1, CLIP_STEPS):
        share = 1 - step / 100
        found = _grid(low * share, high * share, kind)
        error = _error(weight, found)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, found.scale, best.scale)
        best = Grid(scale, torch.where(better, found.zero, best.zero), best.high)
    return best


def _grid(low: Tensor, high: Tensor, kind: GridKind) -> Grid:
    top = (1 << kind.bits) - 1
    exact = (high - low) / top
    if bool((exact > LARGEST_SCALE).any()):
        found = f"a step of {float(exact.max()):g}"
        problem = Problem("scale", found, f"at most {LARGEST_SCALE:g}, the largest float16")
        raise QuantizationError("a scale cannot be stored", [problem])
    scale = exact.clamp(min=SMALLEST_SCALE).half().float()
    middle = torch.full_like(scale, float(1 << (kind.bits - 1)))
    zero = middle if kind.sym else torch.round(-low / scale).clamp(0, top)
    return Grid(scale, zero, top)


def _error(weight: Tensor, grid: Grid) -> Tensor:
    difference = grid.decode(grid.codes(weight)) - weight
    return difference.abs().pow(CLIP_POWER).sum(dim=1)


def round_to_nearest(weight: Tensor, kind: GridKind) -> CodeMatrix:
    """Plain rounding of a matrix (n_out, n_in), group by group."""
    width = kind.width(weight.shape[1])
    grids, codes = [], []
    for part in weight.split(width, dim=1):
        grid = find_grid(part, kind)
        grids.append(grid)
        codes.append(grid.codes(part))
    return code_matrix(kind.bits, torch.cat(codes, dim=1), grids, kind.group_of(weight.shape[1]))


def code_matrix(bits: int, codes: Tensor, grids: list[Grid], group_of: Tensor) -> CodeMatrix:
    """Codes and the grids of their groups, on the CPU."""
    zeros = torch.stack([grid.zero for grid in grids], dim=1)
    scales = torch.stack([grid.scale for grid in grids], dim=1)
    return CodeMatrix(
        bits,
        codes.to(torch.uint8).cpu(),
        zeros.to(torch.uint8).cpu(),
        scales.to(torch.float16).cpu(),
        group_of.cpu(),
    )
