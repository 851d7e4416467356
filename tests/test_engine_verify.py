"""The engine path from checkpoint to C: all builds of one model say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from memory_planner import engine_chains, prefill, prompts
from memory_planner.engines import EngineChoice
from memory_planner.fused_ops import FusedKind, fused_block
from memory_planner.limits import MemoryLimits
from memory_planner.target import Pin
from memory_planner.token_groups import token_groups
from tests.bundles import compile_tiny, edit, seal
from tests.paths import STORIES, needs_shared
from tests.test_verify import needs_rv32
from toolchain.model.errors import BundleError
from toolchain.model.program import ActMode, Arithmetic, is_prompt_words
from toolchain.model.quant_settings import Override
from toolchain.model.quantize import QuantConfig
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

MIXED_BITS = (Override("*.gate_proj", 3), Override("l01.attn.*", 6, -1), Override("*.v_proj", 8))


def build(folder: Path, engine: EngineChoice, mode: ActMode, group_size: int) -> LoadedBundle:
    quant = QuantConfig(4, group_size, overrides=MIXED_BITS)
    shape: dict[str, Any] = {
        "hidden_size": 86,
        "intermediate_size": 70,
        "num_layers": 3,
        "context": 7,
    }
    return compile_tiny(folder, mode=mode, quant=quant, engine=engine, **shape)


@pytest.mark.parametrize(("mode", "group_size"), [(ActMode.A16, 32), (ActMode.A8, -1)])
def test_builds_are_equal_and_verify(tmp_path: Path, mode: ActMode, group_size: int) -> None:
    bundles = {
        engine: build(tmp_path / engine.value, engine, mode, group_size) for engine in EngineChoice
    }
    records = {engine: bundle.golden.records for engine, bundle in bundles.items()}
    for engine in (EngineChoice.AUTO, EngineChoice.NEUREKA):
        assert records[engine] == records[EngineChoice.CORES]
        assert bundles[engine].golden.next_tokens == bundles[EngineChoice.CORES].golden.next_tokens
    bundle = bundles[EngineChoice.NEUREKA]
    assert bundle.plan.engine is not None
    assert bundle.manifest["settings"]["engine"] == "neureka"
    report = verify_bundle(bundle.directory, options=VerifyOptions(sanitize=True))
    assert report.passed
    assert [run.cores for run in report.runs] == [1, 3, 8]


@pytest.mark.parametrize(
    ("mode", "share"), [(ActMode.A16, 90), (ActMode.A8, 200), (ActMode.A8, 90)]
)
def test_sums_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: ActMode, share: int
) -> None:
    """Linears of a vector whose sums have no room together, fused and op by op."""
    monkeypatch.setattr(engine_chains, "SHARE", share)
    heads = {"num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "context": 7}
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 40, **heads}
    quant = QuantConfig(4, 16, overrides=(Override("*.k_proj", 3),))
    bundle = compile_tiny(tmp_path, mode=mode, quant=quant, engine=EngineChoice.NEUREKA, **shape)
    kinds = [item.kind for item in fused_block(bundle.program, bundle.plan).ops]
    assert kinds == [FusedKind.ATTENTION, FusedKind.MLP]
    assert bundle.plan.engine is not None
    chains = bundle.plan.engine.chains[:3]  # q to v, o, gate and up
    in_turn = [each.linears[0].pieces[0].before < len(each.jobs) for each in chains]
    assert in_turn == [True, False, share != 90 or mode is ActMode.A16]
    assert verify_bundle(bundle.directory, options=VerifyOptions(sanitize=True)).passed


@pytest.mark.parametrize(
    ("mode", "group_size", "arithmetic", "copies"),
    [
        (ActMode.A16, -1, Arithmetic.PRECISE, False),
        (ActMode.A8, 32, Arithmetic.FAST, False),
        (ActMode.A16, 32, Arithmetic.PRECISE, True),
        (ActMode.A16, -1, Arithmetic.FAST, True),
        (ActMode.A8, -1, Arithmetic.PRECISE, True),
    ],
)
def test_jobs_of_several_tokens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: ActMode,
    group_size: int,
    arithmetic: Arithmetic,
    copies: bool,
) -> None:
    """Prompts in C by jobs of four windows, or of 1 x 1 from second copies of the words, in a model
    so small that they would not pay.
    """
    monkeypatch.setattr(prefill, "jobs_and_savings", lambda *a: (0, 1e6 * a[-1].tokens ** 2))
    monkeypatch.setattr(prompts, "_is_better", lambda *_: copies)
    shape: dict[str, Any] = {"hidden_size": 72, "intermediate_size": 100, "context": 7}
    quant = QuantConfig(4, group_size, overrides=(Override("*.k_proj", 3),))
    shape |= {"engine": EngineChoice.NEUREKA, "arithmetic": arithmetic}
    bundle = compile_tiny(tmp_path, **{"mode": mode, "quant": quant, **shape})
    assert bundle.plan.prefill is not None
    assert bundle.plan.prefill.chains
    assert bundle.plan.prefill.batch == (2 if mode is ActMode.A16 and not copies else 4)
    assert any(map(is_prompt_words, bundle.program.tensors.values())) == copies
    assert verify_bundle(bundle.directory, options=VerifyOptions(sanitize=True)).passed


@pytest.mark.parametrize(
    ("engine", "mode", "group_size"),
    [(EngineChoice.NEUREKA, ActMode.A16, -1), (EngineChoice.CORES, ActMode.A8, 32)],
)
def test_fast_arithmetic(
    tmp_path: Path, engine: EngineChoice, mode: ActMode, group_size: int
) -> None:
    """Its own bits, and in C the same."""
    quant = QuantConfig(4, group_size, overrides=MIXED_BITS)
    shape: dict[str, Any] = {"hidden_size": 86, "intermediate_size": 70, "context": 7}
    found = {
        arithmetic: compile_tiny(
            tmp_path / arithmetic.value,
            **{"mode": mode, "quant": quant, "engine": engine, "arithmetic": arithmetic, **shape},
        )
        for arithmetic in Arithmetic
    }
    precise, fast = (found[each] for each in Arithmetic)
    assert precise.golden.records != fast.golden.records
    assert "arithmetic" not in (precise.directory / "plan.json").read_text()
    assert fast.program.arithmetic is Arithmetic.FAST
    assert fast.manifest["settings"]["arithmetic"] == "fast"
    report = json.loads((fast.directory / "report" / "quantization.json").read_text())
    assert {"sum_bits", "factor_bits", "dropped_bits"} <= report["tensors"][1].keys()
    assert verify_bundle(fast.directory, options=VerifyOptions(sanitize=True)).passed
    edit(fast.directory / "plan.json", '"arithmetic": "fast",', "")
    seal(fast.directory)
    with pytest.raises(BundleError, match=r"lut\.si"):
        load_bundle(fast.directory)


def test_prompts_with_weights_on_the_engine_and_off_chip(tmp_path: Path) -> None:
    """Between two streams; each token keeps its residual stream, and what crosses a cut."""
    bundle = compile_tiny(
        tmp_path,
        engine=EngineChoice.NEUREKA,
        limits=MemoryLimits({}, (Pin("l??.mlp.*.weight", "hyperram"),)),
        quant=QuantConfig(4, -1),
        hidden_size=86,
        num_layers=3,
        context=7,
    )
    plan = bundle.plan
    assert plan.streams is not None
    assert plan.engine is not None
    assert plan.prefill is not None
    assert plan.prefill.batch == 4
    assert set(plan.prefill.offsets) == {"resid", "mlp.norm.q", "mlp.norm.scale"}
    groups = token_groups(bundle.program, plan)
    assert [group.roles[0] for group in groups] == ["attn.norm", *plan.streams.cuts]
    assert verify_bundle(bundle.directory, options=VerifyOptions(sanitize=True)).passed


def test_one_vector_with_weights_in_two_memories(tmp_path: Path) -> None:
    """k lies in front of q, where its jobs begin to count: offsets wrap at 32 bits."""
    bundle = compile_tiny(
        tmp_path,
        engine=EngineChoice.NEUREKA,
        limits=MemoryLimits({}, (Pin("l00.attn.[qv]_proj.weight", "tile_sram"),)),
        quant=QuantConfig(4, -1),
    )
    assert bundle.plan.engine is not None
    jobs = [chain.jobs for chain in bundle.plan.engine.chains]
    assert any(job.registers[0] < own[0].registers[0] for own in jobs for job in own)
    assert verify_bundle(bundle.directory, ("host",)).passed


def test_rv32_has_the_engine_as_a_model(tmp_path: Path) -> None:
    needs_rv32(tmp_path)
    bundle = build(tmp_path / "build", EngineChoice.NEUREKA, ActMode.A16, -1)
    assert verify_bundle(bundle.directory, ("rv32",)).passed


def test_a_bundle_of_the_cores_has_no_engine(tiny_bundle: LoadedBundle) -> None:
    names = {path.name for path in tiny_bundle.directory.rglob("*.c")}
    assert not any("neureka" in name or "engine" in name for name in names)


def test_register_values(tmp_path: Path, check_golden_text: object) -> None:
    """The 24 registers of every job of a small model, at planned addresses."""
    bundle = build(tmp_path, EngineChoice.NEUREKA, ActMode.A16, 32)
    assert bundle.plan.engine is not None
    lines = []
    for chain in bundle.plan.engine.chains:
        lines.append(", ".join(linear.op for linear in chain.linears))
        lines += [" ".join(f"{word:x}" for word in job.registers) for job in chain.jobs]
    assert callable(check_golden_text)
    check_golden_text("engine_jobs.txt", "\n".join(lines) + "\n")


@needs_shared
def test_stories_are_told_by_every_build(tmp_path: Path) -> None:
    """Tokens and every tensor of stories260K."""
    golden = []
    for engine in EngineChoice:
        options = CompileOptions(quant=QuantConfig(4, -1), engine=engine, golden_steps=4, context=8)
        compiled = compile_model(STORIES, "siracusa", options, lambda _: None)
        golden.append(compiled.bundle.files["golden/golden.bin"])
    assert golden[0] == golden[1] == golden[2]
