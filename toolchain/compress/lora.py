"""LoRA: train low-rank updates of projections, then merge them without undoing the pruning.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685): h = W0 x +
(alpha / r) B A x, dropout on the x of the second term. Adapters are those of the package peft. In a
masked projection the update is masked while it is trained, too, so that merging changes nothing:
removed weights are exactly 0 in what was trained and in what is written.

Training: AdamW, linear warm-up, cosine down to a tenth, gradients clipped to norm 1. A tenth of the
windows is held out; the adapter of the lowest loss on them is merged, and `patience` evaluations
without a lower one end the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from toolchain.compress.checkpoint import BLOCK_SUFFIXES, Source, Tensor, Writer, block_name
from toolchain.compress.lora_training import Examples, Factors, train
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.model.config import ModelConfig
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.names import LINEAR_SUFFIXES, expected_shapes, hf_name_of, linear_ids

ROLES = tuple(suffix.split(".")[1] for suffix in LINEAR_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """Shape of the adapters, and how they are trained."""

    samples: int = option(64, "windows of text", low=2, high=1 << 24)
    targets: tuple[str, ...] = option(
        ("q_proj", "k_proj", "v_proj", "o_proj"), "projections with an adapter", choices=ROLES
    )
    rank: int = option(8, "of the updates", low=1, high=4096)
    alpha: float = option(16.0, "updates are scaled by alpha / rank", low=1e-3, high=1e6)
    dropout: float = option(0.1, "share of inputs left out while training", low=0, high=0.9)
    epochs: int = option(1, "times that every window is seen", low=1, high=1000)
    batch: int = option(8, "windows per step", low=1, high=4096)
    accumulate: int = option(1, "passes that make one step; divides batch", low=1, high=4096)
    learning_rate: float = option(1e-3, "highest of the schedule", low=1e-8, high=1)
    warmup: float = option(0.05, "share of the steps", low=0, high=1)
    precision: str = option(
        "auto", "auto: bf16 on a GPU that has it", choices=("auto", "fp32", "bf16", "fp16")
    )
    clean: str | None = option(None, "curriculum: the first half of the data is from this text")
    patience: int = option(3, "evaluations without progress before the end; 0: never", low=0)
    evaluations: int = option(10, "how often the held-out loss is measured", low=1, high=1000)

    def problems(self) -> Iterator[Problem]:
        """Parts that make no whole."""
        if not self.targets:
            yield Problem("targets", "none", f"some of {', '.join(ROLES)}")
        if self.batch % self.accumulate:
            yield Problem("accumulate", str(self.accumulate), f"a divisor of batch, {self.batch}")

    def texts(self) -> dict[str, str]:
        """Both texts of a curriculum."""
        own = {"calibration": self.calibration}
        return own if self.clean is None else own | {"clean": self.clean}

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """No matrix has a higher rank than its smaller side."""
        shapes = expected_shapes(config)
        ids = [op_id for op_id in linear_ids(config) if op_id.split(".")[2] in self.targets]
        most = min((min(shapes[hf_name_of(op_id)]) for op_id in ids), default=self.rank)
        if self.rank > most:
            yield Problem("rank", str(self.rank), f"at most {most}, a side of the smallest matrix")


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes the model with merged updates, and the masks of the input."""
    source = Source.open(source_dir)
    _check_precision(options, run.device)
    examples = _examples(source_dir, options, run)
    factors, metrics = train(source, examples, options, run)
    writer = Writer(source, out)
    writer.copy_outside()
    for block in range(source.config.num_layers):
        for suffix in BLOCK_SUFFIXES:
            name = block_name(block, suffix)
            writer.add(name, merged(source, name, factors))
    writer.finish(source.masks)
    return StageMetrics(metrics)


def merged(source: Source, name: str, factors: Mapping[str, Factors]) -> Tensor:
    """A weight with its update, in the stored dtype; removed weights stay 0."""
    stored = source.stored(name)
    if name not in factors:
        return stored
    down, up, scale = factors[name]
    weight = stored.float() + scale * (up @ down)
    if name in source.masks:
        weight = weight.masked_fill(torch.from_numpy(~source.masks[name].keep), 0)
    if not bool(torch.isfinite(weight.to(stored.dtype)).all()):
        problem = Problem(name, "NaN or infinite after the merge", "finite values")
        raise CompressionError("the merged weights are broken", [problem], "lower learning_rate")
    return weight.to(stored.dtype)


def _check_precision(options: Options, device: str) -> None:
    if device == "cpu" and options.precision in ("bf16", "fp16"):
        problem = Problem("precision", options.precision, "auto or fp32: the device is a CPU")
        raise CompressionError("LoRA cannot be trained so", [problem])
    if device == "cuda" and options.precision == "bf16" and not torch.cuda.is_bf16_supported():
        problem = Problem("precision", "bf16", "auto, fp32 or fp16: this GPU has no bfloat16")
        raise CompressionError("LoRA cannot be trained so", [problem])


def _examples(source_dir: Path, options: Options, run: RunContext) -> Examples:
    """Held-out windows, and the order in which the others are seen."""
    windows = run.texts.windows(source_dir, options, run.seed)
    count = max(1, len(windows) // 10)
    heldout, rest = windows[:count], windows[count:]
    total = len(rest) * options.epochs
    generator = torch.Generator().manual_seed(run.seed)
    if options.clean is None:
        return Examples(heldout, _cycled(rest, total, generator))
    clean = run.texts.windows(source_dir, replace(options, calibration=options.clean), run.seed)
    first = _cycled(clean, total // 2, generator)
    return Examples(heldout, torch.cat((first, _cycled(rest, total - len(first), generator))))


def _cycled(windows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` windows: whole rounds, each in an order of its own."""
    rounds = -(-count // len(windows))
    order = [torch.randperm(len(windows), generator=generator) for _ in range(rounds)]
    return windows[torch.cat(order)[:count]] if order else windows[:0]
