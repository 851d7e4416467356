"""EoRA: low-rank adapters that undo the errors of compression where inputs are large.

Liu et al., "EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank
Approximation" (arXiv 2410.21271), algorithm 1: with X X^T = Q L Q^T the error dW is projected to
dW Q sqrt(L), cut to rank r by SVD, and projected back; y = W^ x + B A x. The least error in the
projected space is the least error of the outputs.

X are the inputs that the compressed model sees, with the adapters of the blocks before. Weights of
the base do not change, so what is removed stays 0 there; the adapter is dense. Own implementation:
float64 on the inputs of one projection at a time, the same bytes for the same input.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from toolchain.compress.adapter import Adapter, write_adapter
from toolchain.compress.checkpoint import Block, Source, Tensor, block_name
from toolchain.compress.forward import Passes
from toolchain.compress.gptq import Hessian
from toolchain.compress.publish import content_hash
from toolchain.compress.quantized import QuantizedSource, module_of
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.model.config import ModelConfig
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.names import LINEAR_SUFFIXES, expected_shapes, hf_name_of, linear_ids

SMALLEST_SHARE = 1e-10  # of the largest eigenvalue: below it, inputs never went that way


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """Rank, and what the error is measured against."""

    samples: int = option(64, "windows of calibration text", low=1, high=1 << 20)
    rank: int = option(32, "of every adapter", low=1, high=4096)
    against: str = option(
        "input",
        "weights to restore: those before quantization, or the model as given",
        choices=("input", "given"),
    )

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """No matrix has a higher rank than its smaller side."""
        shapes = expected_shapes(config)
        most = min(min(shapes[hf_name_of(op_id)]) for op_id in linear_ids(config))
        if self.rank > most:
            yield Problem("rank", str(self.rank), f"at most {most}, a side of the smallest matrix")


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes a PEFT adapter on the quantized input."""
    quantized = QuantizedSource.open(source_dir)
    wanted = _reference(quantized, options, run)
    tokens = run.texts.windows(wanted.directory, options, run.seed)
    passes = Passes.make(quantized, tokens, run.device)
    states = passes.start()
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    shares: dict[str, float] = {}
    tick = run.ticker("blocks compensated", quantized.config.num_layers)
    for block in range(quantized.config.num_layers):
        weights = quantized.block(block, run.device)
        seen = _second_moments(passes, states, weights)
        for suffix in LINEAR_SUFFIXES:
            name = block_name(block, suffix)
            base = quantized.stored(name).to(run.device).double()
            error = wanted.weight(name, run.device).double() - base
            down, up, share = compensate(error, seen[suffix].mean(), options.rank)
            factors[module_of(name)] = (down.half().cpu(), up.half().cpu())
            shares[f"l{block:02d}.{suffix}"] = round(share, 6)
            corrected = base + up.half().double() @ down.half().double()
            if not callable(weights[suffix]):
                weights[suffix] = corrected.float()
        states = passes.apply(states, passes.runner, weights)
        tick()
    # The final directory lies beside its input, wherever both are moved.
    base_path = os.path.relpath(source_dir.resolve(), out.resolve())
    write_adapter(out, Adapter(options.rank, factors), base_path)
    return StageMetrics({"rank": options.rank, "output_error_left": shares})


def _reference(quantized: QuantizedSource, options: Options, run: RunContext) -> Source:
    """The float weights to restore."""
    if options.against == "given":
        given = Source.open(run.earlier[0])
        if expected_shapes(given.config) != expected_shapes(quantized.config):
            fix = 'against = "input" restores what quantization lost'
            problem = Problem("against", "given, of another shape", "a model of the same shape")
            raise CompressionError("the errors cannot be measured", [problem], fix)
        return given
    origin = quantized.settings["meta"]["edgec"]["source_hash"]
    for directory in reversed(run.earlier):
        if content_hash(directory) == origin:
            return Source.open(directory)
    problem = Problem("input of the quantized model", "changed or gone", "as it was")
    fix = "delete the stages behind it, or run with --restart"
    raise CompressionError("the errors cannot be measured", [problem], fix)


def _second_moments(passes: Passes, states: Tensor, weights: Block) -> dict[str, Hessian]:
    """Of the inputs of every projection of a block."""
    seen: dict[str, Hessian] = {}

    def tap(suffix: str, x: Tensor) -> None:
        if suffix not in seen:
            seen[suffix] = Hessian.zero(x.shape[1], passes.device)
        seen[suffix].add(x)

    runner = passes.runner
    passes.apply(states, lambda x, w: runner(x, w, tap), weights)
    return seen


def compensate(error: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """(A, B, share of the squared output error that is left), float64.

    `error` (n_out, n_in) is what is missing, `moment` (n_in, n_in) positive semidefinite,
    proportional to X X^T. A is (rank, n_in), B (n_out, rank).
    """
    values, vectors = torch.linalg.eigh(moment)
    floor = float(values[-1].clamp(min=0)) * SMALLEST_SHARE
    roots = torch.where(values > floor, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(roots > 0, 1 / roots.clamp(min=1e-300), torch.zeros_like(roots))
    projected = error @ (vectors * roots)
    left, sizes, right = torch.linalg.svd(projected, full_matrices=False)
    up = left[:, :rank] * sizes[:rank]
    down = (right[:rank] * inverse) @ vectors.T
    total = float(sizes.pow(2).sum())
    rest = float(sizes[rank:].pow(2).sum())
    return (*_balanced(down, up, sizes[:rank]), rest / total if total else 0.0)


def _balanced(down: Tensor, up: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with the size of each component split evenly, to suit float16."""
    share = (up.norm(dim=0) / down.norm(dim=1).clamp(min=1e-300)).sqrt()
    share = torch.where((share > 0) & (sizes > 0), share, torch.ones_like(share))
    return down * share[:, None], up / share
