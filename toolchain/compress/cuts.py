"""Which neurons and heads of a block stay, and the smaller matrices that follow.

A neuron of the feed-forward module is a row of gate and up and a column of down; a query head is
head_dim rows of q and columns of o, a KV head head_dim rows of k and v. Removing them leaves a
Llama of smaller shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from toolchain.compress.checkpoint import BLOCK_SUFFIXES, Block, Source, Tensor, block_name
from toolchain.compress.masks import Mask, fits_pattern
from toolchain.model.config import ModelConfig

ROWS = {
    "mlp.gate_proj": "neurons",
    "mlp.up_proj": "neurons",
    "attn.q_proj": "queries",
    "attn.k_proj": "keys",
    "attn.v_proj": "keys",
}
COLUMNS = {"mlp.down_proj": "neurons", "attn.o_proj": "queries"}
ATTENTION = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj")


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Ascending indices of what stays in one block: int64, on the CPU."""

    neurons: Tensor
    queries: Tensor  # rows of q, columns of o
    keys: Tensor  # rows of k and v

    def apply(self, suffix: str, weight: Tensor) -> Tensor:
        """What stays of a weight or mask (n_out, n_in); norms are not cut."""
        if suffix in ROWS:
            return weight[getattr(self, ROWS[suffix]).to(weight.device)]
        if suffix in COLUMNS:
            return weight[:, getattr(self, COLUMNS[suffix]).to(weight.device)]
        return weight


def head_rows(heads: Tensor, head_dim: int) -> Tensor:
    """Rows of the given heads, head by head."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class CutSource(Source):
    """A source as it will be after its cuts and without some attention modules."""

    cuts: tuple[Cut, ...]
    silent: frozenset[int]  # blocks whose attention adds nothing

    @staticmethod
    def of(source: Source, cuts: tuple[Cut, ...], config: ModelConfig) -> CutSource:
        """`config` is the shape after the cuts."""
        model = replace(source.model, config=config)
        return CutSource(source.directory, model, source.masks, cuts, frozenset())

    def part(self, block: int, suffix: str) -> Tensor:
        """A weight of a block after cuts, in its stored dtype, on the CPU."""
        weight = self.cuts[block].apply(suffix, self.stored(block_name(block, suffix)))
        silenced = block in self.silent and suffix in ATTENTION
        return torch.zeros_like(weight) if silenced else weight

    def block(self, index: int, device: str) -> Block:
        """The nine float32 weights of a block by suffix, cut."""
        return {
            suffix: self.part(index, suffix).to(device=device, dtype=torch.float32)
            for suffix in BLOCK_SUFFIXES
        }

    def cut_masks(self) -> dict[str, Mask]:
        """The masks of the input, cut; a silent module is masked as a whole."""
        found: dict[str, Mask] = {}
        for block in range(len(self.cuts)):
            found |= _cut_masks(self, block, self.masks)
        return found


def _cut_masks(source: CutSource, block: int, masks: Mapping[str, Mask]) -> dict[str, Mask]:
    found = {}
    for suffix in (*ROWS, *COLUMNS):
        name = block_name(block, suffix)
        if block in source.silent and suffix in ATTENTION:
            shape = source.part(block, suffix).shape
            found[name] = Mask(torch.zeros(shape, dtype=torch.bool).numpy())
        elif name in masks:
            keep = source.cuts[block].apply(suffix, torch.from_numpy(masks[name].keep)).numpy()
            pattern = masks[name].pattern
            if pattern is not None:
                removed, group = map(int, pattern.split(":"))
                pattern = pattern if fits_pattern(keep, removed, group) else None
            found[name] = Mask(keep.copy(), pattern)
    return found
