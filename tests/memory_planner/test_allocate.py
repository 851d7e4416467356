"""The allocator against hand-drawn problems, brute force and published instances."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import combinations, permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.allocate import (
    Allocation,
    Buffer,
    Fit,
    allocate,
    fit,
    greedy,
    live_sizes,
    peak_time,
)
from memory_planner.verdict import Verdict
from tests.paths import SHARED


def drawn(*lines: str) -> list[Buffer]:
    """Buffers from lines like 'a 4 ..###.': name, size, times at which it is live."""
    buffers = []
    for line in lines:
        name, size, life = line.split()
        buffers.append(Buffer(name, int(size), life.index("#"), life.rindex("#") + 1))
    return buffers


def assert_no_overlap(buffers: Sequence[Buffer], result: Allocation, align: int) -> None:
    for buffer in buffers:
        offset = result.offsets[buffer.name]
        assert offset >= 0
        assert offset % align == 0
        assert offset + buffer.size <= result.height
    for one, two in combinations(buffers, 2):
        if one.first < two.last and two.first < one.last:
            low, high = sorted((one, two), key=lambda b: (result.offsets[b.name], b.size))
            assert result.offsets[low.name] + low.size <= result.offsets[high.name]


def optimum(buffers: Sequence[Buffer]) -> int:
    """Brute force: some order of lowest-position placement gives every canonical solution."""
    best = sum(buffer.size for buffer in buffers)
    for order in permutations(buffers):
        placed: list[tuple[Buffer, int]] = []
        for buffer in order:
            taken = sorted(
                (offset, offset + other.size)
                for other, offset in placed
                if other.first < buffer.last and buffer.first < other.last
            )
            offset = 0
            for low, high in taken:
                if low - offset >= buffer.size:
                    break
                offset = max(offset, high)
            placed.append((buffer, offset))
        best = min(best, max(offset + buffer.size for buffer, offset in placed))
    return best


def test_chain_shares_two_places() -> None:
    buffers = drawn("a 4 ##...", "b 4 .##..", "c 4 ..##.", "d 4 ...##")
    result = allocate(buffers, 1)
    assert (result.height, result.bound) == (8, 8)
    assert result.offsets["a"] == result.offsets["c"]
    assert result.offsets["b"] == result.offsets["d"]


def test_small_one_goes_into_the_gap() -> None:
    buffers = drawn("keep 8 #####", "big 6 ##...", "late 6 ...##", "in 2 .###.")
    result = allocate(buffers, 1)
    assert result.height == result.bound == 16


def test_smallest_gap_that_holds_it() -> None:
    buffers = drawn(
        "a 100 #####", "b 90 ##...", "c 80 #####", "d 70 ##...", "e 66 #####", "f 65 ..###"
    )
    result = allocate(buffers, 1)
    assert result.offsets["f"] == result.offsets["d"]
    assert result.height == result.bound == 406


def test_sizes_are_rounded_to_the_alignment() -> None:
    result = allocate(drawn("a 1 ##", "b 9 ##"), 8)
    assert (result.height, result.bound) == (24, 24)
    assert sorted(result.offsets.values()) == [0, 16]


def test_nothing_and_empty_buffers() -> None:
    assert allocate([], 8) == Allocation({}, 0, 0, proven=True, method="size")
    empty = allocate([Buffer("a", 0, 0, 3)], 8)
    assert empty == Allocation({"a": 0}, 0, 0, proven=True, method="size")


def test_peak() -> None:
    buffers = drawn("a 4 ##..", "b 5 .##.", "c 4 ..##")
    assert live_sizes(buffers, 1) == [4, 9, 9, 4]
    assert peak_time(buffers, 1) == 1
    assert peak_time([], 1) == 0


def random_problem(rng: np.random.Generator, count: int) -> list[Buffer]:
    buffers = []
    for index in range(count):
        first = int(rng.integers(0, 7))
        last = first + int(rng.integers(1, 5))
        buffers.append(Buffer(f"b{index}", int(rng.integers(1, 12)), first, last))
    return buffers


def test_against_brute_force() -> None:
    """Always the optimum, and always known to be it; greedy orders alone miss it at times."""
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(150):
        buffers = random_problem(rng, 6)
        result = allocate(buffers, 1)
        assert_no_overlap(buffers, result, 1)
        best = optimum(buffers)
        assert result.proven
        assert result.bound <= result.height == best
        missed += greedy(buffers, 1).height > best
    assert missed > 0


def test_a_capacity_is_decided_by_brute_force() -> None:
    """At the optimum the buffers fit, one byte below it is proven impossible."""
    rng = np.random.default_rng(8)
    for _ in range(60):
        buffers = random_problem(rng, 6)
        best = optimum(buffers)
        found = fit(buffers, 1, best)
        assert found.verdict is Verdict.FITS
        assert found.allocation is not None
        assert found.allocation.height <= best
        assert_no_overlap(buffers, found.allocation, 1)
        assert fit(buffers, 1, best - 1) == Fit(Verdict.IMPOSSIBLE, None)


def test_without_states_to_visit_nothing_is_claimed() -> None:
    """The limit is respected: a problem that greedy orders miss stays open at limit 0."""
    rng = np.random.default_rng(7)
    problems = (random_problem(rng, 6) for _ in range(150))
    hard = next(b for b in problems if greedy(b, 1).height > optimum(b))
    result = allocate(hard, 1, limit=0)
    assert result.height == greedy(hard, 1).height
    assert not result.proven
    assert fit(hard, 1, optimum(hard), limit=0).verdict is Verdict.UNDECIDED


BUFFERS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=14
)


@settings(max_examples=150, deadline=None)
@given(BUFFERS, st.sampled_from([1, 8, 32]))
def test_never_overlaps_and_never_below_the_bound(
    rows: list[tuple[int, int, int]], align: int
) -> None:
    buffers = [Buffer(f"b{i}", size, at, at + n) for i, (size, at, n) in enumerate(rows)]
    result = allocate(buffers, align)
    assert_no_overlap(buffers, result, align)
    assert result.height >= result.bound == max(live_sizes(buffers, align))


@settings(max_examples=50, deadline=None)
@given(BUFFERS, st.randoms(use_true_random=False))
def test_order_of_the_request_does_not_matter(
    rows: list[tuple[int, int, int]], random: Random
) -> None:
    buffers = [Buffer(f"b{i}", size, at, at + n) for i, (size, at, n) in enumerate(rows)]
    shuffled = list(buffers)
    random.shuffle(shuffled)
    assert allocate(buffers, 8) == allocate(shuffled, 8)


@pytest.mark.parametrize("name", ["A", "B", "C", "E", "G"])
def test_published_instances(name: str) -> None:
    """Instances of google/minimalloc, solved at their capacity, which every greedy order misses."""
    path = SHARED / "data" / "alloc" / "minimalloc" / f"{name}.1048576.csv"
    if not path.is_file():
        pytest.skip("the data folder ../shared is not beside this checkout")
    with path.open(encoding="utf-8") as file:
        rows = [
            (row["id"], int(row["size"]), int(row["lower"]), int(row["upper"]))
            for row in csv.DictReader(file)
        ]
    moments = sorted({time for _, _, first, last in rows for time in (first, last)})
    rank = {time: index for index, time in enumerate(moments)}
    buffers = [Buffer(key, size, rank[first], rank[last]) for key, size, first, last in rows]
    assert greedy(buffers, 1024).height > 1.2 * (1 << 20)
    found = fit(buffers, 1024, 1 << 20, limit=20_000)
    assert found.verdict is Verdict.FITS
    assert found.allocation is not None
    assert_no_overlap(buffers, found.allocation, 1024)
    assert found.allocation.height <= 1 << 20
