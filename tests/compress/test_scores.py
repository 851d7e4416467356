"""Masks against hand-computed ones and against brute force over all choices."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolchain.compress.scores import (
    gblm_score,
    keep_alpha,
    keep_matrix,
    keep_nm,
    keep_rows,
    share,
    wanda_score,
)

WEIGHT = torch.tensor([[4.0, -1.0, 1.0, -2.0], [-1.0, 2.0, -3.0, 1.0]])
NORMS = torch.tensor([1.0, 8.0, 2.0, 1.0])


def test_wanda_by_hand() -> None:
    score = wanda_score(WEIGHT, NORMS)
    assert score.tolist() == [[4, 8, 2, 2], [1, 16, 6, 1]]
    # 2:4: the smallest weights of row 0 are columns 1 and 2, but column 1 has large inputs.
    assert keep_nm(score, 2, 4).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert keep_nm(WEIGHT.abs(), 2, 4).tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert keep_nm(score, 1, 2).tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]


def test_gblm_by_hand() -> None:
    gradient = torch.tensor([[0.0, 0.0, 5.0, 0.0], [7.0, 0.0, 0.0, 0.0]])
    score = gblm_score(WEIGHT, NORMS, gradient, 2.0)
    assert score.tolist() == [[4, 8, 12, 2], [15, 16, 6, 1]]
    assert keep_nm(score, 2, 4).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]


def test_rates_by_hand() -> None:
    score = wanda_score(WEIGHT, NORMS)
    assert keep_rows(score, 0.25).tolist() == [[1, 1, 0, 1], [0, 1, 1, 1]]
    assert keep_rows(score, 0.24).all()
    assert keep_matrix(score, 0.5).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert keep_matrix(torch.tensor([[1.0, 2.0], [8.0, 9.0]]), 0.5).tolist() == [[0, 0], [1, 1]]
    assert share(0.29, 100) == 29


def test_tail_behind_the_last_group_stays() -> None:
    score = torch.tensor([[3.0, 1.0, 2.0, 0.0, 0.0]])
    assert keep_nm(score, 1, 2).tolist() == [[1, 0, 1, 0, 1]]


def test_alpha_takes_the_share_of_each_row() -> None:
    # Sums of row 0: 1, 2, 3, 13 of 13; of row 1: 5, 10, 15, 20 of 20. alpha between 3/13 and 5/20
    # removes three weights of row 0 and none of row 1.
    score = torch.tensor([[1.0, 10.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    keep, alpha = keep_alpha(score, 0.375)
    assert keep.tolist() == [[0, 1, 0, 0], [1, 1, 1, 1]]
    assert 3 / 13 <= alpha < 5 / 20


@given(
    st.integers(2, 6).flatmap(
        lambda group: st.tuples(
            st.integers(1, group - 1),
            st.lists(
                st.lists(st.integers(0, 20), min_size=2 * group, max_size=2 * group),
                min_size=1,
                max_size=3,
            ),
        )
    )
)
def test_nm_removes_the_cheapest_choice(case: tuple[int, list[list[int]]]) -> None:
    removed, rows = case
    score = torch.tensor(rows, dtype=torch.float32)
    group = score.shape[1] // 2
    keep = keep_nm(score, removed, group)
    for row, kept in zip(score, keep, strict=True):
        for part in range(2):
            values = row[part * group : (part + 1) * group].tolist()
            flags = kept[part * group : (part + 1) * group].tolist()
            cost = sum(v for v, k in zip(values, flags, strict=True) if not k)
            choices = itertools.combinations(values, removed)
            assert flags.count(False) == removed
            assert cost == min(map(sum, choices))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_alpha_reaches_the_rate(rate: float) -> None:
    generator = torch.Generator().manual_seed(2)
    score = torch.rand((40, 60), generator=generator)
    keep, _ = keep_alpha(score, rate)
    assert abs(1 - keep.float().mean().item() - rate) <= 1e-3
    for row, kept in zip(score, keep, strict=True):
        if not kept.all() and kept.any():
            assert row[~kept].max() <= row[kept].min()
