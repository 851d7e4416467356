"""Every figure that was measured on the SoC's simulator against the formulas: within a tenth.

DMA transfers and kernels in plain C; programming and polling are part of a transfer, requantization
is not part of the matrix-vector product.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from memory_planner.tile_time import record_cycles, transfer_cycles
from sim.cycle_model import reduction_cycles
from sim.latency import estimate
from tests.memory_planner.toy import toy_program
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import ProgramShape

SIRACUSA = load_target("siracusa")
COSTS = SIRACUSA.costs
TRANSFERS = [
    ("l2", 256, 85),
    ("l2", 1024, 147),
    ("l2", 4096, 529),
    ("l2", 8192, 1039),
    ("l2", 32768, 4111),
    ("l2", 32768, 4276),  # from L1: one figure for both directions
    ("mram", 32768, 4131),
    ("tile_sram", 32768, 4147),
]
LOADS = [("l1", 5.8), ("mram", 9.5), ("tile_sram", 9.5), ("l2", 19.5)]
REDUCTIONS = [
    ("quantize", COSTS.quantize, 1, 9250),
    ("quantize", COSTS.quantize, 8, 1246),
    ("rmsnorm", COSTS.rmsnorm, 1, 14650),
    ("rmsnorm", COSTS.rmsnorm, 8, 1920),
]


def within_a_tenth(value: float) -> object:
    return pytest.approx(value, rel=0.1)


def in_fast_memory(cores: int) -> TargetSpec:
    """Siracusa with all data where the kernels were measured."""
    load = SIRACUSA.region("l1").load_cycles
    regions = tuple(replace(region, load_cycles=load) for region in SIRACUSA.regions)
    return replace(SIRACUSA, regions=regions, cores=cores)


@pytest.mark.parametrize(("source", "size", "cycles"), TRANSFERS)
def test_transfer(source: str, size: int, cycles: int) -> None:
    assert transfer_cycles(SIRACUSA.link(source), size) == within_a_tenth(cycles)


@pytest.mark.parametrize(("region", "cycles"), LOADS)
def test_load(region: str, cycles: float) -> None:
    assert SIRACUSA.region(region).load_cycles == cycles


@pytest.mark.parametrize(("cores", "cycles"), [(1, 350_000), (8, 44_000)])
def test_matrix_vector_product(cores: int, cycles: int) -> None:
    """256 x 256 int8 in L1, four rows at a time."""
    layout = WeightLayout(Packing.BYTE, 256, 256, 256)
    records = -(-layout.records // cores)
    assert records * record_cycles(SIRACUSA, layout) == within_a_tenth(cycles)


@pytest.mark.parametrize(("kernel", "cost", "cores", "cycles"), REDUCTIONS)
def test_vector_of_512_with_a_reduction(kernel: str, cost: float, cores: int, cycles: int) -> None:
    assert reduction_cycles(COSTS, cost, 512, cores) == within_a_tenth(cycles), kernel


@pytest.mark.parametrize(("cores", "cycles"), [(1, 5170), (8, 640)])
def test_residual_add_of_512(cores: int, cycles: int) -> None:
    assert COSTS.residual_add * 512 / cores == within_a_tenth(cycles)


def test_softmax_of_128() -> None:
    """On one core; a row on each core, per row; one row over all cores with two reductions."""
    row = 128 * COSTS.attention_score
    assert row == within_a_tenth(5400)
    assert row / 8 == within_a_tenth(659)
    split = row / 8 + 2 * COSTS.reduction + COSTS.barrier
    assert split == within_a_tenth(979)


def test_barrier_is_within_the_measured_range() -> None:
    assert 10 <= COSTS.barrier <= 28


@pytest.mark.parametrize("cores", [1, 8])
@pytest.mark.parametrize(
    ("kind", "role", "cycles"),
    [
        ("rmsnorm", "attn.norm", {1: 14650, 8: 1920}),
        ("residual_add", "attn.residual", {1: 5170, 8: 640}),
    ],
)
def test_ops_of_a_program(kind: str, role: str, cycles: dict[int, int], cores: int) -> None:
    """The same kernels through the whole estimate; the barrier comes after the kernel."""
    target = in_fast_memory(cores)
    program = toy_program(ProgramShape(512, 512, 1, 8, 8, 64, 64, 16))
    report = estimate(program, plan_memory(program, target), target, 10)
    op = next(each for each in report.ops if each.id == f"l00.{role}")
    assert op.kind == kind
    assert op.total_cycles - COSTS.op_end == within_a_tenth(cycles[cores])


def test_conservative_reading_is_the_slower_one() -> None:
    """Cold code was measured at 400 to 1300 cycles, contention at 0 to 20 %."""
    slower = SIRACUSA.conservative
    assert slower is not None
    assert slower.costs.cold_code == 1300
    assert slower.costs.rmsnorm == pytest.approx(1.2 * COSTS.rmsnorm)
    for usual, slow in zip(SIRACUSA.links, slower.links, strict=True):
        assert slow.bytes_per_cycle <= usual.bytes_per_cycle
