"""Linears as jobs in the byte-true machine: the same integers, whatever multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen.blob import build_blobs
from memory_planner.engine_plan import EnginePlan
from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from sim.machine import run_steps
from sim.neureka_config import JobError
from sim.session import Session, read_constants
from tests.memory_planner.engines import SIRACUSA, Lowered, lowered, planned
from toolchain.model.errors import InternalError
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode, Program
from toolchain.model.quant_settings import Override
from toolchain.model.quantize import QuantConfig

TOKENS = (1, 5, 96, 0)
Output = tuple[str, str, bytes]
MIXED = dict(
    zip(SITES, (ActMode.A8, ActMode.A16, ActMode.A16, ActMode.A8, ActMode.A16), strict=True)
)


def outputs(program: Program, plan: Plan) -> list[Output]:
    records = run_steps(program, plan, build_blobs(program, plan), TOKENS)
    return [(record.op, record.tensor, record.value.tobytes()) for record in records]


def small(size: int) -> TargetSpec:
    return limited_target(SIRACUSA, MemoryLimits({"l1": size}, ()))


# Nothing divides anything: not 9, 28, 252 or 32. Two rows per case: the shape, and how it is run.
CASES: list[tuple[dict[str, Any], QuantConfig, Any, TargetSpec]] = [
    (
        {"hidden_size": 85, "intermediate_size": 100, "num_heads": 3, "num_kv_heads": 1},
        QuantConfig(3, -1, overrides=(Override("l00.*", 5), Override("*.down_proj", 2))),
        ActMode.A16,
        SIRACUSA,
    ),
    (
        {"hidden_size": 100, "intermediate_size": 256, "num_heads": 4, "num_kv_heads": 2},
        QuantConfig(6, 32, embed_bits=4, head_bits=4),
        ActMode.A8,
        SIRACUSA,
    ),
    (
        {"hidden_size": 129, "intermediate_size": 70, "num_heads": 2, "num_kv_heads": 2},
        QuantConfig(7, 64, overrides=(Override("l01.attn.*", 4, -1),)),
        MIXED,
        SIRACUSA,
    ),
    (
        {"hidden_size": 256, "intermediate_size": 24, "num_heads": 2, "num_kv_heads": 1}
        | {"vocab_size": 1501, "tied": False},
        QuantConfig(8, -1),
        ActMode.A16,
        small(26000),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=["bits", "groups", "mixed", "tiles"])
def test_every_choice_gives_the_same_tensors(
    tmp_path: Path, case: tuple[dict[str, Any], QuantConfig, Any, TargetSpec]
) -> None:
    shape, quant, modes, target = case
    model = lowered(tmp_path, quant, modes, **{"vocab_size": 97, "head_dim": 6, **shape})
    expected = outputs(model.program, planned(model, EngineChoice.CORES, target)[1])
    for choice in (EngineChoice.NEUREKA, EngineChoice.AUTO):
        assigned, plan = planned(model, choice, target)
        assert assigned.layouts
        assert outputs(assigned.program, plan) == expected
    blobs = build_blobs(assigned.program, plan)
    found: list[Output] = []
    session = Session(
        replace(assigned.program, constants={}),
        read_constants(assigned.program, plan, blobs),
        lambda op, name, value: found.append((op.id, name, value.reshape(-1))),  # type: ignore[arg-type]
    )
    for token in TOKENS:
        session.forward([token])
    for (op, name, value), (op_id, tensor, data) in zip(found, expected, strict=True):
        spec = assigned.program.tensors[name]
        assert (op, name) == (op_id, tensor)
        assert np.asarray(value).astype(spec.dtype.value).tobytes() == data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return lowered(
        tmp_path_factory.mktemp("model"),
        QuantConfig(4, -1),
        hidden_size=100,
        intermediate_size=130,
        num_layers=1,
        head_dim=6,
    )


def with_register(engine: EnginePlan, index: int, change: int) -> EnginePlan:
    """The first job with another value of one register."""
    chain = engine.chains[0]
    words: Sequence[int] = chain.jobs[0].registers
    changed = tuple(word ^ change if i == index else word for i, word in enumerate(words))
    jobs = (replace(chain.jobs[0], registers=changed), *chain.jobs[1:])
    return replace(engine, chains=(replace(chain, jobs=jobs), *engine.chains[1:]))


# (register, bits to flip): what a driver gets wrong.
WRONG = {
    "weights": (0, 32),
    "input": (1, 1),
    "output": (2, 4),
    "input pixel stride": (6, 1),
    "input row stride": (7, 1),
    "output pixel stride": (10, 4),
    "weight stride": (13, 32),
    "input channels of the last tile": (15, 1),
    "output channels of the last tile": (15, 1 << 16),
    "input rows": (17, 1 << 16),
    "tiles": (18, 2),
    "Wmin": (21, 1),
    "mask": (22, 16),
    "bits": (23, 1),
    "signedness": (23, 1 << 26),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_register_is_caught(model: Lowered, name: str) -> None:
    """The machine stops, or its tensors differ."""
    assigned, plan = planned(model)
    assert plan.engine is not None
    expected = outputs(assigned.program, plan)
    wrong = replace(plan, engine=with_register(plan.engine, *WRONG[name]))
    try:
        found = outputs(assigned.program, wrong)
    except (InternalError, JobError):
        return
    assert found != expected


def test_sums_that_no_job_has_written_are_caught(model: Lowered) -> None:
    assigned, plan = planned(model)
    assert plan.engine is not None
    chain = plan.engine.chains[0]
    first = chain.linears[0]
    early = replace(first, pieces=tuple(replace(piece, needed=0) for piece in first.pieces))
    chains = (replace(chain, linears=(early, *chain.linears[1:])), *plan.engine.chains[1:])
    with pytest.raises(InternalError, match="does not hold its operand"):
        outputs(assigned.program, replace(plan, engine=replace(plan.engine, chains=chains)))


def test_an_input_that_a_job_does_not_find_is_caught(model: Lowered) -> None:
    """Behind the arena nothing was ever written."""
    assigned, plan = planned(model)
    assert plan.engine is not None
    engine = plan.engine
    moved = replace(engine, addresses={**engine.addresses, "l1": engine.addresses["l1"] + 64})
    with pytest.raises(InternalError):
        outputs(assigned.program, replace(plan, engine=moved))
