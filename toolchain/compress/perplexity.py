"""Perplexity of a checkpoint, float or quantized, on held-out text, block by block.

The protocol is that of `edgec eval` (toolchain/evaluate/perplexity.py): the same windows, and every
token but the first of each counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from toolchain.compress.bit_losses import RoundedSource
from toolchain.compress.checkpoint import Source
from toolchain.compress.forward import mean_loss, perplexity_of
from toolchain.compress.quantized import open_any
from toolchain.compress.stage import Progress, ticker
from toolchain.compress.texts import (
    TextCache,
    heldout_file,
    read_text,
    window_length,
)
from toolchain.evaluate.perplexity import windows_of
from toolchain.evaluate.scoring import Ints
from toolchain.model.bits_file import read_bits
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.gptq_settings import SETTINGS_FILE
from toolchain.model.json_fields import read_json_object
from toolchain.model.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Which text, how many windows at most, how long (None: 512, or the context)."""

    text: str = "builtin"
    windows: int = 16
    tokens: int | None = None


def evaluate(
    directory: Path,
    evaluation: Evaluation | None,
    device: str,
    texts: TextCache,
    progress: Progress,
) -> float | None:
    """The perplexity, exact integers and adapters included; None without an evaluation.

    Tokenizer and context of a checkpoint that is not float are those of `texts.home`.
    """
    if evaluation is None:
        return None
    home = directory if texts.home is None or is_float(directory) else texts.home
    text = read_text(evaluation.text, heldout_file(), texts.allow_hub)
    length = window_length(home, evaluation.tokens)
    ids = texts.ids(home, text)
    start = load_tokenizer(home).start
    windows = list(islice(windows_of(ids, length, start), evaluation.windows))
    if not windows:
        problem = Problem(evaluation.text, f"{len(ids)} tokens", "a window of at least 2")
        raise CompressionError("the text is too short for a perplexity", [problem])
    source, allocated = open_any(directory), read_bits(directory)
    if allocated is not None and is_float(directory):  # what a compile of this directory rounds to
        source = RoundedSource.of(source, allocated.bits, allocated.group_size)
    return perplexity_of(_mean_loss(source, windows, device, progress))


def _mean_loss(source: Source, windows: Sequence[Ints], device: str, progress: Progress) -> float:
    """Nats per token; windows of equal length run together."""
    order, total, count = range(source.config.num_layers), 0.0, 0
    lengths = dict.fromkeys(map(len, windows))
    tick = ticker(progress, "perplexity: blocks run", len(order) * len(lengths))
    for length in lengths:
        rows = [torch.from_numpy(row) for row in windows if len(row) == length]
        tokens = len(rows) * (length - 1)
        total += mean_loss(source, torch.stack(rows), device, order, tick) * tokens
        count += tokens
    return total / count


def is_float(directory: Path) -> bool:
    """Whether a directory holds whole float weights: neither quantized nor only an adapter."""
    config = directory / "config.json"
    if not config.is_file() or (directory / SETTINGS_FILE).exists():
        return False
    return read_json_object(config).get("quantization_config") is None
