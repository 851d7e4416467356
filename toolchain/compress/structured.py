"""Structured pruning: whole neurons and heads go, and the shapes of the model shrink.

Feed-forward neurons and attention modules as in Sandri et al., "2SSP: A Two-Stage Framework for
Structured Pruning of LLMs" (arXiv 2501.17771, section 3):

1. neurons: the score of a neuron is the mean over samples of the 2-norm over tokens of its
   activation (the input of down_proj); every block keeps equally many, with the highest scores;
2. attention modules: one after the other, the one without which the perplexity on the calibration
   windows is lowest.

Both amounts are given, or follow from a total `sparsity` s of the projections (equation 5 there):
of B blocks, B * s ** (W_ffn / W_attn / balance) lose their attention, W being the weights of a
module in one block, and neurons make up for the rest.

Blocks of a checkpoint are alike in shape, so a single attention module cannot leave it. It is
silenced instead: its four matrices are 0 and masked. The compiled program goes without it
(toolchain/model/silent_parts.py).

Heads: whole KV groups, and query heads of every group. Single heads can go with little loss
(Michel et al., "Are Sixteen Heads Really Better than One?", arXiv 1905.10650); the score here is
the energy that a head adds to the residual stream, the squared 2-norm of X_h W_h^T over all tokens,
X_h its inputs of o_proj and W_h its columns. All scores are those of the model as given.

Neurons are kept in multiples of `grain`: an engine computes 32 outputs in a pass and reads inputs
in tiles of 28 or 252 channels (224 is a multiple of 32 and 28).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from toolchain.compress.blocks import BlockRunner
from toolchain.compress.checkpoint import BLOCK_SUFFIXES, Block, Source, Tensor, Writer, block_name
from toolchain.compress.cuts import Cut, CutSource, head_rows
from toolchain.compress.forward import Passes, Tick, losses_of_variants, no_tick, perplexity_of
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.model.config import ModelConfig
from toolchain.model.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """How many of each go."""

    ffn: float = option(0.0, "share of feed-forward neurons removed", low=0, high=0.99)
    grain: int = option(32, "neurons are kept in multiples of this", low=1, high=1 << 16)
    attention: int = option(0, "attention modules removed", low=0, high=511)
    sparsity: float | None = option(
        None, "of all projections, balanced between the two", low=0.01, high=0.99
    )
    balance: float = option(1.5, "more: more attention goes for a sparsity", low=0.01, high=100)
    kv_groups: int = option(0, "KV heads removed with their query heads", low=0, high=1023)
    query_heads: int = option(0, "query heads removed from every KV group", low=0, high=1023)

    def problems(self) -> Iterator[Problem]:
        """Something must go."""
        amounts = (self.ffn, self.attention, self.kv_groups, self.query_heads, self.sparsity)
        if not any(amounts):
            allowed = "sparsity, ffn, attention, kv_groups or query_heads above 0"
            yield Problem("amount", "nothing to remove", allowed)
        if self.sparsity and (self.kv_groups or self.query_heads):
            fix = "remove heads in a stage of their own"
            yield Problem("sparsity", "given with heads", "neurons and attention only", fix)

    def idle(self) -> Mapping[str, str]:
        """The grain is that of neurons; a sparsity says both amounts."""
        if self.sparsity is not None:
            return dict.fromkeys(("ffn", "attention"), "the sparsity says how many")
        idle = {"balance": "there is no sparsity to balance"}
        return idle if self.ffn else {**idle, "grain": "ffn is 0"}

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """At least one of everything stays, and neurons in whole grains."""
        share, attention = self.amounts(config)
        limits = {
            "attention": (attention, config.num_layers - 1),
            "kv_groups": (self.kv_groups, config.num_kv_heads - 1),
            "query_heads": (self.query_heads, config.num_heads // config.num_kv_heads - 1),
        }
        for name, (count, most) in limits.items():
            if count > most:
                yield Problem(name, str(count), f"at most {most} in this model")
        ffn = config.intermediate_size
        if share and not 0 < self.kept_neurons(config) < ffn:
            found = f"{share:.3g} of {ffn} in multiples of {self.grain}"
            fix = "choose another share, or a smaller grain"
            yield Problem("ffn", found, "a share that leaves some grains and removes some", fix)

    def amounts(self, config: ModelConfig) -> tuple[float, int]:
        """Share of neurons and number of attention modules for a model of this shape."""
        if self.sparsity is None:
            return self.ffn, self.attention
        attention = 2 * config.hidden_size * (config.num_heads + config.num_kv_heads)
        attention *= config.head_dim
        ffn = 3 * config.hidden_size * config.intermediate_size
        blocks = config.num_layers
        gone = round(blocks * self.sparsity ** (ffn / attention / self.balance))
        rest = self.sparsity * blocks * (attention + ffn) - gone * attention
        return rest / (blocks * ffn), gone

    def kept_neurons(self, config: ModelConfig) -> int:
        """The multiple of the grain that is nearest to the share asked for, ties upwards."""
        share, _ = self.amounts(config)
        if not share:
            return config.intermediate_size
        exact = config.intermediate_size * (1 - share)
        grains = int(exact / self.grain + 0.5 + 1e-9)
        return min(grains * self.grain, config.intermediate_size)

    def after(self, config: ModelConfig) -> ModelConfig:
        """The smaller shape."""
        kv_heads = config.num_kv_heads - self.kv_groups
        per_group = config.num_heads // config.num_kv_heads - self.query_heads
        return replace(
            config,
            intermediate_size=self.kept_neurons(config),
            num_heads=kv_heads * per_group,
            num_kv_heads=kv_heads,
        )


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes the smaller model; its config.json has the new shape."""
    source = Source.open(source_dir)
    tokens = run.texts.windows(source_dir, options, run.seed)
    config = options.after(source.config)
    cuts = tuple(_choose_cuts(source, tokens, config, run))
    smaller = CutSource.of(source, cuts, config)
    rounds: list[dict[str, float]] = []
    _, attention = options.amounts(source.config)
    for step in range(attention):
        tick = run.ticker(f"attention module {step + 1}: blocks run", config.num_layers)
        found = attention_perplexity(smaller, tokens, run.device, tick)
        rounds.append({str(block): value for block, value in found.items()})
        gone = min(found, key=lambda block: (found[block], block))
        smaller = replace(smaller, silent=smaller.silent | {gone})
    writer = Writer(source, out, _config_changes(config))
    writer.copy_outside()
    for block in range(config.num_layers):
        for suffix in BLOCK_SUFFIXES:
            writer.add(block_name(block, suffix), smaller.part(block, suffix))
    writer.finish(smaller.cut_masks())
    return StageMetrics(_metrics(source.config, config, smaller, rounds))


def _config_changes(config: ModelConfig) -> dict[str, int]:
    return {
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
    }


def _metrics(
    before: ModelConfig, after: ModelConfig, smaller: CutSource, rounds: list[dict[str, float]]
) -> dict[str, Any]:
    return {
        "neurons": [before.intermediate_size, after.intermediate_size],
        "query_heads": [before.num_heads, after.num_heads],
        "kv_heads": [before.num_kv_heads, after.num_kv_heads],
        "silent_attention": sorted(smaller.silent),
        "perplexity_without_attention": rounds,
    }


def _choose_cuts(
    source: Source, tokens: Tensor, after: ModelConfig, run: RunContext
) -> Iterator[Cut]:
    """The cut of every block, from the activations of the model as given."""
    config, passes = source.config, Passes.make(source, tokens, run.device)
    states = passes.start()
    for block in range(config.num_layers):
        run.progress("measuring neurons and heads", block, config.num_layers)
        weights = source.block(block, run.device)
        scores = _Scores(config, weights["attn.o_proj"])
        runner = passes.runner
        states = torch.cat(
            [scores.see(part.to(run.device), weights, runner).cpu() for part in states.split(1)]
        )
        kv, queries = choose_heads(scores.heads.cpu(), config, after)
        yield Cut(
            highest(scores.neurons.cpu(), after.intermediate_size),
            head_rows(queries, config.head_dim),
            head_rows(kv, config.head_dim),
        )


class _Scores:
    """Sums over samples: `neurons` (intermediate,) and `heads` (num_heads,), float64."""

    def __init__(self, config: ModelConfig, output: Tensor) -> None:
        self.config = config
        self.output = output.double().reshape(len(output), config.num_heads, config.head_dim)
        self.neurons = output.new_zeros(config.intermediate_size, dtype=torch.float64)
        self.heads = output.new_zeros(config.num_heads, dtype=torch.float64)

    def see(self, x: Tensor, weights: Block, runner: BlockRunner) -> Tensor:
        """Run the block on one sample and add to the scores."""
        with torch.no_grad():
            return runner(x, weights, self.tap)

    def tap(self, suffix: str, x: Tensor) -> None:
        """The inputs of down_proj are neurons, those of o_proj heads."""
        if suffix == "mlp.down_proj":
            self.neurons += x.double().norm(dim=0)
        elif suffix == "attn.o_proj":
            heads = x.double().reshape(len(x), self.config.num_heads, self.config.head_dim)
            gram = torch.einsum("thd,the->hde", heads, heads)
            # Sum over tokens and outputs of (x_h . w_o)^2, by the Gram matrix of the inputs.
            self.heads += torch.einsum("ohd,hde,ohe->h", self.output, gram, self.output)


def highest(scores: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` highest; of equal ones the first stay."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def choose_heads(scores: Tensor, before: ModelConfig, after: ModelConfig) -> tuple[Tensor, Tensor]:
    """(KV heads, query heads) that stay: groups by the sum of their heads, then heads in them."""
    shared = before.num_heads // before.num_kv_heads
    by_group = scores.reshape(before.num_kv_heads, shared)
    groups = highest(by_group.sum(dim=1), after.num_kv_heads)
    per_group = after.num_heads // after.num_kv_heads
    queries = [group * shared + highest(by_group[group], per_group) for group in groups]
    return groups, torch.cat(queries)


def attention_perplexity(
    source: CutSource, tokens: Tensor, device: str, tick: Tick = no_tick
) -> dict[int, float]:
    """Perplexity without one more attention module, by block, for those that still speak."""
    passes = Passes.make(source, tokens, device)
    runner = passes.runner

    def without(x: Tensor, weights: Block) -> Tensor:
        return x + runner.mlp(x, weights)

    order = range(source.config.num_layers)
    speaking = [block for block in order if block not in source.silent]
    losses = losses_of_variants(passes, order, (runner, without), speaking, tick)
    return {block: perplexity_of(loss) for block, loss in losses.items()}
