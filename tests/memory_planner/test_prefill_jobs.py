"""Jobs of the engine that serve several tokens of a prompt: plans, and the bits of steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from codegen.blob import build_blobs
from memory_planner.engine_chains import sums_limit
from memory_planner.engine_jobs import tokens_per_line, window_count, window_of
from memory_planner.engine_registers import Mode
from memory_planner.engines import EngineChoice, EngineWish
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan, PrefillPlan
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.prefill_jobs import chain_cycles, saved_by_jobs
from memory_planner.prompts import prompt_choice
from memory_planner.target import Costs, TargetSpec
from memory_planner.target_file import load_target
from memory_planner.token_groups import token_groups
from memory_planner.validate import validate_plan
from memory_planner.validate_prefill import on_images
from sim.engine import covered_inputs
from sim.machine import Machine, Output
from sim.prefill_cycles import prefill_cycles
from sim.step import decode_step
from tests.memory_planner.engines import Lowered, lowered, planned
from tests.memory_planner.test_validate_engine import SPOILED
from tests.sim.test_machine import check_prompts
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.engine_program import with_engine
from toolchain.model.errors import ConfigError
from toolchain.model.packing import Packing
from toolchain.model.program import PROMPT, ActMode, Program, is_prompt_words
from toolchain.model.prompt_words import with_prompt_words
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


def batched(
    folder: Path, mode: ActMode = ActMode.A16, group_size: int = -1, *, copies: bool = False
) -> tuple[Program, Plan, PrefillPlan]:
    """A program and its plan, with second copies of the words or without."""
    lean = model(folder, mode, group_size)
    assigned, _ = planned(lean, target=eager())
    program = with_engine(lean.program, assigned.layouts)
    program = with_prompt_words(program) if copies else program
    plan = plan_memory(program, eager())
    assert plan.prefill is not None
    assert plan.prefill.chains
    return program, plan, plan.prefill


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
    program, plan, how = batched(tmp_path, mode, group_size)
    assert how.batch == tokens
    assert len(how.chains) == 2 * 4
    check_prompts(program, plan, lengths)


@pytest.mark.parametrize(
    ("mode", "group_size", "lengths"),
    [(ActMode.A16, -1, (5,)), (ActMode.A16, 32, (4, 1)), (ActMode.A8, -1, (5,))],
)
def test_second_copies_have_the_bits_of_steps(
    tmp_path: Path, mode: ActMode, group_size: int, lengths: tuple[int, ...]
) -> None:
    """1 x 1: three tokens of 16 bits in a row of pixels, or six of 8; the context has five."""
    program, plan, how = batched(tmp_path, mode, group_size, copies=True)
    assert how.batch == 4
    for chain in how.chains:
        assert {job.registers[23] >> 5 & 3 for job in chain.jobs} == {Mode.POINTWISE.value}
        for linear in chain.linears:
            assert linear.weight.endswith(PROMPT)
    check_prompts(program, plan, lengths)


@pytest.mark.parametrize(("halves", "tokens"), [(1, 16), (2, 16), (2, 4), (2, 3)])
def test_windows_of_a_job_are_distinct(halves: int, tokens: int) -> None:
    """Lower halves lie three windows behind the upper ones, and rows have equally many tokens."""
    layout = EngineLayout(Packing.NEUREKA_1X1, 8, 40, 4, 40, 1)
    found = [
        [window_of(layout, halves, token, half) for half in range(halves)]
        for token in range(tokens)
    ]
    every = [window for windows in found for window in windows]
    assert len(set(every)) == halves * tokens
    assert max(every) + 1 == window_count(layout, halves, tokens) <= 36
    assert all(windows[-1] - windows[0] == 3 * (halves - 1) for windows in found)
    line = tokens_per_line(layout, halves)
    assert all(found[token][0] == 6 * (token // line) + token % line for token in range(tokens))


def test_copies_need_room_and_leave_all_else_alone(tmp_path: Path) -> None:
    """Without room for them, or without a gain, jobs read the words of steps."""
    shape = {**SHAPE, "hidden_size": 192, "intermediate_size": 512}
    lean = lowered(tmp_path, QuantConfig(4, -1), ActMode.A16, **shape)
    assigned, plan = planned(lean)
    program = assigned.program
    assert assigned.prompt_words
    assert prompt_choice(program, SIRACUSA, plan).mode == "1 x 1"
    size = sum(spec.size for spec in program.tensors.values() if is_prompt_words(spec))
    assert prompt_choice(program, SIRACUSA, plan).copies == size > 0
    used = {each.name: each.used for each in plan.regions}
    rooms = {"mram": used["mram"] - size // 2 // 64 * 64, "tile_sram": 4096}
    tight = limited_target(eager(), MemoryLimits(rooms))
    assigned, found = planned(lean, target=tight)
    assert not assigned.prompt_words
    choice = prompt_choice(assigned.program, tight, found)
    assert (choice.tokens, choice.mode, choice.copies) == (2, "3 x 3", 0)
    assert "no room" in choice.reason
    alone = plan_memory(assigned.program, SIRACUSA, batch=1)
    for name, place in alone.placements.items():
        assert plan.placements[name].region == place.region


def test_prompts_lie_on_images_that_rest(tmp_path: Path) -> None:
    """With little room; steps behind a prompt find their images zero again."""
    shape = {**SHAPE, "hidden_size": 128, "intermediate_size": 256, "context": 16}
    lean = lowered(tmp_path, QuantConfig(4, -1), ActMode.A16, **shape)
    program = planned(lean)[0].program
    plan = plan_memory(program, SIRACUSA)
    assert covered_inputs(plan) == []
    used = plan.region("l1").used
    for room in range(used - plan.region("l1").reserved, 0, -2048):
        target = limited_target(SIRACUSA, MemoryLimits({"l1": room}))
        plan = plan_memory(program, target)
        if plan.prefill is None or covered_inputs(plan):
            break
    assert plan.prefill
    assert on_images(program, target, plan)
    assert not any("lm_head" in place.name for place in covered_inputs(plan))
    blobs, tokens = build_blobs(program, plan), list(range(1, 6))
    wanted = [value for *_, value in outputs(Machine(program, plan, blobs), tokens)][-2:]
    machine = Machine(program, plan, blobs)
    list(machine.prefill(tokens[:-1]))
    found = [value for *_, value in outputs(machine, tokens[-1:])][-2:]
    assert all((one == other).all() for one, other in zip(found, wanted, strict=True))
    name = next(iter(on_images(program, target, plan)))
    place = plan.placements[name]
    away = replace(place, offset=place.offset - 8)
    broken = replace(plan, placements={**plan.placements, name: away})
    assert validate_plan(program, target, plan) == []
    assert validate_plan(program, target, broken)


def outputs(machine: Machine, tokens: list[int]) -> list[Output]:
    return [output for token in tokens for output in machine.step(token)]


def test_a_batch_can_be_asked_for(tmp_path: Path) -> None:
    """So many tokens whether or not they pay; an error where that is not possible."""
    program, _, _ = batched(tmp_path)
    for wanted in (1, 2):
        plan = plan_memory(program, SIRACUSA, batch=wanted)
        assert (plan.prefill.batch if plan.prefill else 1) == wanted
        assert prompt_choice(program, SIRACUSA, plan).tokens == wanted
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        plan_memory(program, SIRACUSA, batch=4)
    (problem,) = caught.value.problems
    assert problem.found == "4 tokens: a job that reads the words of a step serves 2 at most"
    lean = model(tmp_path)
    for wanted in (3, 8):
        with pytest.raises(ConfigError, match="cannot be used"):
            choose_engines(
                lean.program, SIRACUSA, EngineWish(EngineChoice.AUTO, lean.bits, batch=wanted)
            )


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
    program, plan, _ = batched(tmp_path, ActMode.A8)
    alone = plan_memory(program, replace(SIRACUSA, costs=without_batches()))
    assert alone.prefill is None
    new = set(plan.placements) - set(alone.placements)
    assert {name.partition(".")[0] for name in new} == {"prefill"}
    for name, place in alone.placements.items():
        assert plan.placements[name].region == place.region
    used = [each.region("l1").used - each.region("l1").reserved for each in (alone, plan)]
    sizes = []
    for room in range(2 * used[1], used[0] - 1, -((2 * used[1] - used[0]) // 8)):
        target = limited_target(eager(), MemoryLimits({"l1": room // 8 * 8}))
        found = plan_memory(program, target)
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


@pytest.mark.parametrize("copies", [False, True])
def test_the_validator_objects_to_jobs(tmp_path: Path, copies: bool) -> None:
    """Everything that is wrong in a chain of steps is wrong in one of prompts."""
    program, plan, how = batched(tmp_path, group_size=32, copies=copies)
    assert validate_plan(program, eager(), plan) == []
    passed = []
    for what, _, spoil in SPOILED:
        chains = spoil(how.chains[0]), *how.chains[1:]
        wrong = replace(plan, prefill=replace(how, chains=chains))
        if not validate_plan(program, eager(), wrong):
            passed.append(what)
    assert passed == []


def test_the_validator_objects_to_missing_parts(tmp_path: Path) -> None:
    program, plan, how = batched(tmp_path)
    fewer = replace(plan, prefill=replace(how, chains=how.chains[1:]))
    places = {name: place for name, place in plan.placements.items() if name != "prefill.partials"}
    (problem,) = (p for p in validate_plan(program, eager(), fewer) if p.where == "engine")
    assert problem.found == "jobs for l00.attn.o_proj"
    assert problem.allowed.startswith("for l00.attn.q_proj")
    found = validate_plan(program, eager(), replace(plan, placements=places))
    assert any(p.where == "prefill.partials" for p in found)
