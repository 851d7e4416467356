"""Figures that were measured on the SoC's simulator against the formulas.

DMA transfers within a tenth, programming and polling included. Whole tokens are in
test_measured_tokens.py, kernels in isolation in test_bringup.py.
"""

from __future__ import annotations

import pytest

from memory_planner.target_file import load_target
from memory_planner.tile_time import transfer_cycles

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
