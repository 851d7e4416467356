"""A whole model on eight threads under ThreadSanitizer: barriers, tiles and partials."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from codegen.bundle import LoadedBundle
from toolchain.c_tools import Build, Compiler, run_make, run_program

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


def test_no_data_race(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    if not thread_sanitizer_works(tmp_path):
        pytest.skip("gcc with a working ThreadSanitizer is not installed")
    flags = ("-fsanitize=thread", "-g")
    compiler = Compiler("gcc", ("gcc",))
    run_make(
        Build(tiny_bundle.directory, tmp_path / "out", "host", compiler, ("runner",), flags, "-O1")
    )
    program = tmp_path / "out" / f"{tiny_bundle.prefix}_runner"
    for cores in ("3", "8"):
        run = run_program([str(program), cores])
        assert "ThreadSanitizer" not in run.errors, run.errors[:3000]
        assert run.exit_code == 0
