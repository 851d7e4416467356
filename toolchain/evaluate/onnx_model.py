"""An exported ONNX model under evaluation, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from toolchain.evaluate.scoring import F64, Query, Scores, scores_of_logits

QUIET = 3  # errors only


class OnnxModel:
    """Scores token ids by a graph of `onnx_graph.py`; no keys and values are kept."""

    def __init__(self, serialized: bytes, context: int) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        # Higher levels fuse int8 weights into MatMulNBits, which also quantizes activations.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.context = context
        self.computed_tokens = 0
        self._session: Any = onnxruntime.InferenceSession(
            serialized, options, providers=["CPUExecutionProvider"]
        )

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """See `Scorer`."""
        return [
            scores_of_logits(
                self._logits(query.tokens[:-1])[query.first - 1 :], query.tokens[query.first :]
            )
            for query in queries
        ]

    def next_logits(self, tokens: Sequence[int]) -> F64:
        """See `CausalModel`; every call computes the whole sequence."""
        logits: F64 = self._logits(np.asarray(tokens, np.int64))[-1]
        return logits

    def _logits(self, tokens: Any) -> F64:
        self.computed_tokens += len(tokens)
        (logits,) = self._session.run(["logits"], {"tokens": tokens[None]})
        wide: F64 = logits[0].astype(np.float64)
        return wide
