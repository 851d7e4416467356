"""Whole models on teams of threads under ThreadSanitizer: barriers, tiles and partials; fused ops
beside the engine's jobs, and prompts whose jobs serve several tokens.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from codegen.bundle import LoadedBundle
from memory_planner import prefill, prompts
from memory_planner.engines import EngineChoice
from tests.bundles import compile_tiny
from toolchain.c_tools import Build, Compiler, run_make, run_program
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig

RACE = """#include <pthread.h>
static int x;
static void *add(void *p) { x++; return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, add, 0); x++; pthread_join(t, 0); return 0; }
"""


def thread_sanitizer_works(directory: Path) -> bool:
    """Whether this machine's gcc finds a plain race."""
    if shutil.which("gcc") is None:
        return False
    source, program = directory / "race.c", directory / "race"
    source.write_text(RACE)
    command = ["gcc", "-fsanitize=thread", "-g", str(source), "-pthread", "-o", str(program)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return False
    return "data race" in run_program([str(program)]).errors


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    if not thread_sanitizer_works(tmp_path_factory.mktemp("race")):
        pytest.skip("gcc with a working ThreadSanitizer is not installed")
    return Compiler("gcc", ("gcc",))


def run_programs(bundle: LoadedBundle, compiler: Compiler, out: Path) -> None:
    """The runner, whose ops are fused, and the checker: steps and a prompt, op by op."""
    flags = ("-fsanitize=thread", "-g")
    run_make(Build(bundle.directory, out, "host", compiler, ("runner", "checker"), flags, "-O1"))
    for program in ("runner", "checker"):
        for cores in ("3", "8"):
            run = run_program([str(out / f"{bundle.prefix}_{program}"), cores])
            assert "ThreadSanitizer" not in run.errors, run.errors[:3000]
            assert run.exit_code == 0


def test_no_data_race(tiny_bundle: LoadedBundle, sanitized: Compiler, tmp_path: Path) -> None:
    run_programs(tiny_bundle, sanitized, tmp_path)


@pytest.mark.parametrize(
    ("group_size", "mode", "copies"), [(-1, ActMode.A16, True), (32, ActMode.A8, False)]
)
def test_no_data_race_beside_the_engine(
    sanitized: Compiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group_size: int,
    mode: ActMode,
    copies: bool,
) -> None:
    monkeypatch.setattr(prefill, "jobs_and_savings", lambda *a: (0, 1e6 * a[-1].tokens ** 2))
    monkeypatch.setattr(prompts, "_is_better", lambda *_: copies)
    quant = QuantConfig(4, group_size)
    shape: dict[str, Any] = {"hidden_size": 72, "context": 7}
    bundle = compile_tiny(tmp_path, mode=mode, quant=quant, engine=EngineChoice.NEUREKA, **shape)
    assert bundle.plan.prefill is not None
    assert bundle.plan.prefill.chains
    run_programs(bundle, sanitized, tmp_path / "out")
