"""The exact search against exhaustion, known packings, hand-drawn sections, and its limit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.allocate import Buffer, allocate, fit, greedy, live_sizes
from memory_planner.bounds import Bound, reason_for
from memory_planner.search import search
from memory_planner.sections import Problem, make_problem
from memory_planner.verdict import Outcome, Verdict
from tests.memory_planner.packings import ONE_OVER, can_fit, full_packing
from tests.memory_planner.test_allocate import assert_no_overlap
from tests.paths import REPOSITORY


def problem_of(buffers: list[Buffer]) -> Problem:
    return make_problem([b.size for b in buffers], [(b.first, b.last) for b in buffers])


# ---------------------------------------------------------------- sections


def test_only_maximal_sections_are_kept() -> None:
    # time        01234567
    # 0 size 4    ######..
    # 1 size 6    .##.....
    # 2 size 10   ....####
    # 3 size 6    .##.....
    problem = make_problem([4, 6, 10, 6], [(0, 6), (1, 3), (4, 8), (1, 3)])
    assert problem.unit == 2
    assert problem.sizes == (2, 3, 5, 3)
    assert problem.durations == (6, 2, 4, 2)
    assert problem.spans == ((0, 2), (0, 1), (1, 2), (0, 1))
    assert problem.weights.tolist() == [[2, 2], [3, 0], [0, 5], [3, 0]]
    assert [sorted(n) for n in problem.neighbours] == [[1, 2, 3], [0, 3], [0], [0, 1]]
    assert problem.twins == ((1, 3),)
    assert problem.extent([1, 2]) == (0, 2)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=12
    )
)
def test_sections_say_who_is_live_together(rows: list[tuple[int, int, int]]) -> None:
    times = [(at, at + length) for _, at, length in rows]
    problem = make_problem([size for size, _, _ in rows], times)
    for one, (first, last) in enumerate(times):
        together = {
            other
            for other, (begin, end) in enumerate(times)
            if other != one and begin < last and first < end
        }
        assert problem.neighbours[one] == together
    members = [frozenset(column.nonzero()[0].tolist()) for column in problem.live.T]
    assert not any(a < b or a == b for i, a in enumerate(members) for b in members[i + 1 :])


# ---------------------------------------------------------------- proofs


def test_one_more_than_the_bound_is_needed() -> None:
    assert max(live_sizes(ONE_OVER, 1)) == 5
    assert not can_fit(ONE_OVER, 5)
    assert fit(ONE_OVER, 1, 5).verdict is Verdict.IMPOSSIBLE
    result = allocate(ONE_OVER, 1)
    assert (result.height, result.bound, result.gap, result.proven) == (6, 5, 1, True)
    assert_no_overlap(ONE_OVER, result, 1)


def test_units_and_alignment_do_not_change_the_proof() -> None:
    large = [Buffer(b.name, 24 * b.size - 3, 7 * b.first, 7 * b.last) for b in ONE_OVER]
    result = allocate(large, 8)
    assert (result.height, result.bound, result.proven) == (6 * 24, 5 * 24, True)
    assert fit(large, 8, 6 * 24 - 1).verdict is Verdict.IMPOSSIBLE


ROWS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=6
)


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_every_capacity_of_small_problems(rows: list[tuple[int, int, int]]) -> None:
    """The search alone, without bound and greedy orders before it, decides like exhaustion."""
    buffers = [Buffer(f"b{i}", size, at, at + n) for i, (size, at, n) in enumerate(rows)]
    problem = problem_of(buffers)
    bound = max(live_sizes(buffers, 1))
    for capacity in range(bound - problem.unit, bound + 2 * problem.unit + 1, problem.unit):
        outcome = search(problem, capacity // problem.unit, 10_000)
        expected = Verdict.FITS if can_fit(buffers, capacity) else Verdict.IMPOSSIBLE
        assert outcome.verdict is expected
        assert_valid(problem, capacity // problem.unit, outcome)


def assert_valid(problem: Problem, capacity: int, outcome: Outcome) -> None:
    for one, low in enumerate(outcome.offsets):
        assert 0 <= low <= capacity - problem.sizes[one]
        for other in problem.neighbours[one]:
            high = outcome.offsets[other]
            assert low + problem.sizes[one] <= high or high + problem.sizes[other] <= low


def test_what_can_be_packed_is_never_called_impossible() -> None:
    """Tight packings are where a wrong conclusion would show; nearly all are found."""
    undecided = 0
    for seed in range(250):
        buffers, height = full_packing(seed)
        problem = problem_of(buffers)
        outcome = search(problem, height // problem.unit, 2000)
        assert outcome.verdict is not Verdict.IMPOSSIBLE
        undecided += outcome.verdict is Verdict.UNDECIDED
        assert_valid(problem, height // problem.unit, outcome)
    assert undecided <= 2


# ---------------------------------------------------------------- limit and determinism


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
def test_limit_is_respected_and_nothing_claimed(limit: int) -> None:
    outcomes = set()
    for seed in range(40):
        buffers, height = full_packing(seed)
        outcome = search(problem_of(buffers), height, limit)
        assert outcome.nodes <= limit
        assert (outcome.offsets == ()) == (outcome.verdict is not Verdict.FITS)
        outcomes.add(outcome.verdict)
        result = allocate(buffers, 1, limit=limit)
        assert result.proven == (result.height == result.bound)
    assert Verdict.UNDECIDED in outcomes or limit == 100


def test_more_states_are_never_worse() -> None:
    hard = [b for b, _ in map(full_packing, range(60)) if greedy(b, 1).gap]
    assert len(hard) > 10
    for buffers in hard:
        heights = [allocate(buffers, 1, limit=limit).height for limit in (0, 200, 4000)]
        assert heights == sorted(heights, reverse=True)


def test_a_capacity_is_sought_before_the_lowest_height() -> None:
    """What `fit` finds, `allocate` finds with the same limit when it is told the capacity."""
    for seed in range(60):
        buffers, height = full_packing(seed)
        for limit in (40, 400):
            if fit(buffers, 1, height + 1, limit).verdict is Verdict.FITS:
                assert allocate(buffers, 1, height + 1, limit).height <= height + 1


def test_same_answer_in_any_process() -> None:
    code = (
        "from tests.memory_planner.packings import full_packing\n"
        "from memory_planner.allocate import allocate\n"
        "for seed in range(12):\n"
        "    print(sorted(allocate(full_packing(seed)[0], 1).offsets.items()))\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1")
    }
    assert len(texts) == 1


def test_deep_searches_do_not_exhaust_the_stack() -> None:
    """A level per buffer, and two frames per level: more than Python's usual thousand."""
    chain = [Buffer(f"b{i}", 1 + i % 3, i, i + 2) for i in range(600)]
    outcome = search(problem_of(chain), 6, 100_000)
    assert outcome.verdict is Verdict.FITS


def test_the_earliest_bound_that_suffices_is_the_reason() -> None:
    first = Bound(0, 0)
    second = Bound(4, 0b1, first)
    third = Bound(9, 0b110, second)
    assert [reason_for(third, offset) for offset in (0, 1, 4, 5, 9)] == [0, 1, 1, 6, 6]
