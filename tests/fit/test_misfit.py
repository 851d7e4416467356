"""What does not fit: exact numbers, and remedies that were planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits, limited_target, without_off_chip
from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from tests.fit.tiny import tiny_config
from tests.model.tiny import write_model
from toolchain.cli import main
from toolchain.fit.design import Design, WhatIf, build_program
from toolchain.fit.knobs import FFN_STEP, knobs_of, step_of
from toolchain.fit.planning import fits, may_fit, plan_design
from toolchain.fit.remedies import Change, Remedy, find_remedies
from toolchain.fit.report import fit_report
from toolchain.fit.shapes import list_shapes, load_shape
from toolchain.fit.speed import OFF_CHIP_BYTES_PER_SECOND
from toolchain.model.names import linear_ids
from toolchain.model.program import Kind
from toolchain.model.quant_settings import QuantConfig

SIRACUSA = without_off_chip(load_target("siracusa"))
# 8-bit projections in groups of 8 for a target with an eighth of Siracusa's memory.
WIDE = Design(
    tiny_config(
        hidden=96, ffn=512, layers=4, heads=6, kv_heads=3, head_dim=16, vocab=900, context=512
    ),
    QuantConfig(bits=8, group_size=8),
    512,
)


def shrunk(target: TargetSpec, size: int, *names: str) -> TargetSpec:
    regions = tuple(
        replace(region, size=size) if region.name in names else region for region in target.regions
    )
    return replace(target, regions=regions)


def by_change(remedies: list[Remedy]) -> dict[str, Change]:
    """The single changes."""
    return {r.changes[0].knob.change: r.changes[0] for r in remedies if len(r.changes) == 1}


def report_of(design: Design, target: TargetSpec) -> dict[str, Any]:
    return fit_report(plan_design(design, target), find_remedies(design, target))


@pytest.mark.parametrize("name", [name for name in list_shapes() if name not in ("bundled",)])
def test_rows_sum_to_the_totals_fit_or_not(name: str) -> None:
    config = load_shape(name).config
    report = fit_report(plan_design(Design(config, QuantConfig(), 256), SIRACUSA))
    for region in report["regions"]:
        rows = [row["bytes"] for row in report["rows"] if row["region"] == region["name"]]
        assert sum(rows) == region["used"] == region["capacity"] - region["free"]
        assert min(rows) >= 0
    assert report["fits"] == all(region["free"] >= 0 for region in report["regions"])
    packed = [r["bytes"] for r in report["rows"] if r["category"] in ("weights", "scales")]
    copies = report["estimate"]["prefill"]["second_copies"] if report["fits"] else 0
    assert sum(packed) == report["bytes"]["packed"] + copies


def test_a_misfit_has_numbers() -> None:
    report = report_of(Design(load_shape("stories15m").config, QuantConfig(), 256), SIRACUSA)
    assert not report["fits"]
    (problem,) = report["problems"]
    (region,) = (r for r in report["regions"] if r["name"] == "tile_sram")
    assert problem["region"] == "tile_sram"
    assert problem["capacity"] == region["capacity"] == 4 << 20
    assert problem["need"] == region["used"]
    assert problem["excess"] == -region["free"] == report["off_chip"]["bytes"]
    assert problem["contributors"][0]["name"] == "embed.weight"
    assert f"{problem['need']:,}" in problem["found"]
    ms = 1000 * problem["excess"] / OFF_CHIP_BYTES_PER_SECOND
    assert report["off_chip"]["ms_per_token"] == pytest.approx(ms, abs=1e-3)
    assert report["off_chip"]["status"] == "assumed"


def test_contributors_sum_equal_blocks() -> None:
    report = report_of(Design(load_shape("llama-3.2-1b").config, QuantConfig(), 256), SIRACUSA)
    found = {c["name"]: c for problem in report["problems"] for c in problem["contributors"]}
    assert found["mlp.gate_proj.weight"]["count"] == 16
    assert not any(name.startswith("l0") for name in found)
    assert report["remedies"] == []


@pytest.fixture(scope="module")
def tight() -> tuple[TargetSpec, list[Remedy]]:
    target = shrunk(shrunk(SIRACUSA, 420_000, "mram", "tile_sram"), 452_768, "l2")
    return target, find_remedies(WIDE, target)


def test_every_kind_of_remedy_is_found(tight: tuple[TargetSpec, list[Remedy]]) -> None:
    assert list(by_change(tight[1])) == [
        "bits",
        "group_size",
        "ffn",
        "blocks",
        "vocab",
        "embed_bits",
    ]


def test_each_remedy_fits_by_itself(tight: tuple[TargetSpec, list[Remedy]]) -> None:
    target, remedies = tight
    assert not fits(WIDE, target)
    for remedy in remedies:
        plan_memory(build_program(remedy.design), target)  # raises when it does not fit


def test_numbers_are_the_largest_that_fit(tight: tuple[TargetSpec, list[Remedy]]) -> None:
    target, remedies = tight
    by_kind = by_change(remedies)
    ffn = by_kind["ffn"].value + FFN_STEP
    assert not fits(replace(WIDE, config=replace(WIDE.config, intermediate_size=ffn)), target)
    depth = 4 - by_kind["blocks"].value - 1
    assert f"--depth {depth + 1}" in {remedy.option for remedy in remedies}
    assert not fits(replace(WIDE, what_if=WhatIf(depth=depth)), target)


def test_context_and_vocabulary_are_remedies_where_they_are_the_cause() -> None:
    config = replace(WIDE.config, vocab_size=6000, max_position_embeddings=4000)
    large = replace(WIDE, config=config, context=4000)
    roomy = shrunk(SIRACUSA, 1_100_000, "mram", "tile_sram", "l2")
    assert not fits(large, roomy)
    by_kind = by_change(find_remedies(large, roomy))
    assert "context" in by_kind
    most = by_kind["context"].value
    assert fits(replace(large, context=most), roomy)
    assert not fits(replace(large, context=most + step_of(4000)), roomy)
    wordy = replace(large, context=64, config=replace(config, vocab_size=60_000))
    by_kind = by_change(find_remedies(wordy, SIRACUSA))
    assert {"vocab", "embed_bits"} <= set(by_kind)
    more = by_kind["vocab"].value + step_of(60_000)
    assert not fits(replace(wordy, what_if=WhatIf(vocab=more)), SIRACUSA)


def test_the_necessary_condition_is_necessary() -> None:
    """What a plan accepts, the quick test accepts."""
    for name in ("stories260k", "bundled"):
        program = build_program(Design(load_shape(name).config, QuantConfig(), 200))
        assert may_fit(program, SIRACUSA)


def test_a_record_beyond_one_transfer_is_a_problem_with_a_remedy() -> None:
    """down_proj reads 40,000 inputs: 160 kB per record, a transfer carries 131,064 bytes."""
    config = tiny_config(hidden=8, ffn=40_000, layers=1, heads=2, kv_heads=1, vocab=8)
    design = Design(config, QuantConfig(group_size=-1), 16, engine=EngineChoice.CORES)
    roomy = shrunk(SIRACUSA, 1 << 20, "l1")  # for two tiles of 160 kB
    assert not fits(design, roomy)
    report = report_of(design, roomy)
    assert not report["fits"]
    assert all(region["free"] >= 0 for region in report["regions"])
    assert "one DMA transfer" in report["problems"][0]["allowed"]
    (remedy,) = (r for r in report["remedies"] if r["change"] == "ffn")
    assert remedy["value"] == (131_064 - 32) // 4 // step_of(40_000) * step_of(40_000)


def test_remedies_of_overridden_layers_are_real() -> None:
    """An override that would match no block makes fewer blocks impossible, not a remedy."""
    from toolchain.model.quant_settings import Override

    quant = replace(WIDE.quant, overrides=(Override("l03.*", bits=8),))
    design = replace(WIDE, quant=quant)
    target = shrunk(shrunk(SIRACUSA, 420_000, "mram", "tile_sram"), 452_768, "l2")
    assert "blocks" not in by_change(find_remedies(design, target))


def test_the_smallest_combination_when_no_single_change_leaves_enough() -> None:
    target = load_target("siracusa")
    config = load_shape("smollm2-135m").config
    design = Design(config, QuantConfig(), config.max_position_embeddings)
    *single, pair = find_remedies(design, target)
    assert all(remedy.changes[0].leaves_little for remedy in single)
    assert [change.knob.change for change in pair.changes] == ["context", "bits"]
    plan_memory(build_program(pair.design), target)
    assert pair.option == f"--context {pair.changes[0].value} --bits 2"
    facts = pair.to_dict()
    assert facts["change"] == "context + bits"
    assert facts["value"] is None
    assert find_remedies(design, target) == [*single, pair]


def test_more_than_three_changes_where_fewer_cannot_help() -> None:
    target = limited_target(load_target("siracusa"), MemoryLimits({"hyperram": 24 << 20}))
    config = load_shape("smollm2-360m").config
    (remedy,) = find_remedies(Design(config, QuantConfig(), 8192), target)
    assert len(remedy.changes) > 3
    assert remedy.option == ""  # an FFN width is no option
    plan_memory(build_program(remedy.design), target)


def test_values_are_told_apart_in_steps() -> None:
    assert [step_of(now) for now in (1, 63, 64, 127, 128, 1000, 1024, 49152)] == [
        1, 1, 1, 1, 2, 8, 16, 512,
    ]  # fmt: skip
    for knob in knobs_of(WIDE):
        assert len(knob.values) < 128
        assert knob.now not in knob.values
        values = list(knob.values)
        if knob.is_number:
            assert values == sorted(values, reverse=True)
            assert values[-1] >= 1


def test_a_compile_refuses_with_the_remedies_of_fit(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", context=64)
    limits = [f"--region={name}=1KiB" for name in ("mram", "tile_sram", "l2", "hyperram")]
    run = CliRunner().invoke
    fitted = run(main, ["fit", str(model), *limits, "--json"])
    output = ["-o", str(tmp_path / "out")]
    compiled = run(main, ["compile", str(model), *output, *limits, "--json"])
    assert (fitted.exit_code, compiled.exit_code) == (3, 3)
    facts = json.loads(compiled.stdout)
    assert facts["remedies"] == json.loads(fitted.stdout)["remedies"]
    assert facts["shortfalls"]
    text = run(main, ["compile", str(model), *output, *limits]).stderr
    assert text.strip() == run(main, ["fit", str(model), *limits]).stderr.strip()
    assert not (tmp_path / "out").exists()


def test_of_the_blocks_are_their_projections_and_the_whole_kv_cache() -> None:
    inside = [spec for spec in build_program(WIDE).tensors.values() if spec.in_blocks]
    names = {kind: {s.name for s in inside if s.kind is kind} for kind in (Kind.WEIGHT, Kind.STATE)}
    assert names[Kind.WEIGHT] == {f"{op}.weight" for op in linear_ids(WIDE.config)}
    assert names[Kind.STATE] == {"kv.k", "kv.k_scale", "kv.v", "kv.v_scale"}
