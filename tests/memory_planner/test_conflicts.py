"""Sets of buffers that cannot coexist: each is too much, and none of its buffers can be spared."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from memory_planner.allocate import Buffer, allocate
from memory_planner.conflicts import find_conflict
from memory_planner.explain import PlanDoesNotFitError
from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from tests.memory_planner.packings import ONE_OVER, can_fit
from tests.memory_planner.test_allocate import drawn
from tests.memory_planner.toy import toy_program, toy_target


def test_the_moment_where_fewest_are_too_many() -> None:
    buffers = drawn("a 3 ####", "b 3 ####", "c 3 ##..", "d 7 ..##", "e 1 #...")
    conflict = find_conflict(buffers, 1, 9)
    assert conflict is not None
    assert [buffer.name for buffer in conflict.buffers] == ["d", "a"]
    assert conflict.time == 2
    assert conflict.irreducible


def test_padding_counts() -> None:
    buffers = drawn("a 1 ##", "b 1 ##")
    assert find_conflict(buffers, 8, 16) is None
    conflict = find_conflict(buffers, 8, 15)
    assert conflict is not None
    assert len(conflict.buffers) == 2


def test_one_buffer_alone() -> None:
    conflict = find_conflict(drawn("a 9 ##", "b 8 ##"), 1, 8)
    assert conflict is not None
    assert [buffer.name for buffer in conflict.buffers] == ["a"]


def test_no_moment_has_too_much_but_nothing_fits() -> None:
    spare = [Buffer("x", 1, 8, 9), Buffer("y", 5, 9, 12)]
    conflict = find_conflict([*ONE_OVER, *spare], 1, 5)
    assert conflict is not None
    assert conflict.time is None
    assert conflict.irreducible
    assert not can_fit(conflict.buffers, 5)
    for left_out in conflict.buffers:
        assert can_fit([b for b in conflict.buffers if b is not left_out], 5)
    assert {b.name for b in conflict.buffers} <= {b.name for b in ONE_OVER}


def test_nothing_is_named_without_a_proof() -> None:
    assert find_conflict(ONE_OVER, 1, 6) is None
    assert find_conflict(ONE_OVER, 1, 5, limit=0) is None


def test_removing_any_buffer_makes_the_rest_fit() -> None:
    rng = Random(4)
    for _ in range(150):
        buffers = [
            Buffer(f"b{index}", rng.randint(1, 5), (first := rng.randrange(5)), first + 2)
            for index in range(rng.randint(2, 6))
        ]
        capacity = allocate(buffers, 1).height - 1
        conflict = find_conflict(buffers, 1, capacity)
        assert conflict is not None
        assert not can_fit(conflict.buffers, capacity)
        for left_out in conflict.buffers:
            assert can_fit([b for b in conflict.buffers if b is not left_out], capacity)


def refused(target: TargetSpec) -> PlanDoesNotFitError:
    with pytest.raises(PlanDoesNotFitError) as caught:
        plan_memory(toy_program(), target)
    return caught.value


def test_error_names_what_cannot_be_together() -> None:
    error = refused(toy_target(tile_sram=256, l2=2200))
    assert "and 8 more; the first 4 cannot be there together)" in str(error)
    (shortfall,) = json.loads(json.dumps(error.to_dict()))["shortfalls"]
    conflict = shortfall["cannot_coexist"]
    sizes = [buffer["size"] for buffer in conflict["buffers"]]
    room = 2200 - 192  # the blob header
    assert sum((size + 7) // 8 * 8 for size in sizes) > room
    assert sum((size + 7) // 8 * 8 for size in sizes[:-1]) <= room
    assert conflict["irreducible"]
    assert conflict["live_at_once"]
    assert conflict["op"] == ""  # permanent data


def test_error_names_the_step() -> None:
    error = refused(toy_target(l1=1450))
    (shortfall,) = error.shortfalls
    facts = shortfall.conflict_facts()
    assert facts is not None
    assert re.fullmatch(r"l00\..*|lm_head|final\..*", str(facts["op"]))
    assert shortfall.conflict is not None
    assert {b.name for b in shortfall.conflict.buffers} <= {p.name for p in shortfall.peak.live}


def test_a_single_culprit_is_named() -> None:
    error = refused(toy_target(mram=1024, tile_sram=2048, l2=1024))
    assert "embed.weight alone is too large" in str(error)
