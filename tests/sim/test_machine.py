"""The byte-true machine: equal to the fast session, and blind to nothing in a damaged plan."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen.blob import build_blobs
from memory_planner.plan import Placement, Plan
from memory_planner.planner import plan_memory
from memory_planner.target_file import load_target
from sim.machine import Machine, run_steps
from sim.memory import MemoryFaultError
from sim.prefill import parts_of
from sim.session import Session, read_constants
from tests.model.tiny import write_model
from toolchain.model.checkpoint import load_model
from toolchain.model.lower import lower_model
from toolchain.model.outline import SITES, LowerConfig, outline_program
from toolchain.model.program import ActMode, Program
from toolchain.model.quantize import QuantConfig, quantize_model

TOKENS = (1, 5, 96, 0, 7)


def odd_program(directory: Path, mode: ActMode = ActMode.A16, bits: int = 4) -> Program:
    """A model of awkward shape: 3 heads of 6 on one KV head, FFN 100, vocabulary 97, context 5."""
    write_model(
        directory,
        hidden_size=18,
        intermediate_size=100,
        num_layers=2,
        num_heads=3,
        num_kv_heads=1,
        head_dim=6,
        vocab_size=97,
        context=5,
        tied=False,
    )
    quant = quantize_model(load_model(directory), QuantConfig(bits=bits, group_size=16))
    return lower_model(quant, LowerConfig(5, dict.fromkeys(SITES, mode)))


@pytest.mark.parametrize("target", ["siracusa", "rv32"])
@pytest.mark.parametrize("mode", list(ActMode))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_machine_and_session_give_the_same_integers(
    tmp_path: Path, target: str, mode: ActMode, bits: int
) -> None:
    """Every output of every op of every step, from the blobs' bytes."""
    program = odd_program(tmp_path / "model", mode, bits)
    plan = plan_memory(program, load_target(target))
    blobs = build_blobs(program, plan)
    expected: list[tuple[str, str, np.ndarray]] = []  # type: ignore[type-arg]
    session = Session(
        replace_constants(program),
        read_constants(program, plan, blobs),
        lambda op, name, value: expected.append((op.id, name, value)),
    )
    for token in TOKENS:
        session.forward([token])
    records = list(run_steps(program, plan, blobs, TOKENS))
    assert len(records) == len(expected)
    for record, (op_id, name, value) in zip(records, expected, strict=True):
        assert (record.op, record.tensor) == (op_id, name)
        assert (record.value.reshape(-1) == value.reshape(-1)).all(), (op_id, name)


def replace_constants(program: Program) -> Program:
    """The program as a bundle holds it: without constants."""
    return replace(program, constants={})


def test_prefill_equals_token_by_token(tmp_path: Path) -> None:
    program = odd_program(tmp_path / "model")
    together = Session(program, program.constants).forward(TOKENS)
    session = Session(program, program.constants)
    assert (np.concatenate([session.forward([t]) for t in TOKENS]) == together).all()


def test_a_prompt_has_the_logits_of_its_last_token_alone(tmp_path: Path) -> None:
    program = odd_program(tmp_path / "model")
    singles = Session(program, program.constants)
    wanted = [singles.forward([token])[0] for token in TOKENS]
    session = Session(program, program.constants)
    assert (session.prefill(TOKENS[:3]) == wanted[2]).all()
    assert session.position == 3
    with pytest.raises(IndexError, match="longer than the context"):
        session.prefill(TOKENS[:3])
    assert (session.prefill(TOKENS[3:]) == wanted[4]).all()


@pytest.mark.parametrize("target", ["siracusa", "rv32"])
def test_the_machine_runs_prompts(tmp_path: Path, target: str) -> None:
    """Every output of every op that a prompt runs, and none behind the blocks but the last."""
    program = odd_program(tmp_path / "model")
    plan = plan_memory(program, load_target(target))
    check_prompts(program, plan, (2, 1, 2))


def check_prompts(program: Program, plan: Plan, lengths: tuple[int, ...]) -> None:
    """Prompts of these lengths against single steps, by the machine."""
    blobs, tokens = build_blobs(program, plan), TOKENS[: sum(lengths)]
    wanted = {
        (record.step, record.op, record.tensor): record.value
        for record in run_steps(program, plan, blobs, tokens)
    }
    machine, ends = Machine(program, plan, blobs), list(accumulate(lengths))
    for first, end in zip([0, *ends], ends, strict=False):
        for position, (op, name, value) in machine.prefill(tokens[first:end]):
            assert (wanted.pop((position, op.id, name)) == value).all(), (position, op.id, name)
    behind = {op.id for op in parts_of(program).behind}
    last = {end - 1 for end in ends}
    assert {(step, op) for step, op, _ in wanted} == {
        (step, op) for step in range(len(tokens)) for op in behind if step not in last
    }
    with pytest.raises(IndexError, match="longer than the context"):
        list(machine.prefill([1] * (program.shape.context - len(tokens) + 1)))


def moved(plan: Plan, name: str, offset: int) -> Plan:
    placement: Placement = replace(plan.placements[name], offset=offset)
    return replace(plan, placements={**plan.placements, name: placement})


@pytest.mark.parametrize("victim", ["attn.q", "scratch.attn.norm", "attn.merge.q", "mlp.gate"])
def test_overlapping_buffers_fault(tmp_path: Path, victim: str) -> None:
    """A buffer laid over the residual stream is caught at the next read (or at its own end)."""
    program = odd_program(tmp_path / "model")
    plan = plan_memory(program, load_target("siracusa"))
    broken = moved(plan, victim, offset=plan.placements["resid"].offset)
    with pytest.raises(MemoryFaultError, match=r"resid|outside the region"):
        list(run_steps(program, broken, build_blobs(program, plan), TOKENS))


def test_a_weight_that_is_not_there_faults(tmp_path: Path) -> None:
    program = odd_program(tmp_path / "model")
    plan = plan_memory(program, load_target("rv32"))
    blobs = build_blobs(program, plan)
    end = plan.region("flash").blob_base + plan.region("flash").blob_size
    broken = moved(plan, "l01.mlp.up_proj.weight", offset=end - 64)
    with pytest.raises(MemoryFaultError, match=r"l01\.mlp\.up_proj\.weight"):
        list(run_steps(program, broken, blobs, TOKENS))


def test_reading_rows_that_no_step_wrote_faults(tmp_path: Path) -> None:
    """The KV cache is not zeroed: attention over a missing row must not pass unseen."""
    program = odd_program(tmp_path / "model")
    plan = plan_memory(program, load_target("rv32"))
    blobs = build_blobs(program, plan)
    machine = Machine(program, plan, blobs)
    machine.position = 1
    with pytest.raises(MemoryFaultError, match=r"kv\.k"):
        list(machine.step(3))


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int | bool]:
    kv_heads = draw(st.integers(1, 3))
    return {
        "hidden_size": draw(st.integers(1, 40)),
        "intermediate_size": draw(st.integers(1, 60)),
        "num_layers": draw(st.integers(1, 2)),
        "num_kv_heads": kv_heads,
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "head_dim": 2 * draw(st.integers(1, 6)),
        "vocab_size": draw(st.integers(90, 120)),
        "context": draw(st.integers(1, 9)),
        "tied": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=shapes(),
    bits=st.integers(2, 8),
    group_size=st.sampled_from([-1, 4, 7, 32]),
    mode=st.sampled_from(list(ActMode)),
)
def test_random_shapes_run_on_both_targets(
    tmp_path_factory: pytest.TempPathFactory,
    shape: dict[str, int | bool],
    bits: int,
    group_size: int,
    mode: ActMode,
) -> None:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory, **shape)  # type: ignore[arg-type]
    model = load_model(directory)
    quant_config = QuantConfig(bits=bits, group_size=group_size)
    quant = quantize_model(model, quant_config)
    config = LowerConfig(int(shape["context"]), dict.fromkeys(SITES, mode))
    program = lower_model(quant, config)
    outline = outline_program(model.config, quant_config, config)
    assert list(outline.tensors.items()) == list(program.tensors.items())
    assert outline.ops == program.ops
    tokens = np.random.default_rng(0).integers(0, int(shape["vocab_size"]), config.context).tolist()
    logits = Session(program, program.constants).forward(tokens)
    for target in ("siracusa", "rv32"):
        plan = plan_memory(program, load_target(target))
        assert plan_memory(outline, load_target(target)).regions == plan.regions
        blobs = build_blobs(program, plan)
        rows = [r.value for r in run_steps(program, plan, blobs, tokens) if r.tensor == "logits"]
        assert (np.stack(rows) == logits).all()
