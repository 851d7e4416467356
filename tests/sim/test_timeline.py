"""The timeline: pipelines by hand, and the same totals as the latency report."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from memory_planner.tile_time import overlapped_cycles
from sim.latency import LatencyReport, estimate
from sim.timeline import Event, Lane, TileTimes, decode_timeline, tile_times
from tests.memory_planner.toy import flat_target, toy_program, toy_target
from toolchain.model.packing import CORE_PACKINGS, Packing

TARGETS = [toy_target(), toy_target(cores=2, slot_cap=128), flat_target(), load_target("siracusa")]
CYCLES = st.floats(1, 1000)


def timeline(
    target: TargetSpec, packing: Packing = Packing.NIBBLE, position: int = 10
) -> tuple[LatencyReport, tuple[Event, ...]]:
    program = toy_program(packing=packing)
    plan = plan_memory(program, target)
    report = estimate(program, plan, target, position)
    return report, decode_timeline(program, plan, target, position)


def test_two_slots_by_hand() -> None:
    """The third transfer waits for the slot of the first tile, the third tile for its transfer."""
    assert tile_times([100, 100, 50], [30, 150, 20]) == [
        TileTimes(0, 100, 100, 130),
        TileTimes(100, 200, 200, 350),
        TileTimes(200, 250, 350, 370),
    ]
    assert tile_times([10, 10, 300], [100, 100, 5]) == [
        TileTimes(0, 10, 10, 110),
        TileTimes(10, 20, 110, 210),
        TileTimes(110, 410, 410, 415),
    ]


def test_one_slot_takes_turns() -> None:
    assert tile_times([100, 40], [30, 20], slots=1) == [
        TileTimes(0, 100, 100, 130),
        TileTimes(130, 170, 170, 190),
    ]


@given(st.lists(st.tuples(CYCLES, CYCLES), min_size=1, max_size=20))
def test_pipeline_ends_when_the_cycle_model_says(tiles: list[tuple[float, float]]) -> None:
    dma, work = zip(*tiles, strict=True)
    assert tile_times(dma, work)[-1].works_to == pytest.approx(overlapped_cycles(dma, work))
    assert tile_times(dma, work, slots=1)[-1].works_to == pytest.approx(sum(dma) + sum(work))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("packing", CORE_PACKINGS)
def test_totals_are_those_of_the_report(target: TargetSpec, packing: Packing) -> None:
    report, events = timeline(target, packing)
    assert events[-1].end == report.cycles_per_token
    assert max(event.end for event in events) == report.cycles_per_token
    for lane, cycles in report.lanes().items():
        own = [event.cycles for event in events if event.lane == lane]
        assert abs(sum(own) - cycles) <= len(own) + len(report.ops)  # one rounding per edge


@pytest.mark.parametrize("target", TARGETS)
def test_every_op_has_its_own_time(target: TargetSpec) -> None:
    report, events = timeline(target)
    start = 0
    for op in report.ops:
        own = [event for event in events if event.op == op.id]
        assert min(event.start for event in own) == start
        assert max(event.end for event in own) == start + op.total_cycles
        start += op.total_cycles


@pytest.mark.parametrize("target", TARGETS)
def test_a_lane_does_one_thing_at_a_time(target: TargetSpec) -> None:
    _, events = timeline(target)
    for lane in Lane:
        own = [event for event in events if event.lane is lane]
        assert all(one.end <= two.start for one, two in pairwise(own))


def test_tiles_wait_for_transfer_and_slot() -> None:
    _, events = timeline(toy_target())
    tiles = {(event.op, event.tile, event.lane): event for event in events if event.tile >= 0}
    overlapping = 0
    for (op, tile, lane), event in tiles.items():
        if lane is Lane.CORES:
            assert event.start >= tiles[op, tile, Lane.DMA].end
        elif tile >= 2:
            assert event.start >= tiles[op, tile - 2, Lane.CORES].end
        if lane is Lane.DMA and tile >= 1:
            before = tiles[op, tile - 1, Lane.CORES]
            overlapping += event.start < before.end and before.start < event.end
    assert overlapping >= 5  # transfers do travel beside work


def test_labels_say_what_travels() -> None:
    """The head: 25 records of 80 bytes, tiles of 7, 7, 7 and 4 records."""
    _, events = timeline(toy_target())
    labels = [e.label for e in events if e.op == "lm_head" and e.lane is Lane.DMA]
    assert labels == [
        "tile 1 of 4: 7 records, 560 bytes into slot 0",
        "tile 2 of 4: 7 records, 560 bytes into slot 1",
        "tile 3 of 4: 7 records, 560 bytes into slot 0",
        "tile 4 of 4: 4 records, 320 bytes into slot 1",
    ]


def test_work_in_place_has_no_transfers() -> None:
    _, events = timeline(flat_target())
    assert {event.lane for event in events} == {Lane.CORES}
    assert {event.tile for event in events} == {-1}
