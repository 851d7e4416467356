"""The rv32 port in spike: start-up, memory functions, console, exit code, traps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c, rv32_port
from toolchain.c_tools import find_rv32_compiler, find_rv32_simulator, run_program
from toolchain.model.errors import ToolError

PORT = RUNTIME / "port" / "rv32"


def run(directory: Path, *flags: str) -> tuple[int, bytes]:
    """Exit code and output of rv32_port.c."""
    try:
        compiler, simulator = find_rv32_compiler(), find_rv32_simulator(directory)
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])
    if simulator.linux:
        pytest.skip("the instruction counter needs spike")
    program = directory / "port.elf"
    command = [*compiler.command, *STRICT, "-O2", "-ffreestanding", "-nostdlib", "-static", *flags]
    files = [*rv32_port(), Path(__file__).with_name("rv32_port.c")]
    linker = ["-T", str(PORT / "link.ld"), "-o", str(program)]
    compile_c([*command, *INCLUDES, *map(str, files), *linker])
    result = run_program([*simulator.command, str(program)])
    return result.exit_code, result.output


def test_port(tmp_path: Path) -> None:
    assert run(tmp_path) == (7, b"hello\0\xff\n")


def test_trap_is_reported(tmp_path: Path) -> None:
    code, output = run(tmp_path, "-DTRAP")
    assert code == 99
    assert output.startswith(b"trap: cause, address, value 00000002 80000")


def test_linux_variant_compiles(tmp_path: Path) -> None:
    try:
        compiler = find_rv32_compiler()
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])
    for source in rv32_port():
        strict = STRICT if source.suffix == ".c" else ()
        flags = [*strict, "-O2", "-ffreestanding", "-DEDGEC_RV32_LINUX"]
        target = ["-c", str(source), "-o", str(tmp_path / "o.o")]
        compile_c([*compiler.command, *flags, *INCLUDES, *target])
