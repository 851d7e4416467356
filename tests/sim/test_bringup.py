"""Kernels in isolation on the SoC's simulator, on one core and on eight, within a tenth.

The formulas are those of the cycle model, work, split and barriers; the constants are in
bringup.toml, one set for both columns, because those of the target file describe other kernels
inside a token (docs/estimate.md 6).
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from memory_planner.planner import plan_memory
from memory_planner.target import Costs, TargetSpec
from memory_planner.target_file import load_target
from memory_planner.tile_time import attention_runs, record_cycles
from sim.cycle_model import op_cycles, reduction_cycles
from sim.op_cycles import Context
from tests.memory_planner.toy import toy_program
from toolchain.model.adapters import with_adapters
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import OpKind, ProgramShape

SIRACUSA = load_target("siracusa")
CONSTANTS = tomllib.loads((Path(__file__).parent / "bringup.toml").read_text(encoding="utf-8"))
N, ROW = 512, 128  # elements of a vector, scores of a row of attention
SHAPE = ProgramShape(
    hidden=N, ffn=N, layers=1, heads=8, kv_heads=8, head_dim=64, vocab=64, context=ROW
)


def constant(build: str, name: str) -> float:
    return float({**CONSTANTS["common"], **CONSTANTS[build]}[name]["value"])


def target(cores: int, build: str) -> TargetSpec:
    """Siracusa with warm kernels: no fixed cost of an op, all memory as fast as L1."""
    own: Costs = replace(
        SIRACUSA.costs,
        mac={**SIRACUSA.costs.mac, "byte": constant(build, "mac_byte")},
        linear_row=constant(build, "linear_row"),
        quantize=constant(build, "quantize"),
        rmsnorm=constant(build, "rmsnorm"),
        residual_add=constant("plain", "residual_add"),
        attention_mac=0.0,
        attention_score=constant("plain", "softmax"),
        attention_head=0.0,
        attention_chunk=0.0,
        attention_left=0.0,
        reduction=constant(build, "reduction"),
        barrier=constant(build, "barrier"),
        fixed={},
        cold_code=0.0,
    )
    load = SIRACUSA.region("l1").load_cycles
    regions = tuple(replace(region, load_cycles=load) for region in SIRACUSA.regions)
    return replace(SIRACUSA, cores=cores, costs=own, regions=regions)


def cycles_of(kind: OpKind, cores: int, build: str) -> float:
    """The first op of a kind in a block of vectors of 512, by the cycle model."""
    spec, program = target(cores, build), with_adapters(toy_program(SHAPE), {"attn.q_proj": N})
    context = Context(program, plan_memory(program, spec), spec, ROW - 1)
    return op_cycles(context, next(op for op in program.ops if op.kind is kind)).total


MEASURED = [
    (OpKind.QUANTIZE, "plain", 9250, 1246),
    (OpKind.QUANTIZE, "xpulp", 6150, 888),
    (OpKind.RMSNORM, "plain", 14650, 1920),
    (OpKind.RMSNORM, "xpulp", 9410, 1350),
    (OpKind.RESIDUAL_ADD, "plain", 5170, 640),
]


@pytest.mark.parametrize(("kind", "build", "one", "eight"), MEASURED)
def test_vector_of_512(kind: OpKind, build: str, one: int, eight: int) -> None:
    assert cycles_of(kind, 1, build) == pytest.approx(one, rel=0.1)
    assert cycles_of(kind, 8, build) == pytest.approx(eight, rel=0.1)


@pytest.mark.parametrize(
    ("build", "one", "eight"), [("plain", 350_000, 44_000), ("xpulp", 38_200, 4_840)]
)
def test_matrix_vector_product(build: str, one: int, eight: int) -> None:
    """256 x 256 int8, without requantization; the cores meet at the end."""
    layout = WeightLayout(Packing.BYTE, 256, 256, 256)
    for cores, measured in ((1, one), (8, eight)):
        spec = target(cores, build)
        records = -(-layout.records // cores)
        cycles = records * record_cycles(spec, layout) + spec.costs.barrier
        assert cycles == pytest.approx(measured, rel=0.1)


def test_softmax_of_128() -> None:
    """One row on one core, one row split over eight (maximum and sum are exchanged), a row each."""

    def split(cores: int) -> float:
        costs = target(cores, "plain").costs
        return reduction_cycles(costs, costs.attention_score, ROW, cores) + costs.reduction

    assert split(1) == pytest.approx(5400, rel=0.1)
    assert split(8) == pytest.approx(979, rel=0.1)
    spec = target(8, "plain")
    runs = attention_runs(SHAPE, spec.link("tile_sram"), spec, ROW, ROW)
    rows = sum(run.work for run in runs)  # one head, that is one row, per core
    assert rows / SHAPE.heads == pytest.approx(659, rel=0.1)


def test_barrier() -> None:
    assert 10 <= constant("plain", "barrier") <= 28
    assert 10 <= SIRACUSA.costs.barrier <= 28


def test_constants_are_documented() -> None:
    for table in CONSTANTS.values():
        for entry in table.values():
            assert set(entry) == {"value", "unit", "source"}
