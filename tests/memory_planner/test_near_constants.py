"""Constants in what everything else leaves of L1, beside linears on the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan
from tests.memory_planner.engines import SIRACUSA, Lowered, lowered, planned
from toolchain.model.program import Kind, Program
from toolchain.model.quantize import QuantConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return lowered(
        tmp_path_factory.mktemp("model"),
        QuantConfig(4, -1),
        hidden_size=64,
        intermediate_size=128,
        vocab_size=130,
        num_layers=3,
    )


def regions(program: Program, plan: Plan) -> dict[str, str]:
    names = (name for name, spec in program.tensors.items() if spec.kind is Kind.CONST)
    return {name: plan.placements[name].region for name in names}


def test_constants_that_a_token_reads_as_a_whole_lie_beside_the_tiles(model: Lowered) -> None:
    assigned, plan = planned(model)
    found = regions(assigned.program, plan)
    rows = {"rope.table", "embed.requant"}  # of which a token reads one row
    assert {found[name] for name in found if name not in rows} == {"l1"}
    assert "l1" not in {found[name] for name in rows & set(found)}
    tables = [plan.linears[op.id] for op in assigned.program.ops if op.id in plan.linears]
    assert all(not how.transfers and how.tile_buffer is None for how in tables)
    assert not any(name.startswith("tile.") for name in plan.placements)


def test_linears_of_the_cores_leave_that_room_to_prompts(model: Lowered) -> None:
    assigned, plan = planned(model, EngineChoice.CORES)
    assert "l1" not in regions(assigned.program, plan).values()


def test_a_target_says_whether_it_wants_them(model: Lowered) -> None:
    assert SIRACUSA.tiling is not None
    usual = replace(SIRACUSA, tiling=replace(SIRACUSA.tiling, near_constants=False))
    assigned, plan = planned(model, target=usual)
    assert "l1" not in regions(assigned.program, plan).values()


def test_blocks_stay_alike_whatever_has_room(tmp_path: Path) -> None:
    model = lowered(
        tmp_path,
        QuantConfig(4, -1),
        hidden_size=64,
        intermediate_size=128,
        num_layers=3,
    )
    seen = set()
    for size in range(9 << 10, 20 << 10, 512):
        target = limited_target(SIRACUSA, MemoryLimits({"l1": size}, ()))
        assigned, plan = planned(model, target=target)
        assert plan.region("l1").free >= 0
        found: dict[str, set[str]] = {}
        for op in assigned.program.ops:
            if op.id in plan.linears:
                found.setdefault(op.role, set()).add(plan.placements[op.inputs[-1]].region)
        assert all(len(where) == 1 for where in found.values())
        seen.add(sum("l1" in where for where in found.values()))
    assert len(seen) > 2
