"""Perplexity of a checkpoint, float or quantized, on held-out text, block by block.

Protocol: the text is tokenized as a whole and cut into windows that do not overlap, each behind the
token that the tokenizer puts in front of a text; the first token of a window is given, every other
one counts once: exp of the mean negative log-likelihood. A rest shorter than a window is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolchain.compress.bit_losses import RoundedSource
from toolchain.compress.forward import mean_loss, perplexity_of
from toolchain.compress.quantized import open_any
from toolchain.compress.stage import Progress, ticker
from toolchain.compress.texts import (
    TextCache,
    cut_windows,
    heldout_file,
    read_text,
    window_length,
)
from toolchain.model.bits_file import read_bits
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.json_fields import read_json_object


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
    windows = cut_windows(home, ids, length)[: evaluation.windows]
    if not len(windows):
        problem = Problem(evaluation.text, f"{len(ids)} tokens", f"at least {length}")
        raise CompressionError("the text is too short for a perplexity", [problem])
    source, allocated = open_any(directory), read_bits(directory)
    if allocated is not None and is_float(directory):  # what a compile of this directory rounds to
        source = RoundedSource.of(source, allocated.bits, allocated.group_size)
    order = range(source.config.num_layers)
    tick = ticker(progress, "perplexity: blocks run", len(order))
    return perplexity_of(mean_loss(source, windows, device, order, tick))


def is_float(directory: Path) -> bool:
    """Whether a directory holds whole float weights: neither quantized nor only an adapter."""
    config = directory / "config.json"
    if not config.is_file() or (directory / "quantize_config.json").exists():
        return False
    return read_json_object(config).get("quantization_config") is None
