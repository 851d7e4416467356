"""The decode graphs that people compile: every arena is as low as its fullest step."""

from __future__ import annotations

from random import Random

import pytest

from memory_planner.plan import Plan
from memory_planner.planner import draft_plan
from memory_planner.target_file import load_target
from tests.memory_planner.toy import toy_program, toy_target
from toolchain.fit.shapes import list_shapes, load_shape
from toolchain.model.outline import LowerConfig, outline_program
from toolchain.model.program import ProgramShape
from toolchain.model.quant_settings import QuantConfig

TARGETS = ("siracusa", "rv32")


def assert_optimal(plan: Plan) -> None:
    for region in plan.regions:
        assert region.arena_size == region.peak
        assert region.proven


@pytest.mark.parametrize("name", list_shapes())
def test_built_in_shapes(name: str) -> None:
    program = outline_program(load_shape(name).config, QuantConfig(), LowerConfig(256))
    for target in TARGETS:
        assert_optimal(draft_plan(program, load_target(target)))


def test_random_shapes() -> None:
    """In a tight L1 the greedy orders miss the bound now and then; the search closes the gap."""
    rng = Random(5)
    for _ in range(10):
        kv_heads = rng.randint(1, 4)
        shape = ProgramShape(
            hidden=rng.randint(8, 600),
            ffn=rng.randint(8, 1500),
            layers=rng.randint(1, 8),
            heads=kv_heads * rng.randint(1, 4),
            kv_heads=kv_heads,
            head_dim=rng.choice([2, 4, 8, 16, 32]),
            vocab=rng.randint(10, 3000),
            context=rng.randint(4, 600),
        )
        program = toy_program(shape, group_size=rng.choice([8, 32, 64]))
        for target in TARGETS:
            assert_optimal(draft_plan(program, load_target(target)))
        large = {"mram": 1_000_000, "tile_sram": 1_000_000, "l2": 1_000_000}
        assert_optimal(draft_plan(program, toy_target(**large, l1=rng.choice([2000, 4000, 8000]))))
