"""Compilers, and the model of the chip, that the tests of the chip's port share."""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen.bundle import LoadedBundle
from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c
from tests.paths import REPOSITORY
from toolchain.c_tools import (
    Build,
    Compiler,
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_gcc,
    run_make,
)
from toolchain.model.errors import ToolError

MODELS = REPOSITORY / "tests" / "c"


def compiler(name: str) -> Compiler:
    """gcc, or clang with lld (from zig); skips when it is not there."""
    try:
        found = find_rv32_gcc() if name == "gcc" else find_rv32_compiler()
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])
    if found is None or (name == "clang") != (found.name == "zig cc"):
        pytest.skip(f"no {name} for RV32")
    return found


def build(bundle: LoadedBundle, out: Path, kind: str, cores: int = 8) -> Path:
    """A program of the bundle for the chip."""
    run_make(Build(bundle.directory, out, "siracusa", any_compiler(), (kind,), cores=cores))
    return out / f"{bundle.prefix}_{kind}"


def any_compiler() -> Compiler:
    """Whichever there is for RV32."""
    try:
        return find_rv32_compiler()
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])


def build_model(directory: Path, *folders: str) -> Path:
    """The model of a core (folders: core) or of the chip (core, soc), as a program of this
    machine."""
    program = directory / folders[-1]
    sources = [path for name in folders for path in sorted((MODELS / name).glob("*.c"))]
    if "soc" in folders:
        sources.remove(MODELS / "core" / "main.c")
        sources += sorted((RUNTIME / "src").glob("edgec_neureka_*.c"))
    command = [*find_host_compiler().command, *STRICT, "-O2", *INCLUDES]
    compile_c([*command, *map(str, sources), "-o", str(program)])
    return program
