"""Depth pruning: remove the blocks that matter least.

Importance of a block, least important first (Kim et al., "Shortened LLaMA: Depth Pruning for Large
Language Models", arXiv 2402.02834, section 3.1):

- `magnitude`: sum of abs(w) over its seven projections;
- `taylor`: sum of abs(w * dL/dw) over them, L the mean loss on the calibration windows;
- `perplexity`: of the model without the block, on the calibration windows.

One-shot removes the `remove` least important blocks at once; iterative measures again after each
removal. The first and last blocks stay (section 3.3 there: they matter most).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain.compress.checkpoint import Source, Tensor, Writer, block_name, copy_blocks
from toolchain.compress.forward import gradients, losses_without, perplexity_of
from toolchain.compress.gradient_norms import check_gradients
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.model.config import ModelConfig
from toolchain.model.errors import Problem
from toolchain.model.names import LINEAR_SUFFIXES

METHODS = ("magnitude", "taylor", "perplexity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """What to remove and how to choose it."""

    remove: int = option(2, "blocks to remove", low=1, high=511)
    method: str = option("taylor", "importance of a block", choices=METHODS)
    iterative: bool = option(False, "measure again after each removal")
    protect_first: int = option(4, "blocks at the beginning that stay", low=0, high=512)
    protect_last: int = option(2, "blocks at the end that stay", low=0, high=512)

    def needs_text(self) -> bool:
        """Magnitudes need none."""
        return self.method != "magnitude"

    def idle(self) -> Mapping[str, str]:
        """Magnitudes of blocks do not change when others leave."""
        own = {} if self.needs_text() else {"iterative": "magnitudes do not change by removal"}
        # Not super(): a dataclass with slots is a new class, which breaks its bare form.
        return {**CalibratedOptions.idle(self), **own}

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """Enough blocks must be left to choose from."""
        free = config.num_layers - self.protect_first - self.protect_last
        if self.remove > free or self.remove >= config.num_layers:
            most = max(0, min(free, config.num_layers - 1))
            allowed = (
                f"at most {most}: {config.num_layers} blocks, {self.protect_first} first and "
                f"{self.protect_last} last protected"
            )
            fix = "remove fewer, or lower protect_first and protect_last"
            yield Problem("remove", str(self.remove), allowed, fix)

    def after(self, config: ModelConfig) -> ModelConfig:
        """Fewer blocks."""
        return replace(config, num_layers=config.num_layers - self.remove)


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes the model without the chosen blocks; its config.json has fewer layers."""
    source = Source.open(source_dir)
    order = list(range(source.config.num_layers))
    rounds: list[dict[str, float]] = []
    steps = options.remove if options.iterative else 1
    for _ in range(steps):
        scores = importance(source, order, options, run)
        rounds.append({str(block): score for block, score in zip(order, scores, strict=True)})
        count = 1 if options.iterative else options.remove
        gone = least_important(order, scores, count, candidates(source.config, options))
        order = [block for block in order if block not in gone]
    writer = Writer(source, out, {"num_hidden_layers": len(order)})
    writer.copy_outside()
    writer.finish(copy_blocks(writer, tuple(order)))
    removed = [block for block in range(source.config.num_layers) if block not in order]
    return StageMetrics({"removed_blocks": removed, "importance": rounds})


def candidates(config: ModelConfig, options: Options) -> range:
    """Blocks of the source that may go."""
    return range(options.protect_first, config.num_layers - options.protect_last)


def least_important(
    order: Sequence[int], scores: Sequence[float], count: int, allowed: range
) -> set[int]:
    """The `count` allowed blocks with the lowest scores; of equal ones the first go."""
    ranked = sorted((s, b) for b, s in zip(order, scores, strict=True) if b in allowed)
    return {block for _, block in ranked[:count]}


def importance(
    source: Source, order: Sequence[int], options: Options, run: RunContext
) -> list[float]:
    """One finite score per block of `order`; larger matters more."""
    if options.method == "magnitude":
        return [magnitude(source, block, run.device) for block in order]
    tokens = run.texts.windows(source.directory, options, run.seed)
    if options.method == "perplexity":
        tick = run.ticker("blocks run", len(order))
        losses = losses_without(source, tokens, run.device, order, tick)
        return [perplexity_of(loss) for loss in losses]
    return taylor(source, order, tokens, run)


def magnitude(source: Source, block: int, device: str) -> float:
    """Sum of abs(w) over the projections of a block, in float64."""
    weights = (source.weight(block_name(block, suffix), device) for suffix in LINEAR_SUFFIXES)
    return sum(float(weight.abs().double().sum()) for weight in weights)


def taylor(source: Source, order: Sequence[int], tokens: Tensor, run: RunContext) -> list[float]:
    """Sum of abs(w * dL/dw) over the projections of every block; L is the mean over samples."""
    scores = [0.0] * len(order)
    sums: dict[str, Tensor] = {}
    samples = len(tokens)
    tick = run.ticker("blocks run forward and back", 2 * len(order))
    for position, sample, found in gradients(source, tokens, run.device, order, tick):
        for suffix, gradient in found.items():
            sums[suffix] = gradient if sample == 0 else sums[suffix] + gradient
        if sample == samples - 1:
            check_gradients(order[position], sums)
            scores[position] = _weighted(source, order[position], sums, samples, run.device)
    return scores


def _weighted(
    source: Source, block: int, sums: Mapping[str, Tensor], samples: int, device: str
) -> float:
    total = 0.0
    for suffix, gradient in sums.items():
        weight = source.weight(block_name(block, suffix), device)
        total += float((weight * gradient).abs().double().sum()) / samples
    return total
