"""What an evaluation asks of a model: log-probabilities of given tokens, and greedy text.

Three kinds of models answer (`torch_model.py`, `session_model.py`): a float or quantized checkpoint
in torch, the float forward pass in NumPy, and a compiled build on the integer simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Tokens of one sequence; those from index `first` on (1..T-1) are to be scored."""

    tokens: Ints  # (T,)
    first: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Of the tokens first..T-1 of a query, given all earlier tokens."""

    log_probs: F64  # natural logarithm
    greedy: npt.NDArray[np.bool_]  # whether the token is the argmax


class Scorer(Protocol):
    """Scores sequences of token ids."""

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """One result per query, in order; no query is longer than the context of the model."""
        ...


class CausalModel(Scorer, Protocol):
    """A model under evaluation."""

    @property
    def context(self) -> int:
        """Positions that a sequence may have."""
        ...

    @property
    def computed_tokens(self) -> int:
        """Positions computed so far; what a shared prefix saved is not counted."""
        ...

    def next_logits(self, tokens: Sequence[int]) -> F64:
        """Logits (vocab,) of the token behind `tokens`; fast when they extend the last call's."""
        ...


@dataclass(frozen=True, slots=True)
class Stopping:
    """When greedy generation ends; an `eos` token is not part of the text."""

    max_new_tokens: int
    eos: Collection[int] = ()
    min_new_tokens: int = 0  # before that, eos cannot be chosen
    ended: Callable[[Sequence[int]], bool] = lambda _: False  # asked after each new token


def greedy(model: CausalModel, prompt: Sequence[int], stopping: Stopping) -> list[int]:
    """New tokens by argmax (the lowest id among equals), also ended by the model's context."""
    tokens = list(prompt)
    new: list[int] = []
    while len(new) < stopping.max_new_tokens and len(tokens) <= model.context:
        logits = model.next_logits(tokens).copy()
        if len(new) < stopping.min_new_tokens:
            logits[list(stopping.eos)] = -np.inf
        token = int(logits.argmax())
        if token in stopping.eos:
            break
        new.append(token)
        tokens.append(token)
        if stopping.ended(new):
            break
    return new


def scores_of_logits(logits: npt.NDArray[np.floating], targets: Ints) -> Scores:
    """Scores of `targets` (n,) from the logits (n, vocab) of the positions before them."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[:, None], axis=1)[:, 0]
    log_probs = chosen - np.log(np.exp(shifted).sum(axis=1))
    return Scores(log_probs, logits.argmax(axis=1) == targets)
