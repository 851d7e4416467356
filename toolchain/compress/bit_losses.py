"""How much each width of each projection costs, measured on calibration text.

The integers are those that `edgec compile` makes (toolchain/model/group_scales.py). `loss`: the
mean loss of the model with only this projection rounded, minus that of the float model. `fisher`:
the second-order estimate T / 2 * sum of E[g^2] * dw^2, with the gradient g of a window's mean loss
over T tokens, as in Kim et al., "SqueezeLLM" (arXiv 2306.07629), section 4.1: two passes for all
widths, for models too large to try them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from toolchain.compress.blocks import Head
from toolchain.compress.checkpoint import BLOCK_SUFFIXES, Block, Source, Tensor, block_name
from toolchain.compress.forward import Passes
from toolchain.compress.gradient_norms import GradientNorms
from toolchain.compress.stage import RunContext
from toolchain.model.group_scales import quantize_matrix
from toolchain.model.names import op_id_of

Losses = dict[str, dict[int, float]]  # op id to bits to added loss, in nats per token


def rounded(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """A float32 matrix as `edgec compile` quantizes it, float32 on the same device."""
    inputs = weight.shape[1]
    width = inputs if group_size == -1 else min(group_size, inputs)
    found = quantize_matrix(weight.cpu().numpy(), bits, width)
    multipliers = torch.from_numpy(found.multipliers).double().repeat_interleave(width, dim=1)
    steps = multipliers[:, :inputs] * torch.from_numpy(found.scale)[:, None]
    return (torch.from_numpy(found.values).double() * steps).float().to(weight.device)


@dataclass(frozen=True, slots=True, eq=False)
class RoundedSource(Source):
    """A source whose projections are rounded to the bits given by op id."""

    bits: Mapping[str, int] = field(default_factory=dict)
    group_size: int = -1

    @staticmethod
    def of(source: Source, bits: Mapping[str, int], group_size: int) -> RoundedSource:
        """`bits` may name some projections only."""
        return RoundedSource(source.directory, source.model, source.masks, bits, group_size)

    def block(self, index: int, device: str) -> Block:
        """The weights of a block, rounded where asked."""
        found: Block = {}
        for suffix in BLOCK_SUFFIXES:
            name = block_name(index, suffix)
            weight, bits = self.weight(name, device), self.bits.get(op_id_of(name))
            found[suffix] = weight if bits is None else rounded(weight, bits, self.group_size)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A model, token windows (samples, positions), and the widths to try by op id."""

    source: Source
    tokens: Tensor
    widths: Mapping[str, Collection[int]]
    group_size: int
    run: RunContext


def measured_losses(trial: Trial) -> tuple[float, Losses]:
    """Loss of the float model, and what every width of every projection adds to it.

    The variants of one block travel through the blocks behind it together.
    """
    source, run, group_size = trial.source, trial.run, trial.group_size
    passes = Passes.make(source, trial.tokens, run.device)
    order, head = range(source.config.num_layers), Head.load(source, run.device)
    states, found = passes.start(), dict[tuple[str, int], Tensor]()
    added: Losses = {op_id: {} for op_id in trial.widths}
    tick = run.ticker("widths tried: blocks", len(order))
    for block in order:
        weights = source.block(block, run.device)
        found.clear()
        for suffix in BLOCK_SUFFIXES:
            op_id = op_id_of(block_name(block, suffix))
            for bits in trial.widths.get(op_id, ()):
                changed = weights | {suffix: rounded(weights[suffix], bits, group_size)}
                found[op_id, bits] = passes.apply(states, passes.runner, changed)
        states = passes.apply(states, passes.runner, weights)
        for later in range(block + 1, len(order)):
            weights = source.block(later, run.device)
            for key, value in found.items():
                found[key] = passes.apply(value, passes.runner, weights)
        for (op_id, bits), value in found.items():
            added[op_id][bits] = passes.losses(value, head)
        tick()
    base = passes.losses(states, head)
    return base, {
        op_id: {bits: loss - base for bits, loss in by_bits.items()}
        for op_id, by_bits in added.items()
    }


def estimated_losses(trial: Trial, scratch: Path) -> Losses:
    """The second-order estimate; gradients lie in `scratch` meanwhile."""
    source, tokens, run = trial.source, trial.tokens, trial.run
    norms = GradientNorms.measure(source, tokens, run.device, scratch, run.progress)
    added: Losses = {op_id: {} for op_id in trial.widths}
    for block in range(source.config.num_layers):
        for suffix in BLOCK_SUFFIXES:
            name = block_name(block, suffix)
            op_id = op_id_of(name)
            if op_id not in trial.widths:
                continue
            weight = source.weight(name, "cpu")
            curvature = norms.load(block, suffix).double().pow(2) * (tokens.shape[1] - 1)
            for bits in trial.widths[op_id]:
                change = (rounded(weight, bits, trial.group_size) - weight).double()
                added[op_id][bits] = float((curvature * change.pow(2)).sum()) / 2
    norms.discard()
    return added
