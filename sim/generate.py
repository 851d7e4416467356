"""Token by token generation on a fast session: greedy as the firmware does it, or sampled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim import ops
from sim.ops import Ints
from sim.session import Session

LOGIT_UNIT = 2.0**-16  # logits are int32 with 16 fraction bits


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy (the argmax of the firmware); above it, sampling from `seed`."""

    temperature: float = 0.0
    seed: int = 0


def generate(
    session: Session,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    stop: Collection[int] = (),
    sampling: Sampling = Sampling(),
) -> Iterator[int]:
    """Feed `prompt`, then yield new tokens until one is in `stop`, the count or the context ends.

    The stop token itself is not yielded. The last token needs no free position, so at most
    context - len(prompt) + 1 tokens come out. Raises IndexError when the prompt is
    longer than the context.
    """
    rng = np.random.default_rng(sampling.seed)
    tokens = list(prompt)
    for index in range(max_new_tokens):
        if index and session.position >= session.program.shape.context:
            return
        token = choose_token(session.prefill(tokens), sampling.temperature, rng)
        if token in stop:
            return
        yield token
        tokens = [token]


def choose_token(logits: Ints, temperature: float, rng: np.random.Generator) -> int:
    """The lowest argmax at temperature 0, else a sample of softmax(logits / temperature)."""
    if temperature == 0.0:
        return int(ops.argmax(logits))
    scaled = logits * (LOGIT_UNIT / temperature)
    weights = np.exp(scaled - scaled.max())
    return int(rng.choice(len(weights), p=weights / weights.sum()))
