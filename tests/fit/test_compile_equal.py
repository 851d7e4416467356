"""`edgec fit` against a real compile: the same bytes in every row of every region."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits, limited_target, without_off_chip
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.target_file import load_target
from sim.profile import profile
from tests.bundles import compile_tiny
from tests.model.tiny import write_model
from toolchain.fit.design import Design, WhatIf, check_design
from toolchain.fit.planning import Outcome, plan_design
from toolchain.fit.report import fit_report
from toolchain.fit.speed import speed_of
from toolchain.model.checkpoint import load_model
from toolchain.model.config import read_config
from toolchain.model.errors import DoesNotFitError
from toolchain.model.lower import lower_model
from toolchain.model.nm_pattern import PATTERNS, Pattern
from toolchain.model.outline import SITES, LowerConfig
from toolchain.model.program import ActMode
from toolchain.model.quant_settings import Override, SparseRule
from toolchain.model.quantize import QuantConfig, quantize_model


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 3))
    return {
        "hidden_size": draw(st.integers(1, 40)),
        "intermediate_size": draw(st.integers(1, 60)),
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 6)),
        "vocab_size": draw(st.integers(4, 70)),
        "context": draw(st.integers(1, 40)),
        "tied": draw(st.booleans()),
    }


@st.composite
def quants(draw: st.DrawFn) -> QuantConfig:
    bits, group = st.integers(2, 8), st.sampled_from([-1, 1, 3, 8, 16, 32, 100])
    embed = draw(bits)
    patterns = ("l00.*", "*.attn.v_proj", "l*.mlp.down_proj")
    overrides = tuple(
        Override(pattern, draw(bits), draw(group))
        for pattern in patterns
        if draw(st.integers(0, 3)) == 0
    )
    return QuantConfig(draw(bits), draw(group), embed, embed, overrides)


@settings(max_examples=60)
@given(
    shape=shapes(),
    quant=quants(),
    mode=st.sampled_from(list(ActMode)),
    target_name=st.sampled_from(["siracusa", "rv32"]),
    engine=st.sampled_from([EngineChoice.AUTO, EngineChoice.CORES]),
)
def test_fit_is_the_report_of_a_compile(
    shape: dict[str, Any],
    quant: QuantConfig,
    mode: ActMode,
    target_name: str,
    engine: EngineChoice,
) -> None:
    target, modes = load_target(target_name), dict.fromkeys(SITES, mode)
    with tempfile.TemporaryDirectory() as folder:
        directory = write_model(Path(folder) / "model", **shape)
        config = read_config(directory)
        design = Design(config, quant, shape["context"], modes, engine=engine)
        check_design(design)
        fitted = fit_report(plan_design(design, target))
        lower = LowerConfig(shape["context"], modes)
        lowered = lower_model(quantize_model(load_model(directory), quant), lower)
    engines = choose_engines(lowered, target, design.wish)
    program, plan = engines.program, plan_memory(engines.program, target)
    cost = profile(program, plan, target, shape["context"] // 2)
    speed = speed_of(cost.readings, cost.energy)
    compiled = Outcome(design, program, plan, speed, target, (), (), engines.decisions)
    assert fitted == fit_report(compiled)
    assert fitted["fits"]


WIDTHS = st.one_of(st.none(), st.sampled_from(PATTERNS))


@settings(max_examples=20)
@given(
    shape=shapes(),
    quant=quants(),
    attn=WIDTHS,
    mlp=WIDTHS,
    target_name=st.sampled_from(["siracusa", "rv32"]),
    engine=st.sampled_from([EngineChoice.AUTO, EngineChoice.CORES]),
)
def test_fit_is_the_report_of_a_compile_of_a_pruned_model(
    shape: dict[str, Any],
    quant: QuantConfig,
    attn: Pattern | None,
    mlp: Pattern | None,
    target_name: str,
    engine: EngineChoice,
) -> None:
    """The whole report, cycles included, for N:M patterns that a compile stores."""
    target = load_target(target_name)
    shape |= {"hidden_size": 16 + shape["hidden_size"], "intermediate_size": 50, "head_dim": 16}
    widths = {"l*.attn.*": attn, "l*.mlp.*": mlp}
    with tempfile.TemporaryDirectory() as folder:
        pruned = {match: pattern for match, pattern in widths.items() if pattern}
        directory = write_model(Path(folder) / "model", **shape, pruned=pruned)
        what_if = WhatIf(attn_width=attn, mlp_width=mlp)
        config = read_config(directory)
        design = Design(config, quant, shape["context"], what_if=what_if, engine=engine)
        check_design(design)
        fitted = fit_report(plan_design(design, target))
        rules = tuple(
            SparseRule(match, (pattern,) if pattern else ()) for match, pattern in widths.items()
        )
        lower = LowerConfig(shape["context"])
        sparse = quantize_model(load_model(directory), replace(quant, sparse=rules))
        engines = choose_engines(lower_model(sparse, lower), target, design.wish)
    program = engines.program
    plan = plan_memory(program, target)
    cost = profile(program, plan, target, shape["context"] // 2)
    speed = speed_of(cost.readings, cost.energy)
    outcome = Outcome(design, program, plan, speed, target, (), (), engines.decisions)
    compiled = fit_report(outcome)
    assert json.dumps(fitted) == json.dumps(compiled)
    assert fitted["estimates"] == []
    if target_name == "siracusa" and engine is EngineChoice.AUTO:
        return  # words of the engine hold zeros too
    saved = sum(entry["saved_bytes"] for entry in fitted["width"])
    dense = replace(design, what_if=WhatIf())
    whole = fit_report(plan_design(dense, target))
    assert whole["bytes"]["packed"] - fitted["bytes"]["packed"] == saved
    assert saved == sum(e["dense_bytes"] - e["sparse_bytes"] for e in fitted["width"] if e["pays"])


@settings(max_examples=15)
@given(
    shape=shapes(),
    quant=quants(),
    inside=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    l1=st.integers(40, 400),
)
def test_fit_is_the_report_of_a_compile_that_streams(
    shape: dict[str, Any], quant: QuantConfig, inside: tuple[int, int], l1: int
) -> None:
    """The whole report, byte for byte, with hardly any room for weights on the chip."""
    sizes = {"mram": 64 * inside[0], "tile_sram": 64 * inside[1], "l1": 64 * l1}
    target = limited_target(load_target("siracusa"), MemoryLimits(sizes))
    with tempfile.TemporaryDirectory() as folder:
        directory = write_model(Path(folder) / "model", **shape)
        design = Design(read_config(directory), quant, shape["context"])
        fitted = fit_report(plan_design(design, target))
        lower = LowerConfig(shape["context"])
        lowered = lower_model(quantize_model(load_model(directory), quant), lower)
    engines = choose_engines(lowered, target, design.wish)
    program = engines.program
    try:
        plan = plan_memory(program, target)
    except DoesNotFitError:
        assert not fitted["fits"]
        return
    cost = profile(program, plan, target, shape["context"] // 2)
    speed = speed_of(cost.readings, cost.energy)
    compiled = fit_report(Outcome(design, program, plan, speed, target, (), (), engines.decisions))
    assert json.dumps(fitted) == json.dumps(compiled)
    assert fitted["off_chip"]["missing"] == 0
    beyond = [entry for entry in fitted["placements"] if entry["region"] == "hyperram"]
    assert fitted["off_chip"]["bytes"] >= sum(entry["bytes_per_token"] for entry in beyond)
    assert (plan.streams is not None) == bool(beyond)
    cut = plan.streams is not None and bool(plan.streams.cuts)
    assert cut == any("per block" in entry["reason"] for entry in beyond)


def test_reasons_of_a_model_that_streams() -> None:
    """The bundled model, most of its weights off chip."""
    from toolchain.fit.shapes import load_shape

    sizes = {"mram": 200 * 1024, "tile_sram": 220 * 1024}
    target = limited_target(load_target("siracusa"), MemoryLimits(sizes))
    report = fit_report(
        plan_design(Design(load_shape("bundled").config, QuantConfig(), 256), target)
    )
    reasons = {entry["what"]: entry["reason"] for entry in report["placements"]}
    assert report["fits"]
    assert reasons["mlp.gate_proj"] == "no room on chip: streamed per block"
    packed = sum(entry["bytes"] for entry in report["placements"])
    assert packed == report["bytes"]["packed"]


@pytest.mark.parametrize("target_name", ["siracusa", "rv32"])
@pytest.mark.parametrize(
    "what_if", [WhatIf(depth=1), WhatIf(vocab=50), WhatIf(depth=2, vocab=300)], ids=str
)
def test_depth_and_vocabulary_equal_a_compile_of_that_config(
    tmp_path: Path, what_if: WhatIf, target_name: str
) -> None:
    target = load_target(target_name)
    given_model = write_model(tmp_path / "given", num_layers=3, vocab_size=97)
    smaller = write_model(
        tmp_path / "smaller", num_layers=3 - what_if.depth, vocab_size=what_if.vocab or 97
    )
    cores = EngineChoice.CORES
    design = Design(read_config(given_model), QuantConfig(), 32, what_if=what_if, engine=cores)
    fitted = fit_report(plan_design(design, target))
    program = lower_model(quantize_model(load_model(smaller), QuantConfig()), LowerConfig(32))
    plan = plan_memory(program, target)
    assert fitted["rows"] == [
        {"region": row.region, "category": row.category, "bytes": row.size} for row in plan.rows
    ]
    assert [region["used"] for region in fitted["regions"]] == [r.used for r in plan.regions]
    plain = Design(read_config(smaller), QuantConfig(), 32, engine=cores)
    other = fit_report(plan_design(plain, target))
    differing = {key for key in other if other[key] != fitted[key]}
    assert differing == {"what_if", "parameters"}
    assert fitted["parameters"] | {"given": 0} == other["parameters"] | {"given": 0}


def test_a_real_bundle_says_the_same(tmp_path: Path) -> None:
    """The whole pipeline, an option of each kind."""
    from codegen.bundle_write import write_bundle
    from toolchain.pipeline import CompileOptions, compile_model

    directory = write_model(tmp_path / "model", vocab_size=60, context=20)
    quant = QuantConfig(bits=3, group_size=8, overrides=(Override("l01.*", bits=8),))
    options = CompileOptions(quant, context=12)
    compiled = compile_model(directory, "siracusa", options, lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    stored = json.loads((tmp_path / "bundle" / "report" / "fit.json").read_text(encoding="utf-8"))
    design = Design(read_config(directory), quant, 12)
    assert stored == json.loads(
        json.dumps(fit_report(plan_design(design, load_target("siracusa"))))
    )


def test_the_quick_estimate_is_the_full_one() -> None:
    """Same cycles and bound as the latency report, in both kinds of plan."""
    from toolchain.fit.shapes import load_shape

    target = load_target("siracusa")
    for name in ("stories260k", "bundled"):
        config = load_shape(name).config
        outcome = plan_design(Design(config, QuantConfig(), 100), target)
        full = profile(outcome.program, outcome.plan, target, 50)
        assert asdict(outcome.speed) == asdict(speed_of(full.readings, full.energy))


def test_a_draft_is_estimated_like_a_plan() -> None:
    """A target with a smaller memory gets a draft; its cycles are those of the larger one."""
    from toolchain.fit.shapes import load_shape

    target = without_off_chip(load_target("siracusa"))
    small = replace(
        target,
        regions=tuple(
            replace(region, size=400_000) if region.name == "mram" else region
            for region in target.regions
        ),
        placement={**target.placement, "weights": ("mram",)},
    )
    design = Design(load_shape("bundled").config, QuantConfig(), 64, engine=EngineChoice.CORES)
    whole, draft = plan_design(design, target), plan_design(design, small)
    assert whole.fits
    assert not draft.fits
    assert draft.speed.cycles_per_token == whole.speed.cycles_per_token
    assert draft.speed.off_chip_size == whole.plan.region("mram").used - 400_000
    assert draft.speed.tokens_per_second < whole.speed.tokens_per_second


def test_fit_is_the_bundle_on_disk_of_a_plan_that_streams(tmp_path: Path) -> None:
    """Bytes of the files: what fit said before there was a weight."""
    limits = MemoryLimits({"mram": 2048, "tile_sram": 4096, "l1": 2048})
    bundle = compile_tiny(tmp_path, limits=limits, num_layers=3)
    assert bundle.plan.streams is not None
    assert bundle.plan.streams.part_records > 0 or bundle.plan.streams.cuts
    target = limited_target(load_target("siracusa"), limits)
    config = read_config(tmp_path / "model")
    modes = dict.fromkeys(SITES, ActMode.A16)
    context = bundle.program.shape.context
    fitted = fit_report(
        plan_design(Design(config, QuantConfig(bits=4, group_size=16), context, modes), target)
    )
    rows = [(row.region, row.category, row.size) for row in bundle.plan.rows]
    assert [(r["region"], r["category"], r["bytes"]) for r in fitted["rows"]] == rows
    for region in bundle.plan.regions:
        path = bundle.directory / "weights" / f"{region.name}.bin"
        stored = path.stat().st_size if path.exists() else 0
        kinds = {"weights", "scales", "constants", "headers"}
        found = [r for r in fitted["rows"] if r["region"] == region.name]
        least = sum(row["bytes"] for row in found if row["category"] in kinds)
        padding = sum(row["bytes"] for row in found if row["category"] == "padding")
        assert least <= stored == region.blob_size <= least + padding
        (entry,) = [each for each in fitted["regions"] if each["name"] == region.name]
        assert entry["used"] == region.used
    latency = json.loads((bundle.directory / "report" / "latency.json").read_text())
    bus = sum(link["size"] for link in latency["links"] if link["off_chip"])
    assert fitted["off_chip"]["bytes"] == bus > 0
