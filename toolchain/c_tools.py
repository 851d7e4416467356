"""Finds the C compilers and RV32 simulators of the machine, and runs them.

Nothing is installed and nothing is guessed: what is missing is a ToolError that names the remedies.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.device_tree import device_tree
from toolchain.model.errors import Problem, ToolError

RAM = (0x8000_0000, 64 << 20)  # as runtime/port/rv32/link.ld
SPIKE_ISA = "rv32imc_zicsr_zicntr"
GCC_RV32 = ("-march=rv32imc_zicsr", "-mabi=ilp32")
ZIG_RV32 = ("-target", "riscv32-freestanding", "-mcpu=generic_rv32+m+c")
# zig instruments undefined behaviour unless told otherwise.
ZIG_PLAIN = ("-fno-sanitize=undefined",)
RV32_GCCS = ("riscv64-unknown-elf-gcc", "riscv32-unknown-elf-gcc")
RUN_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler as the bundle's Makefile wants it."""

    name: str  # for reports
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Simulator:
    """What runs an RV32 program."""

    name: str
    linux: bool  # runs Linux processes: the program must be built with <PREFIX>_RV32_LINUX
    command: tuple[str, ...]  # the program's path follows


def find_host_compiler() -> Compiler:
    """$CC, else cc, else zig from the rv32 extra; ToolError when there is none."""
    chosen = os.environ.get("CC")
    if chosen:
        command = tuple(shlex.split(chosen))
        if shutil.which(command[0]) is None:
            raise ToolError(f"$CC is {chosen!r}, which is not a command", fix="unset or correct CC")
        return Compiler(Path(command[0]).name, command)
    if shutil.which("cc"):
        return Compiler("cc", ("cc",))
    zig = _zig()
    if zig:
        return Compiler("zig cc", (*zig, *ZIG_PLAIN))
    raise ToolError(
        "no C compiler for this machine",
        [Problem("cc", "not found", "a C11 compiler"), Problem("zig", "not found", "ziglang")],
        fix="install a C compiler such as gcc, or zig: pip install 'edgec[rv32]'",
    )


def find_rv32_compiler() -> Compiler:
    """zig from the rv32 extra, else a bare-metal RISC-V gcc; ToolError when there is none."""
    zig = _zig()
    if zig:
        return Compiler("zig cc", (*zig, *ZIG_RV32, *ZIG_PLAIN))
    for name in RV32_GCCS:
        if shutil.which(name):
            return Compiler(name, (name, *GCC_RV32))
    raise ToolError(
        "no C compiler for RV32",
        [Problem("zig", "not found", "ziglang"), Problem("gcc", "not found", RV32_GCCS[0])],
        fix="pip install 'edgec[rv32]', or install gcc-riscv64-unknown-elf",
    )


def _zig() -> tuple[str, ...] | None:
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    return ("zig", "cc") if shutil.which("zig") else None


def find_rv32_simulator(scratch: Path) -> Simulator:
    """spike, else qemu-riscv32; writes the simulated machine's description into `scratch`."""
    beside = Path(sys.executable).parent / "spike"
    spike = str(beside) if beside.is_file() else shutil.which("spike")
    if spike:
        tree = scratch / "machine.dtb"
        tree.write_bytes(device_tree(SPIKE_ISA, RAM))
        base, size = RAM
        options = (f"--isa={SPIKE_ISA}", f"-m{base:#x}:{size:#x}", f"--dtb={tree}")
        return Simulator("spike", False, (spike, *options))
    if shutil.which("qemu-riscv32"):
        return Simulator("qemu-riscv32", True, ("qemu-riscv32",))
    raise ToolError(
        "no simulator for RV32",
        [
            Problem("spike", "not found", "the spike command"),
            Problem("qemu-riscv32", "not found", "qemu's user mode"),
        ],
        fix="pip install 'edgec[rv32]', or install qemu-user",
    )


@dataclass(frozen=True, slots=True)
class Build:
    """One call of a bundle's Makefile."""

    bundle: Path
    out: Path
    port: str
    compiler: Compiler
    targets: tuple[str, ...]
    flags: tuple[str, ...] = ()
    optimize: str = "-O2"
    steps: int | None = None


def run_make(build: Build) -> None:
    """Build the targets into `build.out`; ToolError with the compiler's output when it fails."""
    make = shutil.which("make")
    if make is None:
        raise ToolError("`make` is not installed", fix="install make")
    # Every variable that the Makefile reads is given, so that none comes from the environment.
    variables = {
        "PORT": build.port,
        "OUT": str(build.out),
        "CC": shlex.join(build.compiler.command),
        "OPT": build.optimize,
        "CFLAGS": shlex.join(build.flags),
        "CPPFLAGS": "",
        "LDFLAGS": "",
        "STEPS": "" if build.steps is None else str(build.steps),
    }
    command = [make, "--silent", "-C", str(build.bundle), f"-j{os.cpu_count() or 1}"]
    command += build.targets
    command += [f"{name}={value.replace('$', '$$')}" for name, value in variables.items()]
    result = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, errors="replace", check=False
    )
    if result.returncode != 0:
        text = (result.stderr or result.stdout).strip().splitlines()
        raise ToolError(
            f"the generated C does not build with {build.compiler.name}: " + "\n".join(text[:40])
        )


def _environment() -> Mapping[str, str]:
    """The environment without what a make above this one left there, and with English output."""
    dropped = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """How a program ended."""

    exit_code: int  # negative: killed by that signal
    output: bytes
    errors: str


def run_program(command: Sequence[str]) -> ProgramRun:
    """Run a program that was just built; ToolError when it does not end."""
    try:
        result = subprocess.run(
            list(command), capture_output=True, timeout=RUN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{command[0]} did not end within {RUN_SECONDS} s") from error
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be started: {error}") from error
    return ProgramRun(result.returncode, result.stdout, result.stderr.decode(errors="replace"))
