"""Regions by cost: a target whose file names the slow region first still uses the fast one."""

from __future__ import annotations

from dataclasses import replace

from memory_planner.plan import Plan
from memory_planner.planner import plan_memory
from memory_planner.region_cost import by_cost, cycles_per_byte
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from sim.latency import estimate
from tests.memory_planner.toy import flat_target, toy_program, toy_target


def slow_first() -> TargetSpec:
    """Weights over a link of half the rate from the region that is named first."""
    target = toy_target()
    (nms, l2) = target.links
    links = (
        replace(nms, sources=("mram",), bytes_per_cycle=4.0),
        replace(nms, sources=("tile_sram",)),
        l2,
    )
    return replace(target, links=links)


def regions_of(plan: Plan, ending: str) -> set[str]:
    return {place.region for name, place in plan.placements.items() if name.endswith(ending)}


def test_weights_prefer_the_faster_link() -> None:
    program, target = toy_program(), slow_first()
    assert [cycles_per_byte(target, "weights", n) for n in ("mram", "tile_sram")] == [1 / 4, 1 / 8]
    naive, chosen = plan_memory(program, target), plan_memory(program, by_cost(target))
    assert by_cost(target).placement["weights"] == ("tile_sram", "mram")
    assert regions_of(naive, ".weight") == {"mram"}
    assert regions_of(chosen, ".weight") == {"tile_sram"}
    times = [estimate(program, p, target, 5).cycles_per_token for p in (naive, chosen)]
    assert times[1] < times[0]


def test_ties_keep_the_order_of_the_file() -> None:
    target = toy_target()
    assert by_cost(target).placement["weights"] == ("mram", "tile_sram")
    assert by_cost(target).placement["state"] == ("tile_sram", "l2")


def test_constants_and_activations_prefer_short_loads() -> None:
    """A load takes 9 cycles from tile_sram, 20 from l2, 6 from l1; it brings 4 bytes."""
    target = toy_target()
    wrong = {**target.placement, "activations": ("tile_sram", "l1")}
    placement = by_cost(replace(target, placement=wrong)).placement
    assert placement["constants"] == ("tile_sram", "l2")
    assert placement["activations"] == ("l1", "tile_sram")
    assert cycles_per_byte(target, "constants", "l2") == 5


def test_in_place_a_byte_costs_link_and_load() -> None:
    assert cycles_per_byte(flat_target(), "weights", "flash") == 1 / 4 + 2 / 4


def test_constants_give_way_where_state_needs_the_room() -> None:
    """What fits with constants in l2 fits, although they prefer tile_sram."""
    program = toy_program()
    for tile_sram in range(3072, 8192, 256):
        target = toy_target(tile_sram=tile_sram, l2=4096, mram=8192)
        plan = plan_memory(program, by_cost(target))
        assert all(region.free >= 0 for region in plan.regions)


def test_targets_are_loaded_in_order_of_cost() -> None:
    placement = load_target("siracusa").placement
    assert placement["constants"] == ("tile_sram", "l2")
    assert placement["weights"] == ("mram", "tile_sram")
