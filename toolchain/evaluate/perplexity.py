"""Perplexity of a text: the exponential of the mean negative log-likelihood of its tokens.

Protocol (the usual one of compression studies on WikiText-2): the text is tokenized as a whole and
cut into windows that do not overlap. Each window is one sequence: it begins with the
beginning-of-sequence token where the tokenizer has one, its first token is not scored, and nothing
before it is seen. The last window may be shorter. Every scored token weighs the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from toolchain.evaluate.scoring import Ints, Query, Scorer
from toolchain.model.errors import ConfigError, Problem

BATCH = 8  # windows per call of the model
DEFAULT_WINDOW = 512  # tokens


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The result and what it was measured on."""

    value: float
    mean_nll: float  # nats per token
    tokens: int  # scored
    windows: int
    window: int  # tokens of a whole window

    @classmethod
    def of(cls, total_nll: float, tokens: int, windows: Sequence[Ints]) -> Perplexity:
        """From the summed negative log-likelihood in nats; infinite where exp overflows."""
        mean = total_nll / tokens
        value = math.exp(mean) if mean < 700 else math.inf
        return cls(value, mean, tokens, len(windows), max(len(row) for row in windows))


def window_size(asked: int | None, context: int, where: str = "--window") -> int:
    """Tokens of a window: what was asked, else 512 or the shorter context of the model.

    Raises ConfigError for a window beyond the context; `where` names the option.
    """
    if asked is None:
        return min(DEFAULT_WINDOW, context)
    if not 2 <= asked <= context:
        problem = Problem(where, f"{asked} tokens", f"2..{context}, the context of the model")
        raise ConfigError("the text cannot be cut into windows", [problem])
    return asked


def cut_windows(
    ids: Sequence[int], window: int, *, bos: int | None = None, limit: int | None = None
) -> list[Ints]:
    """Windows of `window` tokens of `ids`, each headed by `bos` if given; at most `limit`.

    `ids` holds no beginning-of-sequence token of its own. A rest without a token to score is left
    out. Raises ConfigError when no window remains.
    """
    if window < 2:
        raise ConfigError("the text cannot be cut", [Problem("--window", str(window), "2 or more")])
    rows = list(islice(windows_of(ids, window, bos), limit))
    if not rows:
        problem = Problem("text", f"{len(ids)} tokens", f"at least {1 if bos is not None else 2}")
        raise ConfigError("the text is too short for a perplexity", [problem])
    return rows


def windows_of(ids: Sequence[int], window: int, bos: int | None) -> Iterator[Ints]:
    """Consecutive windows of `window` (2 or more) tokens; the last may be shorter, but not 1."""
    head = [] if bos is None else [bos]
    step = window - len(head)
    for start in range(0, len(ids), step):
        row = np.array([*head, *ids[start : start + step]], np.int64)
        if len(row) >= 2:
            yield row


def measure_perplexity(
    model: Scorer, windows: Sequence[Ints], progress: Callable[[int], None] | None = None
) -> Perplexity:
    """Perplexity of `windows`; `progress` is told the number of windows done."""
    total, tokens, done = 0.0, 0, 0
    for batch in batches(windows, BATCH):
        for scores in model.score([Query(row) for row in batch]):
            total -= float(scores.log_probs.sum())
            tokens += len(scores.log_probs)
        done += len(batch)
        if progress is not None:
            progress(done)
    return Perplexity.of(total, tokens, windows)


def batches(rows: Sequence[Ints], size: int) -> Iterator[Sequence[Ints]]:
    """Consecutive runs of at most `size` rows."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
