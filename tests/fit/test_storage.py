"""N:M patterns that were found: stored where that is faster or saves transfers, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.engine_cost import core_cycles
from memory_planner.engines import EngineChoice, off_chip_cycles
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.planner import draft_plan
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from tests.fit.tiny import tiny_config
from toolchain.fit.design import Design, build_program
from toolchain.fit.planning import plan_design
from toolchain.fit.storage import choose_storage
from toolchain.fit.width import width_report
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.nm_pattern import PATTERNS, Pattern
from toolchain.model.outline import weight_layouts
from toolchain.model.quant_settings import QuantConfig, SparseRule
from toolchain.model.sparse_packing import SparseLayout
from toolchain.model.sparsity import FOUND

SIRACUSA, RV32 = load_target("siracusa"), load_target("rv32")
HALF, QUARTER, MOST = Pattern(2, 4), Pattern(3, 4), Pattern(1, 8)
CONFIG = tiny_config(hidden=128, ffn=512, layers=4, head_dim=32)
QUANT = QuantConfig(4, -1)


def design(pattern: Pattern, quant: QuantConfig = QUANT) -> Design:
    """As a compile sees weights of which all projections have a pattern."""
    names = [name for name in weight_layouts(CONFIG, quant) if name.startswith("l")]
    found = {name: pattern for name in names if "." in name}
    return Design(CONFIG, quant, 16, patterns=found, engine=EngineChoice.CORES)


def cycles(chosen: Design, target: TargetSpec) -> float:
    """All linears on the cores, and what is off chip once over the bus."""
    program = build_program(chosen)
    layouts = [program.layout_of(op) for op in program.ops if op.kind.value == "linear"]
    work = sum(core_cycles(layout, target) for layout in layouts)
    return work + off_chip_cycles(target, draft_plan(program, target))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("target", [SIRACUSA, RV32])
def test_the_faster_one_is_stored(pattern: Pattern, target: TargetSpec) -> None:
    chosen = choose_storage(design(pattern), target)
    dense = weight_layouts(CONFIG, QUANT)
    for name, found in chosen.found.items():
        one, two = (
            core_cycles(each, target) for each in (sparse_layout(dense[name], found), dense[name])
        )
        assert (name in chosen.patterns) == (one <= two)
        verdict = "faster than dense" if one <= two else "dense is faster"
        assert chosen.storage[name] == f"{verdict}: {one:,.0f} cycles sparse, {two:,.0f} dense"


def test_three_of_four_pays_and_one_of_eight_does_not() -> None:
    assert len(choose_storage(design(QUARTER), SIRACUSA).patterns) == 28
    assert not choose_storage(design(MOST), SIRACUSA).patterns


def test_what_was_asked_for_is_stored() -> None:
    for rule in (FOUND, SparseRule("l*.*", (MOST,), required=True)):
        chosen = choose_storage(design(MOST, replace(QUANT, sparse=(rule,))), SIRACUSA)
        assert len(chosen.patterns) == 28
        assert not chosen.storage


def test_bytes_count_when_they_travel_from_off_the_chip() -> None:
    """3 bits of 8 are saved, and the bus is slow: no choice of all or nothing is better."""
    sizes = {"mram": 500_000, "tile_sram": 200_000}
    narrow = limited_target(SIRACUSA, MemoryLimits(sizes, ()))
    whole = design(HALF, replace(QUANT, bits=8))
    mine = choose_storage(whole, narrow)
    assert mine.patterns
    assert any(why.startswith("smaller") for why in mine.storage.values())
    none = replace(mine, patterns={})
    assert cycles(mine, narrow) <= min(cycles(whole, narrow), cycles(none, narrow))


def test_bytes_count_when_nothing_else_fits() -> None:
    full = build_program(replace(design(HALF), patterns={}))
    plan = draft_plan(full, RV32)
    used = plan.region("flash").blob_size
    narrow = limited_target(RV32, MemoryLimits({"flash": used - 8192}, ()))
    chosen = choose_storage(design(HALF), narrow)
    assert 0 < len(chosen.patterns) < 28
    assert plan_design(chosen, narrow).fits
    hopeless = limited_target(RV32, MemoryLimits({"flash": 65536}, ()))
    assert len(choose_storage(design(HALF), hopeless).patterns) == 28


def test_the_report_says_why() -> None:
    for pattern, stored in ((QUARTER, "sparse"), (MOST, "dense")):
        chosen = choose_storage(design(pattern), SIRACUSA)
        outcome = plan_design(chosen, SIRACUSA)
        entries = width_report(chosen, outcome.program)
        assert len(entries) == 7
        for entry in entries:
            assert (entry["stored"], entry["matrices"]) == (stored, 4)
            assert "cycles sparse" in entry["reason"]
            assert (entry["saved_bytes"] > 0) == (stored == "sparse")


def test_the_engine_competes_with_the_faster_storage() -> None:
    for pattern in (QUARTER, MOST):
        chosen = choose_storage(replace(design(pattern), engine=EngineChoice.AUTO), SIRACUSA)
        outcome = plan_design(chosen, SIRACUSA)
        dense = weight_layouts(CONFIG, QUANT)
        for each in outcome.decisions:
            if each.op == "lm_head":
                continue
            best = min(
                core_cycles(layout, SIRACUSA)
                for layout in (dense[each.op], sparse_layout(dense[each.op], pattern))
            )
            assert each.core_cycles == round(best)
            assert each.engine == ("N-EUREKA" if each.engine_cycles < best else "cores")
        layouts = [spec.layout for spec in outcome.program.tensors.values()]
        assert not any(isinstance(layout, SparseLayout) for layout in layouts)
