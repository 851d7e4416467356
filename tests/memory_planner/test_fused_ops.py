"""Which ops run as one: whole halves of a block, parts of them, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from memory_planner import engine_chains
from memory_planner.engines import EngineChoice, EngineWish
from memory_planner.fused_ops import (
    MOST_JOBS,
    FusedBlock,
    FusedKind,
    FusedOp,
    FusedPart,
    fits_function,
    fused_block,
)
from memory_planner.plan import Plan
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from tests.memory_planner.toy import toy_program
from toolchain.model.packing import Packing
from toolchain.model.program import OpKind, Program, ProgramShape

SIRACUSA = load_target("siracusa")
SHAPE = ProgramShape(64, 96, 2, 4, 2, 16, 97, 32)
WIDE = ProgramShape(256, 768, 2, 4, 2, 64, 97, 32)
# norm q k v rope append attention merge o residual, norm gate up swiglu down residual
HALVES = [(FusedKind.ATTENTION, 0, 10), (FusedKind.MLP, 10, 16)]


def planned(
    group_size: int = 64,
    choice: EngineChoice = EngineChoice.NEUREKA,
    bits: Mapping[str, int] | None = None,
    shape: ProgramShape = SHAPE,
) -> tuple[Program, Plan]:
    program = toy_program(shape, packing=Packing.NIBBLE, group_size=group_size)
    names = [op.id for op in program.ops if op.kind in (OpKind.LINEAR, OpKind.EMBED)]
    wish = EngineWish(choice, {**dict.fromkeys(names, 4), **(bits or {})})
    chosen = choose_engines(program, SIRACUSA, wish)
    return chosen.program, plan_memory(chosen.program, SIRACUSA)


def spans(block: FusedBlock) -> list[tuple[FusedKind, int, int]]:
    return [(item.kind, item.first, item.last) for item in block.ops]


def test_both_halves_of_a_block() -> None:
    block = fused_block(*planned())
    assert spans(block) == HALVES
    assert block.ahead
    assert block.measures  # nobody has told the first norm of the first block
    assert not any(item.measures for item in block.ops)
    attention, mlp = block.ops
    assert [(part.place, part.first) for part in attention.linears] == [
        (1, True),
        (2, False),
        (3, False),
        (8, True),
    ]
    assert [part.place for part in mlp.linears] == [11, 12, 14]


def test_norm_head_and_argmax_behind_the_blocks() -> None:
    program, plan = planned()
    assert plan.engine is not None
    part = FusedPart(
        1, True, len(plan.engine.chains[-1].jobs), (1,) * len(plan.engine.chains[-1].jobs)
    )
    assert plan.engine.chains[-1].linears[0].op == "lm_head"
    assert fused_block(program, plan).head == FusedOp(FusedKind.HEAD, 0, 3, (part,))
    longer = replace(program, ops=(*program.ops, program.ops[-1]))
    assert fused_block(longer, plan).head is None


def test_a_head_of_the_cores_runs_op_by_op() -> None:
    program, plan = planned()
    *others, head, last = program.ops
    assert head.role == "lm_head"
    assert (
        fused_block(replace(program, ops=(*others, replace(head, id="other"), last)), plan).head
        is None
    )


@pytest.mark.parametrize("shape", [WIDE, replace(WIDE, hidden=384, ffn=1024, heads=6, kv_heads=6)])
def test_wide_blocks_have_as_few_jobs_as_functions_take(shape: ProgramShape) -> None:
    """Eight per group: more would overlap more rows with the engine, but cost both functions."""
    program, plan = planned(shape.hidden, shape=shape)
    assert spans(fused_block(program, plan)) == HALVES
    assert plan.engine is not None
    ops = {op.id: op for op in program.ops}
    for chain in plan.engine.chains:
        layout = program.engine_layout_of(ops[chain.linears[0].op])
        assert layout is not None
        assert len(chain.jobs) <= MOST_JOBS * layout.groups


def test_every_job_is_waited_for_once() -> None:
    program, plan = planned()
    assert plan.engine is not None
    waited = 0
    for item in fused_block(program, plan).ops:
        for part in item.linears:
            waited = part.waited + (0 if part.first else waited)
            op = program.ops[part.place + 1].id  # behind the embedding
            chain = next(c for c in plan.engine.chains if op in [e.op for e in c.linears])
            assert waited <= len(chain.jobs)
            if op == chain.linears[-1].op:
                assert waited == len(chain.jobs)


def test_cores_alone_run_op_by_op() -> None:
    assert fused_block(*planned(choice=EngineChoice.CORES)) == FusedBlock()


def test_blocks_must_be_alike() -> None:
    """Other bits in one block: its linears differ, and what holds them runs op by op."""
    program, plan = planned(bits={"l01.mlp.down_proj": 3})
    block = fused_block(program, plan)
    assert spans(block) == HALVES[:1]
    assert not block.ahead
    assert block.ops[0].measures  # the residual of the block before told nothing
    assert not block.measures
    assert block.head
    assert block.head.measures


def test_any_number_of_groups() -> None:
    """64 inputs in groups of 4: 16 jobs of every linear."""
    assert spans(fused_block(*planned(group_size=4))) == HALVES


def test_sums_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """q, k and v have no room together, nor have gate and up: each in turn, in the same bytes."""
    monkeypatch.setattr(engine_chains, "SHARE", 60)
    program, plan = planned(group_size=16)
    block = fused_block(program, plan)
    assert spans(block) == HALVES
    begins = [[part.begins for part in item.linears] for item in block.ops]
    assert begins == [[4, 4, 4, 4], [4, 4, 6]]
    assert plan.engine is not None
    chain = plan.engine.chains[0]
    pieces = [piece for linear in chain.linears for piece in linear.pieces]
    assert [(each.needed, each.before, each.after) for each in pieces] == [
        (4, 4, 4),
        (8, 8, 8),
        (12, 12, 12),
    ]
    assert {each.accumulators for each in pieces} == {0}
    early = replace(chain.linears[0], pieces=(replace(pieces[0], after=8),))
    chains = (replace(chain, linears=(early, *chain.linears[1:])), *plan.engine.chains[1:])
    wrong = replace(plan, engine=replace(plan.engine, chains=chains))
    assert not validate_plan(program, SIRACUSA, plan)
    problems = validate_plan(program, SIRACUSA, wrong)
    assert {each.allowed for each in problems} == {"jobs that leave it alone"}


@pytest.mark.parametrize("group_size", [64, 16])
def test_many_tiles_keep_their_tables_beside_the_engine(group_size: int) -> None:
    program, plan = planned(group_size=group_size)
    assert plan.engine is not None
    linear = plan.engine.chains[1].linears[0]
    layout = program.engine_layout_of(next(op for op in program.ops if op.id == linear.op))
    assert layout is not None
    most = MOST_JOBS * layout.groups

    def fits(jobs: int) -> bool:
        pieces = tuple(replace(each, before=jobs, after=jobs) for each in linear.pieces)
        return fits_function(replace(linear, pieces=pieces), layout, jobs)

    assert fits(most)
    assert not fits(most + 1)


@pytest.mark.parametrize("change", ["accumulators", "needed"])
def test_sums_that_move_are_not_fused(change: str) -> None:
    program, plan = planned()
    assert plan.engine is not None
    chain = plan.engine.chains[1]  # o of the first block
    (linear,) = chain.linears
    piece = linear.pieces[0]
    moved = (
        replace(piece, accumulators=piece.accumulators + 4)
        if change == "accumulators"
        else replace(piece, before=0)
    )
    other = replace(chain, linears=(replace(linear, pieces=(moved, *linear.pieces[1:])),))
    chains = (plan.engine.chains[0], other, *plan.engine.chains[2:])
    plan = replace(plan, engine=replace(plan.engine, chains=chains))
    found = fused_block(program, plan).ops
    assert [item.kind for item in found] == [FusedKind.NORM_ROWS, FusedKind.MLP]
    part = found[0].linears[0]
    assert found[0] == FusedOp(FusedKind.NORM_ROWS, 0, 4, (part, *found[0].linears[1:]))
    assert found[1].measures
