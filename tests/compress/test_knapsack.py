"""The multiple-choice knapsack against all combinations."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from toolchain.compress.knapsack import choose

CHOICE = st.tuples(st.integers(0, 20), st.integers(-10, 50))
ITEMS = st.lists(st.lists(CHOICE, min_size=1, max_size=4), min_size=1, max_size=5)


@given(ITEMS, st.integers(0, 80))
def test_equals_brute_force(items: list[list[tuple[int, int]]], capacity: int) -> None:
    sizes = [[size for size, _ in item] for item in items]
    costs = [[float(cost) for _, cost in item] for item in items]
    fitting = [
        (sum(cost for _, cost in picked), sum(size for size, _ in picked))
        for picked in itertools.product(*items)
        if sum(size for size, _ in picked) <= capacity
    ]
    found = choose(sizes, costs, capacity)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert (found.cost, found.size) == min(fitting)
    picked = [item[index] for item, index in zip(items, found.choices, strict=True)]
    assert found.size == sum(size for size, _ in picked) <= capacity
    assert found.cost == sum(cost for _, cost in picked)


def test_hundreds_of_matrices() -> None:
    sizes = [[100, 200, 400]] * 300
    costs = [[4.0 + index % 7, 2.0, 0.0] for index in range(300)]
    found = choose(sizes, costs, 60_000)
    assert found is not None
    assert found.size <= 60_000
