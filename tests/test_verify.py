"""`verify` proves equality, and finds what is not equal where it begins."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen.bundle import LoadedBundle
from codegen.golden import golden_files
from sim.golden import Expected, read_golden
from tests.bundles import compile_tiny, edit, seal
from toolchain.c_tools import find_rv32_compiler, find_rv32_simulator
from toolchain.model.errors import BundleError, ConfigError, MismatchError, ToolError
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig
from toolchain.verify import VerifyOptions, verify_bundle
from toolchain.verify_report import ContextReport, VerifyReport


@pytest.fixture
def copy(tiny_bundle: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "bundle"))


def verify(bundle: Path, runners: Sequence[str] = ("host",), cores: int = 1) -> VerifyReport:
    return verify_bundle(bundle, runners, VerifyOptions(cores=(cores,)))


def needs_rv32(scratch: Path) -> None:
    try:
        find_rv32_compiler()
        find_rv32_simulator(scratch)
    except ToolError as error:
        pytest.skip(str(error))


def test_host_is_equal_for_teams_of_any_size(tiny_bundle: LoadedBundle) -> None:
    files = {path: path.stat() for path in tiny_bundle.directory.rglob("*")}
    steps: list[str] = []
    report = verify_bundle(
        tiny_bundle.directory, options=VerifyOptions(sanitize=True), progress=steps.append
    )
    assert report.passed
    assert [run.cores for run in report.runs] == [1, 3, 8]
    ops = len(tiny_bundle.program.ops) * len(tiny_bundle.golden.tokens)
    for run in report.runs:
        assert (run.runner, run.ops_compared, run.ops_equal) == ("host", ops, ops)
        assert run.instructions_per_token is None
    assert {path: path.stat() for path in tiny_bundle.directory.rglob("*")} == files
    assert len(steps) > 4
    assert report.context == ContextReport(5, 3)


def test_rv32_is_equal_and_counts_instructions(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    needs_rv32(tmp_path)
    report = verify(tiny_bundle.directory, ("rv32",)).to_dict()
    (run,) = report["runs"]
    ops = len(tiny_bundle.program.ops) * len(tiny_bundle.golden.tokens)
    assert report["passed"]
    assert (run["runner"], run["ops_compared"], run["ops_equal"]) == ("rv32", ops, ops)
    assert run["first_divergence"] is None
    if run["simulator"] == "spike":
        assert 20_000 < run["instructions_per_token"] < 1_000_000


@pytest.mark.parametrize("mode", list(ActMode))
def test_the_most_awkward_shape_on_both_runners(tmp_path: Path, mode: ActMode) -> None:
    """One block, 3 heads of 6 on 1 KV head, FFN 100, vocabulary 97, context 5, untied."""
    needs_rv32(tmp_path)
    bundle = compile_tiny(
        tmp_path,
        mode=mode,
        hidden_size=18,
        intermediate_size=100,
        num_layers=1,
        num_heads=3,
        num_kv_heads=1,
        head_dim=6,
        vocab_size=97,
        context=5,
        tied=False,
    )
    report = verify_bundle(bundle.directory, ("host", "rv32"))
    assert [run.runner for run in report.runs] == ["host", "host", "host", "rv32"]
    assert report.passed
    assert all(run.ops_equal == run.ops_compared == 20 * 5 for run in report.runs)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.slow
def test_odd_shapes_are_equal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kv_heads = data.draw(st.integers(1, 3), "kv_heads")
    bundle = compile_tiny(
        tmp_path_factory.mktemp("odd"),
        target=data.draw(st.sampled_from(["siracusa", "rv32"]), "target"),
        mode=data.draw(st.sampled_from(list(ActMode)), "mode"),
        quant=QuantConfig(
            bits=data.draw(st.integers(2, 8), "bits"),
            group_size=data.draw(st.sampled_from([-1, 3, 16]), "group_size"),
            embed_bits=8,
            head_bits=8,
        ),
        hidden_size=data.draw(st.integers(1, 40), "hidden"),
        intermediate_size=data.draw(st.integers(1, 70), "ffn"),
        num_layers=data.draw(st.integers(1, 3), "layers"),
        num_heads=kv_heads * data.draw(st.integers(1, 3), "heads per kv head"),
        num_kv_heads=kv_heads,
        head_dim=2 * data.draw(st.integers(1, 5), "half head_dim"),
        vocab_size=data.draw(st.integers(4, 300), "vocab"),
        context=data.draw(st.integers(1, 20), "context"),
        tied=data.draw(st.booleans(), "tied"),
    )
    assert verify_bundle(bundle.directory, options=VerifyOptions(cores=(1, 5))).passed


def test_a_wrong_op_is_named_and_not_its_victims(copy: Path) -> None:
    steps: list[str] = []
    model = copy / "src" / "tiny_model.c"
    edit(model, "s->mlp_gate, s->mlp_up, s->lut_sigmoid", "s->mlp_up, s->mlp_gate, s->lut_sigmoid")
    seal(copy)
    report = verify_bundle(copy, options=VerifyOptions(cores=(3,)), progress=steps.append)
    (run,) = report.runs
    found = run.first_divergence
    assert found is not None
    assert (found.step, found.op, found.tensor) == (0, "l00.mlp.swiglu", "mlp.swiglu.q")
    assert found.index is not None
    assert found.got != found.want
    assert 0 < run.ops_equal < run.ops_compared
    assert not found.never_written
    assert not [step for step in steps if "self-test" in step]
    assert report.context == ContextReport(5, None, "the traced steps differ already")


def test_a_buffer_that_nobody_writes_is_told_as_such(copy: Path) -> None:
    model = copy / "src" / "tiny_model.c"
    call = "s->scratch_attn_kv_append, &cache);"
    edit(model, call, call.replace("cache)", "elsewhere)") + "\n    (void)cache;")
    text = model.read_text()
    append = text.index("static void attn_kv_append")
    line = "    const tiny_kv_cache cache = cache_of(s, layer);\n"
    more = line + (
        "    static int8_t q[2][64];\n    static tiny_kv_scale scale[2][64];\n"
        "    const tiny_kv_cache elsewhere = {q[0], scale[0], q[1], scale[1]};\n"
    )
    model.write_text(text[:append] + text[append:].replace(line, more, 1))
    seal(copy)
    (run,) = verify(copy).runs
    found = run.first_divergence
    assert found is not None
    assert (found.step, found.op, found.tensor) == (0, "l00.attn.kv_append", "kv.k")
    assert found.never_written


def test_a_crash_is_a_mismatch_with_the_exit_code(copy: Path) -> None:
    edit(copy / "test" / "main.c", "    if (status != TINY_OK) {", "    if (argc != 0) {")
    seal(copy)
    with pytest.raises(
        MismatchError, match="the traced program on host with 1 core failed: exit code 1"
    ):
        verify(copy)


def test_golden_files_are_checked_against_the_simulator(copy: Path) -> None:
    golden = read_golden(copy)
    records = list(golden.records)
    spoiled = records[40]
    records[40] = Expected(spoiled.step, spoiled.op, spoiled.output, spoiled.size, 1, None)
    wrong = dataclasses.replace(golden, records=tuple(records), next_tokens=(0, 0, 0, 0, 0))
    for path, data in golden_files(wrong).items():
        (copy / path).write_bytes(data)
    seal(copy)
    with pytest.raises(MismatchError) as error:
        verify(copy)
    first, second = error.value.problems
    assert f"step {spoiled.step}, {golden.ops[spoiled.op].id}" in first.where
    assert first.found == "CRC-32 00000001"
    assert second.where == "golden/selftest.bin"


def test_c_that_does_not_build_shows_the_compiler_s_words(copy: Path) -> None:
    (copy / "src" / "tiny_model.c").write_text("int unfinished(\n")
    seal(copy)
    with pytest.raises(ToolError, match="error"):
        verify(copy)


def test_damaged_bundles_and_unknown_runners_are_refused_first(copy: Path) -> None:
    with pytest.raises(ConfigError, match="--runner: found riscv, allowed host, rv32"):
        verify(copy, ("host", "riscv"))
    (copy / "weights.S").write_text("")
    with pytest.raises(BundleError, match=r"weights\.S"):
        verify(copy)
