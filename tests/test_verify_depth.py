"""`verify` behind the golden steps, at the end of the context, and when programs do not end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from codegen.bundle import LoadedBundle
from memory_planner.limits import MemoryLimits
from memory_planner.target import Pin
from sim.dump import END_OF_STEP, STEP_RESULT, DumpRecord, write_record
from tests.bundles import compile_tiny, edit, seal
from tests.test_verify import needs_rv32
from toolchain import verify
from toolchain.cli import main
from toolchain.model.errors import BundleError, ConfigError, MismatchError
from toolchain.verify import VerifyOptions, verify_bundle
from toolchain.verify_steps import dump_steps, steps_to_compare, token_at

ONE = VerifyOptions(cores=(1,))
CONTEXT = 132
FAR_CACHE = MemoryLimits({}, (Pin("kv.*", "tile_sram"),))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """A context of three chunks: the cache lies where attention cannot read it in place."""
    directory = tmp_path_factory.mktemp("deep")
    bundle = compile_tiny(directory, limits=FAR_CACHE, num_layers=1, context=CONTEXT)
    assert 2 * positions_of(bundle) < CONTEXT <= 3 * positions_of(bundle)
    return bundle


def positions_of(bundle: LoadedBundle) -> int:
    """Positions of a chunk of the cache, of which attention has two slots."""
    assert bundle.plan.attention.tile_buffer is not None
    assert bundle.plan.attention.slots == 2
    return bundle.plan.attention.positions_per_chunk


@pytest.fixture
def deep_copy(deep: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(deep.directory, tmp_path / "bundle"))


@pytest.fixture
def copy(tiny_bundle: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "bundle"))


def tamper(bundle: Path, path: str, old: str, new: str) -> None:
    edit(bundle / path, old, new)
    seal(bundle)


def test_the_third_chunk_is_reached(deep: LoadedBundle, tiny_bundle: LoadedBundle) -> None:
    steps = 2 * positions_of(deep) + 1
    assert steps_to_compare(deep, None) == steps
    assert steps_to_compare(tiny_bundle, None) == 5
    report = verify_bundle(deep.directory, options=ONE)
    assert report.passed
    assert report.runs[0].ops_compared == steps * len(deep.program.ops)
    assert report.to_dict()["context"] == {"positions": CONTEXT, "cores": 1, "skipped": ""}


def test_tokens_behind_the_golden_ones_cover_the_vocabulary(deep: LoadedBundle) -> None:
    golden = deep.golden.tokens
    assert [token_at(deep, step) for step in range(len(golden))] == list(golden)
    # 20 * 0.6180339887 = 12.36..: 0.36 of 97 tokens
    assert token_at(deep, 20) == 34
    tokens = {token_at(deep, step) for step in range(len(golden), CONTEXT)}
    assert len(tokens) > 60
    assert all(0 <= token < 97 for token in tokens)


STREAM = "runtime/src/tiny_kv_stream.h"


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (STREAM, "= stream->other_rows;", "= chunk->first == 0U ? stream->other_rows : rows;"),
        (STREAM, "scales + first,", "scales + first - stream->first / CHUNKU,"),
    ],
)
def test_faults_of_later_chunks_are_found(
    deep: LoadedBundle, deep_copy: Path, path: str, old: str, new: str
) -> None:
    chunk = positions_of(deep)
    tamper(deep_copy, path, old, new.replace("CHUNK", str(chunk)))
    (run,) = verify_bundle(deep_copy, options=ONE).runs
    assert run.first_divergence is not None
    assert run.first_divergence.step == chunk
    assert run.first_divergence.op == "l00.attn.attention"


def test_a_position_that_sticks_is_found(deep_copy: Path) -> None:
    stuck = "s->position = context->position < 16U ? context->position : 16U;"
    tamper(deep_copy, "src/tiny_model.c", "s->position = context->position;", stuck)
    with pytest.raises(MismatchError, match="records missing"):
        verify_bundle(deep_copy, options=ONE)


def test_a_context_that_overflows_is_found(deep_copy: Path) -> None:
    old, new = "context->position >= CONTEXT)", "context->position >= CONTEXT + 7U)"
    tamper(deep_copy, "src/tiny_model.c", old, new)
    with pytest.raises(MismatchError, match="end of the context on host with 1 core failed"):
        verify_bundle(deep_copy, options=ONE)


def test_a_context_that_ends_early_is_found(deep_copy: Path) -> None:
    old, new = "context->position >= CONTEXT)", "context->position >= CONTEXT - 1U)"
    tamper(deep_copy, "src/tiny_model.c", old, new)
    with pytest.raises(MismatchError, match="end of the context on host with 1 core") as error:
        verify_bundle(deep_copy, options=ONE)
    (problem,) = error.value.problems
    found = (problem.where, problem.found, problem.allowed)
    assert found == (f"step {CONTEXT - 1}", "status 11", "status 0")


def test_the_untraced_program_must_propose_the_same_tokens(deep_copy: Path) -> None:
    """A fault that a trace hides and that comes behind the self-test."""
    old = "        out->next = next;\n"
    new = "#ifndef TINY_TRACE\n        out->next ^= s->position == 40U;\n#endif\n"
    tamper(deep_copy, "src/tiny_model.c", old, old + new)
    with pytest.raises(MismatchError, match="differs from the simulator\n  - step 40"):
        verify_bundle(deep_copy, options=ONE)


def test_long_contexts_are_not_filled(
    tiny_bundle: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "CONTEXT_WORK", 1000)
    context = verify_bundle(tiny_bundle.directory, options=ONE).to_dict()["context"]
    assert context == {"positions": 5, "cores": None, "skipped": "more than 1e+03 multiplications"}


@pytest.mark.parametrize("steps", [0, -1, 6])
def test_steps_outside_the_context_are_refused(tiny_bundle: LoadedBundle, steps: int) -> None:
    with pytest.raises(ConfigError, match=rf"--steps: found {steps}, allowed 1\.\.5"):
        verify_bundle(tiny_bundle.directory, options=VerifyOptions(steps=steps))


def test_fewer_steps_than_golden_ones(tiny_bundle: LoadedBundle) -> None:
    report = verify_bundle(tiny_bundle.directory, options=VerifyOptions((1,), steps=2))
    assert (report.passed, report.tokens) == (True, 2)
    assert report.runs[0].ops_compared == 2 * len(tiny_bundle.program.ops)


@pytest.mark.parametrize("wrong_core", [0, 1])
def test_cores_of_the_selftest_leave_together(copy: Path, wrong_core: int) -> None:
    old = "out->next = next;"
    new = f"out->next = next + (s->worker.id == {wrong_core}U ? 1 : 0);"
    tamper(copy, "src/tiny_model.c", old, new)
    with pytest.raises(MismatchError, match="the self-test on host with 3 cores failed: exit code"):
        verify_bundle(copy, options=VerifyOptions((3,)))


STEP = "    step *const s = open_step(kept, context, &worker);\n    embed"
HANG = "    if (core->id == 1U && context->position == 2U) {\n        return TINY_OK;\n    }\n"


def test_a_program_that_hangs_is_a_mismatch(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "BASE_SECONDS", 0.5)
    tamper(copy, "src/tiny_model.c", STEP, HANG + STEP)
    what = "the traced program on host with 3 cores did not end within"
    with pytest.raises(MismatchError, match=what):
        verify_bundle(copy, options=VerifyOptions((3,)))


def test_the_selftest_s_data_must_be_golden(copy: Path) -> None:
    data = copy / "golden" / "selftest.bin"
    data.write_bytes(data.read_bytes()[:-4] + b"ABCD")
    seal(copy)
    with pytest.raises(MismatchError, match="the golden files disagree with each other"):
        verify_bundle(copy, options=ONE)


def test_directories_may_have_any_name(
    tiny_bundle: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rv32(tmp_path)
    scratch = tmp_path / "my $temp#:%"
    scratch.mkdir()
    bundle = shutil.copytree(tiny_bundle.directory, tmp_path / "the bundle")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert verify_bundle(bundle, ("host", "rv32"), ONE).passed
    assert not list(scratch.iterdir())


def test_sigterm_leaves_nothing(copy: Path, tmp_path: Path) -> None:
    tamper(copy, "src/tiny_model.c", STEP, HANG + STEP)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "toolchain.cli", "verify", str(copy)]
    process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)})
    deadline = time.monotonic() + 60
    while not list(scratch.rglob("3.dump")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(scratch.iterdir())


def test_dump_files_are_cut_into_steps(tmp_path: Path) -> None:
    end = STEP_RESULT.pack(0, 7, 0)
    records = [
        DumpRecord(0, 1, 0, b"ab"),
        DumpRecord(0, END_OF_STEP, 0, end),
        DumpRecord(1, 1, 0, b"c"),
        DumpRecord(1, END_OF_STEP, 0, end),
        DumpRecord(2, 3, 0, b""),
    ]
    path = tmp_path / "dump"
    data = b"".join(map(write_record, records))
    path.write_bytes(data)
    first, second, rest = dump_steps(path)
    assert [dump.records for dump in (first, second, rest)] == [
        (records[0],),
        (records[2],),
        (records[4],),
    ]
    assert (len(first.steps), len(second.steps), len(rest.steps)) == (1, 1, 0)
    for damaged in (data + b"EDR", data + b"x" * 40, data[:-3], data[:25]):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match="not a dump"):
            list(dump_steps(path))


def test_the_command_line_takes_steps(tiny_bundle: LoadedBundle) -> None:
    command = ["verify", str(tiny_bundle.directory), "--json", "--steps"]
    result = CliRunner().invoke(main, [*command, "3"])
    assert json.loads(result.stdout)["tokens"] == 3
    result = CliRunner().invoke(main, [*command, "6"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["problems"][0]["allowed"] == "1..5"
