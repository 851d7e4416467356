"""Batches of prompts: how large, in whose room, and what the validator thinks of wrong ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan, PrefillPlan
from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from memory_planner.token_groups import token_groups
from memory_planner.validate import validate_plan
from sim.memory import MemoryFaultError
from sim.prefill_cycles import prefill_cycles
from sim.step import decode_step
from tests.memory_planner.toy import TOY_SHAPE, toy_program
from tests.sim.test_machine import check_prompts, odd_program
from toolchain.model.program import Program

SIRACUSA = load_target("siracusa")


def planned(target: TargetSpec = SIRACUSA) -> tuple[Program, Plan]:
    program = toy_program()
    return program, plan_memory(program, target)


def test_a_batch_takes_room_that_is_left() -> None:
    """Everything stays in its region, and a smaller memory gives a smaller batch."""
    program, plan = planned()
    assert plan.prefill is not None
    alone = plan_memory(program, replace(SIRACUSA, costs=replace(SIRACUSA.costs, batch=None)))
    assert alone.prefill is None
    assert set(plan.placements) - set(alone.placements) == {"prefill.tokens"}
    for name, place in alone.placements.items():
        assert plan.placements[name].region == place.region
    sizes = []
    most = plan.region("l1").used - plan.region("l1").reserved
    least = alone.region("l1").used - alone.region("l1").reserved
    for room in range(most, least - 1, -64):
        found = plan_memory(program, limited_target(SIRACUSA, MemoryLimits({"l1": room})))
        assert found.region("l1").free >= 0
        sizes.append(found.prefill.batch if found.prefill else 1)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 16 > sizes[-1]


def test_a_batch_shares_room_with_the_head() -> None:
    """The batch is over when the head's logits need their bytes."""
    program = toy_program(replace(TOY_SHAPE, vocab=4096))
    plan = plan_memory(program, SIRACUSA)
    assert plan.prefill is not None
    batch, logits = plan.placements["prefill.tokens"], plan.placements["logits"]
    assert batch.last <= logits.first
    size = plan.region("l1").arena_size
    alone = plan_memory(program, replace(SIRACUSA, costs=replace(SIRACUSA.costs, batch=None)))
    assert size < alone.region("l1").arena_size + batch.size


def test_a_batch_must_pay() -> None:
    """Not when going over to another token costs more than the code that is there already."""
    costs = SIRACUSA.costs
    assert costs.batch is not None
    dear = replace(costs, batch=replace(costs.batch, select_token=1e6))
    assert planned(replace(SIRACUSA, costs=dear))[1].prefill is None
    assert planned(load_target("rv32"))[1].prefill is None


def test_groups_are_ops_in_order() -> None:
    program, plan = planned()
    groups = token_groups(program, plan)
    block = [op for op in program.ops if op.layer == 0]
    assert [role for group in groups for role in group.roles] == [op.role for op in block]
    linears = {op.role for op in block if op.role.endswith("_proj")}
    assert {role for group in groups if group.batched for role in group.roles} == linears


def change(**fields: object) -> Callable[[PrefillPlan], PrefillPlan]:
    return lambda how: replace(how, **fields)  # type: ignore[arg-type]


def moved(name: str, onto: str) -> Callable[[PrefillPlan], PrefillPlan]:
    return lambda how: replace(how, offsets={**how.offsets, name: how.offsets[onto]})


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (change(batch=1), "tokens 1"),
        (change(batch=8), "bytes of all tokens"),
        (change(stride=1), "modulo the alignment"),
        (change(buffer="tile"), "buffer tile"),
        (change(offsets={}), r"tensors \[\]"),
        (moved("attn.q", "resid"), "attn.q and resid share bytes"),
        (moved("mlp.gate", "mlp.up"), "mlp.gate and mlp.up share bytes"),
    ],
)
def test_the_validator_objects(spoil: Callable[[PrefillPlan], PrefillPlan], found: str) -> None:
    program, plan = planned()
    assert plan.prefill is not None
    problems = validate_plan(program, SIRACUSA, replace(plan, prefill=spoil(plan.prefill)))
    assert any(problem.where == "prefill" for problem in problems)
    text = " ".join(problem.found for problem in problems)
    assert re.search(found, text), text


def test_a_plan_with_a_buffer_and_no_batch_is_wrong() -> None:
    program, plan = planned()
    assert validate_plan(program, SIRACUSA, replace(plan, prefill=None))


@pytest.mark.parametrize("lengths", [(5,), (4, 1), (3, 2), (1, 1, 3)])
def test_any_division_into_prompts_gives_the_bits_of_steps(
    tmp_path: Path, lengths: tuple[int, ...]
) -> None:
    """The context has 5 positions, so batches are of 4 tokens."""
    program = odd_program(tmp_path)
    plan = plan_memory(program, SIRACUSA)
    assert plan.prefill is not None
    assert plan.prefill.batch == 4
    check_prompts(program, plan, lengths)


def test_the_machine_finds_tokens_that_share_bytes(tmp_path: Path) -> None:
    """The second token's residual over the first one's."""
    program = odd_program(tmp_path)
    plan = plan_memory(program, SIRACUSA)
    assert plan.prefill is not None
    broken = replace(plan, prefill=replace(plan.prefill, stride=0))
    with pytest.raises(MemoryFaultError, match="of token 0"):
        check_prompts(program, broken, (2,))


def test_cycles_of_a_batch() -> None:
    """Every token costs its ops; within a batch later ones save fetches, and select buffers."""
    program, plan = planned()
    step = decode_step(program, plan, SIRACUSA, 0)
    assert plan.prefill is not None
    size, costs = plan.prefill.batch, SIRACUSA.costs.batch
    assert costs is not None
    assert prefill_cycles(step, 1) >= step.total
    groups = token_groups(program, plan)
    layers = program.shape.layers
    selections = layers * len(groups) + 1  # and the embedding
    assert abs(prefill_cycles(step, 1) - step.total - selections * costs.select_token) <= 40
    first = prefill_cycles(step, size)
    alone = prefill_cycles(decode_step(program, replace(plan, prefill=None), SIRACUSA, 0), size)
    assert first < alone
    assert prefill_cycles(step, 2 * size) > 2 * (first - step.total)
