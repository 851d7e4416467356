"""Smaller regions and pins: what they change, and what is refused."""

from __future__ import annotations

import pytest

from memory_planner.limits import MemoryLimits, limited_target, without_off_chip
from memory_planner.planner import plan_memory
from memory_planner.target import Pin, TargetSpec
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from tests.memory_planner.toy import toy_program, toy_target
from toolchain.model.errors import ConfigError

PROGRAM = toy_program(tied=False)


def limited(target: TargetSpec, /, *pins: str, **sizes: int) -> TargetSpec:
    parsed = [Pin(*text.split("=")) for text in pins]
    return limited_target(target, MemoryLimits(sizes, tuple(parsed)))


def test_a_size_is_what_the_model_may_use() -> None:
    target = limited(toy_target(), l1=2048, tile_sram=4096)
    assert target.region("l1").size == 800 + 2048  # stacks are not counted
    assert target.region("tile_sram").size == 32 + 4096
    assert target.region("l2") == toy_target().region("l2")
    plan = plan_memory(PROGRAM, target)
    assert plan.region("l1").capacity == 2848


def test_limits_are_json() -> None:
    limits = MemoryLimits({"l1": 8192}, (Pin("kv.*", "l2"),))
    assert limits.to_dict() == {"regions": {"l1": 8192}, "pins": ["kv.*=l2"]}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"l3": 8}, "region 'l3', allowed one of mram, tile_sram, l2, l1"),
        ({"l1": 0}, "0 bytes, allowed 8 to 15,584 bytes in steps of 8"),
        ({"l1": 15592}, "of 16,384, 800 are reserved"),
        ({"mram": 100}, "in steps of 32"),
    ],
)
def test_sizes_that_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        limited(toy_target(), **sizes)


def test_pins_are_honoured_and_the_last_one_counts() -> None:
    target = limited(
        toy_target(far=32768),
        *("*.weight=tile_sram", "l00.attn.*.weight=mram", "l01.mlp.*.weight=far"),
        *("kv.*=l2", "kv.v=tile_sram", "logits=tile_sram", "scratch.mlp.swiglu=tile_sram"),
    )
    plan = plan_memory(PROGRAM, target)
    regions = {name: place.region for name, place in plan.placements.items()}
    assert regions["l00.mlp.up_proj.weight"] == regions["embed.weight"] == "tile_sram"
    assert regions["l00.attn.q_proj.weight"] == "mram"
    assert regions["l01.mlp.down_proj.weight"] == "far"
    assert regions["kv.k"] == regions["kv.k_scale"] == "l2"
    assert regions["kv.v"] == regions["logits"] == regions["scratch.mlp.swiglu"] == "tile_sram"
    assert validate_plan(PROGRAM, target, plan) == []


def test_a_pin_in_l1_stays_there_when_l1_is_short() -> None:
    least = 1200  # without the pin, the logits move to tile SRAM
    free = plan_memory(PROGRAM, limited(toy_target(), l1=least))
    assert free.placements["logits"].region == "tile_sram"
    pinned = plan_memory(PROGRAM, limited(toy_target(), "logits=l1", l1=least))
    assert pinned.placements["logits"].region == "l1"


def test_the_validator_knows_the_pins() -> None:
    plan = plan_memory(PROGRAM, toy_target())
    (problem,) = validate_plan(PROGRAM, limited(toy_target(), "kv.v=l2"), plan)
    assert str(problem) == "kv.v: found region tile_sram, allowed l2"


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("kv.*=l3", "region 'l3', allowed one of mram"),
        ("kv.*=l1", "l1 for kv.k, allowed tile_sram or l2"),
        ("logits=mram", "mram for logits, allowed l1 or tile_sram"),
        ("*.weight=l2", r"l2 for \S+, allowed mram or tile_sram"),
        ("l02.*=mram", "no tensor of that name"),
        ("tile.*=l1", "no tensor of that name"),
    ],
)
def test_pins_that_are_refused(pin: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_memory(PROGRAM, limited(toy_target(), pin))


def test_the_chip_alone() -> None:
    target = without_off_chip(load_target("siracusa"))
    assert [region.name for region in target.regions] == ["mram", "tile_sram", "l2", "l1"]
    assert target.off_chip is None
    assert {link.name for link in target.links} == {"weight_memory_to_l1", "l2_to_l1"}
    assert without_off_chip(target) is target
