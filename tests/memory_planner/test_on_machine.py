"""Plans on the byte-true simulator: other memories, other tiles, the same integers."""

from __future__ import annotations

import pytest

from codegen.blob import build_blobs
from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from sim.machine import run_steps
from tests.memory_planner.toy import flat_target, toy_target
from tests.model.tiny import write_model
from toolchain.model.checkpoint import load_model
from toolchain.model.lower import lower_model
from toolchain.model.outline import LowerConfig
from toolchain.model.program import Program
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.quantize import quantize_model

TOKENS = [1, 5, 9, 30, 7, 2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    directory = write_model(tmp_path_factory.mktemp("tiny"))
    return lower_model(quantize_model(load_model(directory), QuantConfig()), LowerConfig(32))


def run(program: Program, target: TargetSpec) -> list[tuple[str, bytes]]:
    plan = plan_memory(program, target)
    records = run_steps(program, plan, build_blobs(program, plan), TOKENS)
    return [(f"{each.step} {each.op} {each.tensor}", each.value.tobytes()) for each in records]


@pytest.fixture(scope="module")
def expected(program: Program) -> list[tuple[str, bytes]]:
    return run(program, load_target("siracusa"))


@pytest.mark.parametrize(
    "target",
    [
        load_target("rv32"),
        flat_target(),
        toy_target(),
        toy_target(slot_cap=64, positions_cap=2),
        toy_target(l1=1900),  # logits and scores move to tile SRAM
        toy_target(l1=1660),  # one record per tile, one position per chunk
        toy_target(mram=4096),  # weights overflow to tile SRAM
        toy_target(tile_sram=1100),  # cache overflows to L2
        toy_target(cores=3),
    ],
    ids=["rv32", "flat", "toy", "small tiles", "l1", "least l1", "mram", "tile sram", "3 cores"],
)
def test_same_integers_on_any_plan(
    program: Program, expected: list[tuple[str, bytes]], target: TargetSpec
) -> None:
    assert run(program, target) == expected
