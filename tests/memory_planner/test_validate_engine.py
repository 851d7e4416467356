"""The validator on jobs: a good plan passes, every spoiled register or limit is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from memory_planner.engine_plan import ChainPlan, EngineLinear, PiecePlan
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan
from memory_planner.validate import validate_plan
from tests.memory_planner.engines import SIRACUSA, lowered, planned
from toolchain.model.program import Program
from toolchain.model.quantize import QuantConfig

TARGET = limited_target(SIRACUSA, MemoryLimits({"l1": 32768}, ()))
HEAD = -1  # the chain whose tiles take turns in two slots
Spoil = Callable[[ChainPlan], ChainPlan]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Plan]:
    model = lowered(
        tmp_path_factory.mktemp("model"),
        QuantConfig(4, 64),
        hidden_size=128,
        intermediate_size=96,
        num_heads=4,
        num_kv_heads=2,
        vocab_size=1500,
    )
    assigned, plan = planned(model, target=TARGET)
    return assigned.program, plan


def test_a_good_plan_passes(case: tuple[Program, Plan]) -> None:
    program, plan = case
    assert validate_plan(program, TARGET, plan) == []
    assert plan.engine is not None
    assert len(plan.engine.chains[HEAD].jobs) > 3


def spoiled(plan: Plan, number: int, spoil: Spoil) -> Plan:
    assert plan.engine is not None
    chains = list(plan.engine.chains)
    chains[number] = spoil(chains[number])
    return replace(plan, engine=replace(plan.engine, chains=tuple(chains)))


def register(job: int, index: int, change: int) -> Spoil:
    def spoil(chain: ChainPlan) -> ChainPlan:
        jobs = list(chain.jobs)
        words = list(jobs[job].registers)
        words[index] = (words[index] + change) % (1 << 32)
        jobs[job] = replace(jobs[job], registers=tuple(words))
        return replace(chain, jobs=tuple(jobs))

    return spoil


def pieces(change: Callable[[PiecePlan], PiecePlan]) -> Spoil:
    def spoil(chain: ChainPlan) -> ChainPlan:
        first = chain.linears[0]
        changed: EngineLinear = replace(first, pieces=tuple(map(change, first.pieces)))
        return replace(chain, linears=(changed, *chain.linears[1:]))

    return spoil


SPOILED: list[tuple[str, int, Spoil]] = [
    ("words of another channel", 0, register(0, 0, 128)),
    ("misaligned words", 0, register(0, 0, 4)),
    ("input of another group", 0, register(0, 1, 8)),
    ("input beyond its buffer", 0, register(0, 1, 1 << 16)),
    ("sums elsewhere", 0, register(0, 2, 4)),
    ("sums beyond their buffer", 0, register(0, 2, 1 << 16)),
    ("input rows farther apart", 0, register(0, 7, 1 << 12)),
    ("another pixel stride", 0, register(0, 10, 4)),
    ("one channel less", 0, register(0, 15, -(1 << 16))),
    ("one step of channels less", HEAD, register(0, 18, -(1 << 16))),
    ("two tiles of pixels", 0, register(0, 19, 1)),
    ("depthwise", 0, register(0, 23, 1 << 5)),
    ("requantized", 0, register(0, 23, 1 << 4)),
    ("weights in L1", 0, register(0, 23, -(1 << 9))),
    ("stream-in", 0, register(0, 23, 1 << 14)),
    ("23 registers", 0, lambda c: replace(c, jobs=(replace(c.jobs[0], registers=(0,) * 23),))),
    ("a job missing", 0, lambda c: replace(c, jobs=c.jobs[:-1])),
    ("a job too many", 0, lambda c: replace(c, jobs=(*c.jobs, c.jobs[-1]))),
    ("jobs in another order", HEAD, lambda c: replace(c, jobs=c.jobs[::-1])),
    ("too early", HEAD, pieces(lambda p: replace(p, needed=p.needed - 1))),
    ("sums overwritten", HEAD, pieces(lambda p: replace(p, after=min(4, p.after + 1)))),
    ("a job that may never run", HEAD, pieces(lambda p: replace(p, before=p.needed - 1))),
    ("other sums", 0, pieces(lambda p: replace(p, accumulators=p.accumulators + 4))),
    ("another group stride", 0, pieces(lambda p: replace(p, group_stride=p.group_stride + 4))),
    ("channels left out", 0, pieces(lambda p: replace(p, channels=p.channels - 1))),
    (
        "another table",
        0,
        lambda c: replace(c, linears=(replace(c.linears[0], table="rope.table"),)),
    ),
    ("a linear missing", 0, lambda c: replace(c, linears=c.linears[:-1])),
    ("no such buffer", 0, lambda c: replace(c, input_buffer="tile.lm_head")),
]


@pytest.mark.parametrize(("what", "number", "spoil"), SPOILED, ids=[each[0] for each in SPOILED])
def test_a_spoiled_chain_is_found(
    case: tuple[Program, Plan], what: str, number: int, spoil: Spoil
) -> None:
    program, plan = case
    assert validate_plan(program, TARGET, spoiled(plan, number, spoil)) != [], what


def test_a_plan_without_jobs_is_found(case: tuple[Program, Plan]) -> None:
    program, plan = case
    assert validate_plan(program, TARGET, replace(plan, engine=None)) != []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"weight_base": 0x10400020},
        {"addresses": {"mram": 0x10400000}},
    ],
)
def test_another_engine_is_found(case: tuple[Program, Plan], changes: dict[str, object]) -> None:
    program, plan = case
    assert plan.engine is not None
    wrong = replace(plan, engine=replace(plan.engine, **changes))  # type: ignore[arg-type]
    assert validate_plan(program, TARGET, wrong) != []


def test_buffers_that_overlap_are_found(case: tuple[Program, Plan]) -> None:
    program, plan = case
    assert plan.engine is not None
    chain = plan.engine.chains[0]
    staged = plan.placements[chain.input_buffer]
    sums = plan.placements[chain.accumulator_buffer]
    moved = {**plan.placements, staged.name: replace(staged, offset=sums.offset)}
    assert validate_plan(program, TARGET, replace(plan, placements=moved)) != []


def test_a_short_life_is_found(case: tuple[Program, Plan]) -> None:
    program, plan = case
    assert plan.engine is not None
    staged = plan.placements[plan.engine.chains[0].input_buffer]
    short = {**plan.placements, staged.name: replace(staged, last=staged.last - 1)}
    assert validate_plan(program, TARGET, replace(plan, placements=short)) != []
