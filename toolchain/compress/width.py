"""Width pruning: zero single weights of the projections, for good.

Scores: `magnitude` abs(w); `wanda` and `gblm` as in scores.py. Amounts: N:M (N of every M
consecutive inputs of a row are removed), or a rate without structure; the same for all, per module
and block by op id (`amounts`), or falling linearly over depth (`depth_gradient`, as in LoRA-based
pruning of Sheared-LLaMA: 0.5 in the first block to 0 in the last, by L1 magnitude).

Blocks are pruned in order, and the inputs of a block are those that the pruned blocks before it
make (Wanda, section 3). Gradients are those of the model as given. Removed weights go into the
masks of the checkpoint; weights that were removed before stay removed and count towards the amount.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from toolchain.compress.amounts import Amount, Wish, amounts_of, wish_misfits, wish_problems
from toolchain.compress.checkpoint import (
    BLOCK_SUFFIXES,
    Block,
    Source,
    Tensor,
    Writer,
    block_name,
)
from toolchain.compress.forward import Passes
from toolchain.compress.gradient_norms import GradientNorms
from toolchain.compress.masks import Mask, fits_pattern
from toolchain.compress.scores import (
    gblm_score,
    keep_alpha,
    keep_matrix,
    keep_nm,
    keep_rows,
    wanda_score,
)
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.model.config import ModelConfig
from toolchain.model.errors import Problem
from toolchain.model.names import LINEAR_SUFFIXES
from toolchain.model.nm_pattern import Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """How much goes, and by which score."""

    method: str = option("wanda", "score", choices=("wanda", "magnitude", "gblm"))
    pattern: str | None = option(None, "N:M for all projections: N of every M removed")
    sparsity: float | None = option(None, "rate for all projections", low=0, high=0.999)
    depth_gradient: tuple[float, ...] | None = option(
        None, "rates of the first and of the last block", low=0, high=0.999
    )
    amounts: dict[str, str | float] | None = option(
        None, "op id pattern to N:M or rate; the last that matches counts"
    )
    compare: str | None = option(
        None,
        "rates hold per row or per matrix; default: matrix for magnitude, else row",
        choices=("row", "matrix"),
    )
    alpha_search: bool = option(False, "rates by share of a row's score, found by bisection")
    gradient_weight: float = option(100.0, "alpha of gblm", low=0)

    @property
    def wish(self) -> Wish:
        """The amounts asked for."""
        return Wish(self.pattern, self.sparsity, self.depth_gradient, self.amounts or {})

    def needs_text(self) -> bool:
        """Magnitudes need none."""
        return self.method != "magnitude"

    def problems(self) -> Iterator[Problem]:
        """Amounts that are none, or too many."""
        yield from wish_problems(self.wish)
        if self.alpha_search and (self.compare == "matrix" or self.method == "magnitude"):
            yield Problem("alpha_search", "given", "with wanda or gblm, row by row")

    def idle(self) -> Mapping[str, str]:
        """What only some scores or amounts use."""
        idle = dict(CalibratedOptions.idle(self))
        if self.method != "gblm":
            idle["gradient_weight"] = "only gblm has gradients"
        values = list((self.amounts or {}).values())
        if all(isinstance(value, str) for value in values) and (
            self.sparsity is None and self.depth_gradient is None
        ):
            idle["compare"] = idle["alpha_search"] = "N:M leaves no choice of rows"
        return idle

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """Patterns that match no projection, or are longer than a row."""
        yield from wish_misfits(self.wish, config)


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes the model with removed weights at 0, and its masks."""
    source = Source.open(source_dir)
    amounts = amounts_of(options.wish, source.config)
    passes = _passes(source, options, run)
    norms = None
    if passes is not None and options.method == "gblm":
        norms = GradientNorms.measure(source, passes.tokens, run.device, out, run.progress)
    pruner = _Pruner(source, options, passes, norms)
    writer = Writer(source, out)
    writer.copy_outside()
    masks: dict[str, Mask] = {}
    states = pruner.passes.start() if pruner.passes else None
    for block in range(source.config.num_layers):
        run.progress("pruning blocks", block, source.config.num_layers)
        weights = source.block(block, run.device)
        found = pruner.masks(block, weights, states, amounts)
        pruned = _write_block(writer, block, weights, found)
        if passes is not None:
            states = passes.apply(states, passes.runner, pruned)
        masks |= found
    if norms is not None:
        norms.discard()
    writer.finish(masks)
    return StageMetrics(_metrics(masks, pruner.alphas))


def _write_block(writer: Writer, block: int, weights: Block, masks: Mapping[str, Mask]) -> Block:
    """Writes the weights of a block in their stored dtype; the same weights in float32."""
    pruned = dict(weights)
    for suffix in BLOCK_SUFFIXES:
        name = block_name(block, suffix)
        stored = writer.source.stored(name)
        if name in masks:
            removed = torch.from_numpy(~masks[name].keep)
            stored = stored.masked_fill(removed, 0)
            pruned[suffix] = weights[suffix].masked_fill(removed.to(weights[suffix].device), 0)
        writer.add(name, stored)
    return pruned


def _passes(source: Source, options: Options, run: RunContext) -> Passes | None:
    if not options.needs_text():
        return None
    tokens = run.texts.windows(source.directory, options, run.seed)
    return Passes.make(source, tokens, run.device)


@dataclass(frozen=True, slots=True, eq=False)
class _Pruner:
    source: Source
    options: Options
    passes: Passes | None
    gradients: GradientNorms | None
    alphas: dict[str, float] = field(default_factory=dict)

    def masks(
        self, block: int, weights: Block, states: Tensor, amounts: Mapping[str, Amount]
    ) -> dict[str, Mask]:
        """Masks of one block by weight name, with what was removed before."""
        norms = self.input_norms(states, weights)
        found = {}
        for suffix in LINEAR_SUFFIXES:
            name, amount = block_name(block, suffix), amounts.get(f"l{block:02d}.{suffix}")
            old = self.source.masks.get(name)
            if amount is not None:
                score = self.score(block, suffix, weights[suffix], norms)
                found[name] = self.mask(name, score, amount, old)
            elif old is not None:
                found[name] = old
        return found

    def input_norms(self, states: Tensor, weights: Block) -> dict[str, Tensor]:
        """sqrt(mean over samples of the sum of x ** 2) per input of every projection, float32."""
        if self.passes is None:
            return {}
        sums: dict[str, Tensor] = {}

        def tap(suffix: str, x: Tensor) -> None:
            squares = x.double().pow(2).sum(dim=0)
            sums[suffix] = sums[suffix] + squares if suffix in sums else squares

        runner = self.passes.runner
        self.passes.apply(states, lambda x, w: runner(x, w, tap), weights)
        samples = len(states)
        return {suffix: (total / samples).sqrt().float() for suffix, total in sums.items()}

    def score(self, block: int, suffix: str, weight: Tensor, norms: Mapping[str, Tensor]) -> Tensor:
        """Importance of every weight of a projection."""
        if self.options.method == "magnitude":
            return weight.abs()
        if self.gradients is None:
            return wanda_score(weight, norms[suffix])
        gradient = self.gradients.load(block, suffix).to(weight.device)
        return gblm_score(weight, norms[suffix], gradient, self.options.gradient_weight)

    def mask(self, name: str, score: Tensor, amount: Amount, old: Mask | None) -> Mask:
        """The new mask of one projection; what is removed already ranks lowest."""
        if old is not None:
            score = score.masked_fill(~torch.from_numpy(old.keep).to(score.device), -1)
        keep = self.keep(name, score, amount).cpu().numpy()
        pattern = None if old is None else old.pattern
        if old is not None:
            keep = keep & old.keep
        if isinstance(amount, Pattern) and fits_pattern(keep, amount.removed, amount.group):
            pattern = str(amount)
        return Mask(keep, pattern)

    def keep(self, name: str, score: Tensor, amount: Amount) -> Tensor:
        """Which weights stay, by the options."""
        if isinstance(amount, Pattern):
            return keep_nm(score, amount.removed, amount.group)
        if self.options.alpha_search:
            keep, self.alphas[name] = keep_alpha(score, amount)
            return keep
        by_matrix = self.options.method == "magnitude"
        if self.options.compare is not None:
            by_matrix = self.options.compare == "matrix"
        return keep_matrix(score, amount) if by_matrix else keep_rows(score, amount)


def _metrics(masks: Mapping[str, Mask], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Removed weights, in all and as a share of each projection."""
    values: dict[str, Any] = {
        "removed_weights": sum(int((~mask.keep).sum()) for mask in masks.values()),
        "sparsity": {name: round(1 - float(m.keep.mean()), 6) for name, m in masks.items()},
    }
    return values | ({"alpha": dict(alphas)} if alphas else {})
