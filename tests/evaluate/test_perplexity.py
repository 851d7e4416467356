"""Windows, perplexity and interval against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.evaluate.intervals import wilson
from toolchain.evaluate.perplexity import cut_windows, measure_perplexity
from toolchain.evaluate.scoring import Query, Scores, Stopping, greedy, scores_of_logits
from toolchain.model.errors import ConfigError


class Table:
    """A bigram model: the probability of a token follows from the one before it."""

    context = 100
    computed_tokens = 0

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self.logits = np.log(np.array(rows, np.float64))

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        return [
            scores_of_logits(self.logits[q.tokens[q.first - 1 : -1]] + 3.0, q.tokens[q.first :])
            for q in queries
        ]

    def next_logits(self, tokens: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype]:  # type: ignore[type-arg]
        row: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = self.logits[tokens[-1]]
        return row


TABLE = Table([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])


def test_windows_do_not_overlap_and_the_last_may_be_short() -> None:
    rows = cut_windows([3, 4, 5, 6, 7], 2)
    assert [row.tolist() for row in rows] == [[3, 4], [5, 6]]  # 7 alone has nothing to score
    rows = cut_windows([3, 4, 5, 6, 7], 3, bos=1)
    assert [row.tolist() for row in rows] == [[1, 3, 4], [1, 5, 6], [1, 7]]
    assert len(cut_windows(range(100), 10, limit=4)) == 4


def test_windows_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="found 1 tokens, allowed at least 2"):
        cut_windows([5], 8)
    with pytest.raises(ConfigError, match="--window: found 1, allowed 2 or more"):
        cut_windows([5, 6], 1)
    assert len(cut_windows([5], 8, bos=0)) == 1


def test_every_token_weighs_the_same() -> None:
    """0 1 0 has probabilities 0.6 and 0.5, 2 2 has 0.6: the mean is over three tokens."""
    windows = [np.array([0, 1, 0]), np.array([2, 2])]
    result = measure_perplexity(TABLE, windows)
    assert result.value == pytest.approx((0.6 * 0.5 * 0.6) ** (-1 / 3))
    assert (result.tokens, result.windows, result.window) == (3, 2, 3)


def test_progress_counts_windows() -> None:
    seen: list[int] = []
    measure_perplexity(TABLE, [np.array([0, 1])] * 10, seen.append)
    assert seen == [8, 10]


def test_an_impossible_text_has_infinite_perplexity() -> None:
    scores = [Scores(np.array([-800.0]), np.array([False]))]

    class Sure:
        def score(self, queries: Sequence[Query]) -> list[Scores]:
            return scores * len(queries)

    assert measure_perplexity(Sure(), [np.array([0, 1])]).value == math.inf


def test_scores_from_a_later_token_on() -> None:
    (scores,) = TABLE.score([Query(np.array([0, 2, 2, 0]), first=2)])
    assert np.exp(scores.log_probs) == pytest.approx([0.6, 0.2])
    assert scores.greedy.tolist() == [True, False]


def test_greedy_text_ends() -> None:
    assert greedy(TABLE, [0], Stopping(4)) == [1, 0, 1, 0]
    assert greedy(TABLE, [0], Stopping(4, eos=[0])) == [1]
    assert greedy(TABLE, [0], Stopping(4, eos=[1])) == []
    # Token 1 forbidden once: from 0 the next best is 2, and 2 follows itself.
    assert greedy(TABLE, [0], Stopping(3, eos=[1], min_new_tokens=1)) == [2, 2, 2]
    assert greedy(TABLE, [0], Stopping(9, ended=lambda new: len(new) == 2)) == [1, 0]
    assert len(greedy(TABLE, [0] * 99, Stopping(9))) == 2  # the last needs no position


def test_wilson_interval_by_hand() -> None:
    """8 of 10: (0.8 + z^2/20 +- z sqrt(0.016 + z^2/400)) / (1 + z^2/10), z = 1.96."""
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((0.7224672, 1.0), abs=1e-6)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_rate(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
