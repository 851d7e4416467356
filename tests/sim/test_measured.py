"""Figures that were measured on the SoC's simulator against the formulas.

DMA transfers within a tenth, programming and polling included. Whole tokens of the port. Kernels in
isolation are in test_bringup.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from memory_planner.engines import EngineChoice
from memory_planner.target_file import load_target
from memory_planner.tile_time import transfer_cycles
from sim.latency import estimate
from toolchain.options import bundled_model
from toolchain.pipeline import CompileOptions, compile_model

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


def within_a_tenth(value: float) -> object:
    return pytest.approx(value, rel=0.1)


@pytest.mark.parametrize(("source", "size", "cycles"), TRANSFERS)
def test_transfer(source: str, size: int, cycles: int) -> None:
    assert transfer_cycles(SIRACUSA.link(source), size) == within_a_tenth(cycles)


@pytest.mark.parametrize(("region", "cycles"), LOADS)
def test_load(region: str, cycles: float) -> None:
    assert SIRACUSA.region(region).load_cycles == cycles


# Bundled model, position 1, on the GVSoC siracusa model: cycles by kind of op, all layers.
BUNDLED = {
    "linear": 356_917,
    "rmsnorm": 25_588,
    "rope": 10_488,
    "kv_append": 17_510,
    "attention": 18_160,
    "attention_merge": 9_771,
    "residual_add": 4_024,
    "swiglu": 26_084,
}


def test_token_of_the_bundled_model(tmp_path: Path) -> None:
    """Within a tenth in total and a fifth by kind of op, linears on the engine."""
    options = CompileOptions(engine=EngineChoice.NEUREKA)
    compiled = compile_model(bundled_model(), "siracusa", options, lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    ops = estimate(bundle.program, bundle.plan, bundle.target, 1).ops
    for kind, measured in BUNDLED.items():
        modelled = sum(op.total_cycles for op in ops if op.kind == kind)
        assert modelled == pytest.approx(measured, rel=0.2), kind
    total = sum(op.total_cycles for op in ops if op.kind in BUNDLED)
    assert total == within_a_tenth(sum(BUNDLED.values()))


def test_conservative_reading_is_the_slower_one() -> None:
    """Cold code was measured at 400 to 1300 cycles, contention at 0 to 20 %."""
    slower = SIRACUSA.conservative
    assert slower is not None
    assert slower.costs.cold_code == 1300
    for kind, fixed in COSTS.fixed.items():  # measured with cold code: not counted twice
        assert slower.costs.op_end(kind) == 1.2 * COSTS.barrier + max(fixed, 1300)
    assert slower.costs.rmsnorm == pytest.approx(1.2 * COSTS.rmsnorm)
    for usual, slow in zip(SIRACUSA.links, slower.links, strict=True):
        assert slow.bytes_per_cycle <= usual.bytes_per_cycle
