"""Jobs of the engine that serve several tokens of a prompt: plans, and the bits of steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memory_planner.engine_chains import sums_limit
from memory_planner.engine_plan import ChainPlan
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan, PrefillPlan
from memory_planner.planner import plan_memory
from memory_planner.prefill import token_groups
from memory_planner.prefill_jobs import chain_cycles, saved_by_jobs
from memory_planner.target import Costs, TargetSpec
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from sim.prefill_cycles import prefill_cycles
from sim.step import decode_step
from tests.memory_planner.engines import Lowered, lowered, planned
from tests.sim.test_machine import check_prompts
from toolchain.model.program import ActMode, Program
from toolchain.model.quant_settings import Override
from toolchain.model.quantize import QuantConfig

SIRACUSA = load_target("siracusa")
SHAPE = {"hidden_size": 72, "intermediate_size": 100, "num_layers": 2, "context": 5}


def eager(target: TargetSpec = SIRACUSA) -> TargetSpec:
    """The target where going over to another token is a gain, so that batches always pay."""
    costs = target.costs
    assert costs.batch is not None
    return replace(target, costs=replace(costs, batch=replace(costs.batch, select_token=-1e5)))


def model(folder: Path, mode: ActMode = ActMode.A16, group_size: int = -1) -> Lowered:
    quant = QuantConfig(4, group_size, overrides=(Override("*.k_proj", 3),))
    return lowered(folder, quant, mode, **SHAPE)


def batched(folder: Path, mode: ActMode = ActMode.A16) -> tuple[Program, Plan, PrefillPlan]:
    assigned, plan = planned(model(folder, mode), target=eager())
    assert plan.prefill is not None
    assert plan.prefill.chains
    return assigned.program, plan, plan.prefill


@pytest.mark.parametrize(
    ("mode", "group_size", "tokens", "lengths"),
    [
        (ActMode.A16, -1, 2, (5,)),
        (ActMode.A16, 32, 2, (2, 3)),
        (ActMode.A8, -1, 4, (5,)),
        (ActMode.A8, 32, 4, (1, 3, 1)),
    ],
)
def test_batches_have_the_bits_of_steps(
    tmp_path: Path, mode: ActMode, group_size: int, tokens: int, lengths: tuple[int, ...]
) -> None:
    """Four windows of a job: two tokens of 16 bits, four of 8."""
    assigned, plan = planned(model(tmp_path, mode, group_size), target=eager())
    assert plan.prefill is not None
    assert plan.prefill.batch == tokens
    assert len(plan.prefill.chains) == 2 * 4
    check_prompts(assigned.program, plan, lengths)


def test_groups_are_linears_and_what_lies_between(tmp_path: Path) -> None:
    program, plan, _ = batched(tmp_path)
    groups = token_groups(program, plan)
    assert [group.roles for group in groups if group.batched] == [
        (op.role,) for op in program.ops if op.layer == 0 and op.role.endswith("_proj")
    ]
    between = [group.roles for group in groups if not group.batched]
    assert between == [
        ("attn.norm",),
        ("attn.rope", "attn.kv_append", "attn.attention", "attn.merge"),
        ("attn.residual", "mlp.norm"),
        ("mlp.swiglu",),
        ("mlp.residual",),
    ]


def test_room_is_what_steps_leave(tmp_path: Path) -> None:
    """No region and no buffer of a step changes, and less memory gives fewer tokens, then none."""
    lean = model(tmp_path, ActMode.A8)
    assigned, plan = planned(lean, target=eager())
    alone = plan_memory(assigned.program, replace(SIRACUSA, costs=without_batches()))
    assert alone.prefill is None
    new = set(plan.placements) - set(alone.placements)
    assert {name.partition(".")[0] for name in new} == {"prefill"}
    for name, place in alone.placements.items():
        assert plan.placements[name].region == place.region
    used = [each.region("l1").used - each.region("l1").reserved for each in (alone, plan)]
    sizes = []
    for room in range(2 * used[1], used[0] - 1, -((2 * used[1] - used[0]) // 8)):
        target = limited_target(eager(), MemoryLimits({"l1": room // 8 * 8}))
        found = plan_memory(assigned.program, target)
        sizes.append(found.prefill.batch if found.prefill else 1)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 4 > sizes[-1]


def without_batches() -> Costs:
    return replace(SIRACUSA.costs, batch=None)


def test_slots_of_sums_hold_a_share(tmp_path: Path) -> None:
    """Two slots within what sums may take; equal pixels in all jobs of a chain."""
    _, plan, how = batched(tmp_path)
    for chain in how.chains:
        assert plan.placements[chain.accumulator_buffer].size <= sums_limit(SIRACUSA)
        pieces = [piece for linear in chain.linears for piece in linear.pieces]
        assert len({piece.pixel_stride for piece in pieces}) == 1


def test_savings_are_of_chains(tmp_path: Path) -> None:
    program, plan, how = batched(tmp_path)
    target = eager()
    one = how.chains[0]
    assert plan.engine is not None
    single = chain_cycles(program, target, plan, plan.engine.chains[0])
    together = chain_cycles(program, target, plan, one, 2)
    assert saved_by_jobs(program, target, plan, [one], 2) == pytest.approx(2 * single - together)
    assert saved_by_jobs(program, target, plan, (), 2) == 0
    step = decode_step(program, plan, SIRACUSA, 0)
    assert prefill_cycles(step, 4) > prefill_cycles(step, 2) > 0


def spoiled(chain: ChainPlan, register: int, change: int) -> ChainPlan:
    """The chain with another value in a register of its first job."""
    words = list(chain.jobs[0].registers)
    words[register] += change
    return replace(chain, jobs=(replace(chain.jobs[0], registers=tuple(words)), *chain.jobs[1:]))


@pytest.mark.parametrize(("register", "change"), [(0, 32), (1, 1 << 20), (2, 4), (10, 4)])
def test_the_validator_objects_to_jobs(tmp_path: Path, register: int, change: int) -> None:
    program, plan, how = batched(tmp_path)
    broken = spoiled(how.chains[0], register, change)
    wrong = replace(plan, prefill=replace(how, chains=(broken, *how.chains[1:])))
    assert validate_plan(program, eager(), plan) == []
    assert validate_plan(program, eager(), wrong)


def test_the_validator_objects_to_missing_parts(tmp_path: Path) -> None:
    program, plan, how = batched(tmp_path)
    fewer = replace(plan, prefill=replace(how, chains=how.chains[1:]))
    places = {name: place for name, place in plan.placements.items() if name != "prefill.partials"}
    assert any(p.where == "engine" for p in validate_plan(program, eager(), fewer))
    found = validate_plan(program, eager(), replace(plan, placements=places))
    assert any(p.where == "prefill.partials" for p in found)
