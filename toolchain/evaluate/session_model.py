"""A model under evaluation that runs as a session: the integer simulator, or floats in NumPy.

Consecutive queries often share their beginning (the choices of one question, a growing text). The
session is then set back to the end of what they share: its cache rows up to there stay valid, and
in the simulator the result is the same integers, because any partition of a prefill is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codegen.bundle import LoadedBundle
from sim.generate import LOGIT_UNIT
from sim.session import Session, read_constants
from toolchain.evaluate.scoring import F64, Ints, Query, Scores, scores_of_logits


class Sequencer(Protocol):
    """`sim.session.Session` and `FloatSession`."""

    position: int

    def forward(self, tokens: npt.ArrayLike) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        """Logits (T, vocab) of tokens appended at the current position."""
        ...


class SessionModel:
    """Scores and continues token ids; `unit` is the real value of one unit of a logit."""

    def __init__(self, session: Sequencer, context: int, unit: float = 1.0) -> None:
        self.context = context
        self.computed_tokens = 0
        self._session = session
        self._unit = unit
        self._held: Ints = np.empty(0, np.int64)

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """See `Scorer`."""
        return [self._score(query) for query in queries]

    def next_logits(self, tokens: Sequence[int]) -> F64:
        """See `CausalModel`."""
        ids = np.asarray(tokens, np.int64)
        logits: F64 = self._append(ids, len(ids) - 1)[-1] * self._unit
        return logits

    def _score(self, query: Query) -> Scores:
        inputs = query.tokens[:-1]
        logits = self._append(inputs, query.first - 1)
        return scores_of_logits(logits * self._unit, query.tokens[query.first :])

    def _append(self, ids: Ints, first: int) -> F64:
        """Logits of positions first .. len(ids) - 1 of the sequence `ids`."""
        shared = min(len(ids), len(self._held))
        differs = np.flatnonzero(ids[:shared] != self._held[:shared])
        start = min(int(differs[0]) if differs.size else shared, first)
        self._session.position = start
        self._held = ids[:start]  # what holds if the pass fails
        logits = self._session.forward(ids[start:])
        self._held = ids
        self.computed_tokens += len(ids) - start
        return logits[first - start :].astype(np.float64)


def model_of_build(bundle: LoadedBundle) -> SessionModel:
    """A compiled build on the fast integer simulator, bit for bit the logits of its firmware."""
    constants = read_constants(bundle.program, bundle.plan, bundle.blobs)
    session = Session(bundle.program, constants)
    return SessionModel(session, bundle.program.shape.context, LOGIT_UNIT)
