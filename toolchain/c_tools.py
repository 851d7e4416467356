"""Finds the C compilers and RV32 simulators of the machine, and runs them.

Nothing is installed and nothing is guessed: what is missing is a ToolError that names the remedies.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from toolchain.device_tree import device_tree
from toolchain.model.errors import MismatchError, Problem, ToolError

RAM = (0x8000_0000, 64 << 20)  # as runtime/port/rv32/link.ld
SPIKE_ISA = "rv32imc_zicsr_zicntr"
GCC_RV32 = ("-march=rv32imc_zicsr", "-mabi=ilp32")
ZIG_RV32 = ("-target", "riscv32-freestanding", "-mcpu=generic_rv32+m+c")
# zig instruments undefined behaviour unless told otherwise.
ZIG_PLAIN = ("-fno-sanitize=undefined",)
RV32_GCCS = ("riscv64-unknown-elf-gcc", "riscv32-unknown-elf-gcc")
RUN_SECONDS = 300.0  # limit of a program whose caller does not know better


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
        try:
            command = tuple(shlex.split(chosen))
        except ValueError:  # an open quotation
            command = ()
        if not command or shutil.which(command[0]) is None:
            problem = Problem("$CC", repr(chosen), "the command of a C compiler")
            raise ToolError("$CC names no compiler", [problem], fix="unset or correct CC")
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
    gcc = find_rv32_gcc()
    if gcc:
        return gcc
    raise ToolError(
        "no C compiler for RV32",
        [Problem("zig", "not found", "ziglang"), Problem("gcc", "not found", RV32_GCCS[0])],
        fix="pip install 'edgec[rv32]', or install gcc-riscv64-unknown-elf",
    )


def find_rv32_gcc() -> Compiler | None:
    """A bare-metal RISC-V gcc, which accounts for stacks; None where there is none."""
    names = (name for name in RV32_GCCS if shutil.which(name))
    return next((Compiler(name, (name, *GCC_RV32)) for name in names), None)


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


def find_make() -> str:
    """make; ToolError when there is none."""
    make = shutil.which("make")
    if make is None:
        problem = Problem("make", "not found", "the make command")
        raise ToolError("`make` is not installed", [problem], fix="install make")
    return make


def check_tools(runners: Sequence[str], scratch: Path) -> None:
    """Raise one ToolError that names everything that the runners (host, rv32) lack."""
    finders: list[Callable[[], object]] = [find_make]
    if "host" in runners:
        finders.append(find_host_compiler)
    if "rv32" in runners:
        finders += [find_rv32_compiler, lambda: find_rv32_simulator(scratch)]
    errors: list[ToolError] = []
    for find in finders:
        try:
            find()
        except ToolError as error:
            errors.append(error)
    if len(errors) > 1:
        raise ToolError(
            "; ".join(error.what for error in errors),
            [problem for error in errors for problem in error.problems],
            fix="; ".join(error.fix for error in errors),
        )
    if errors:
        raise errors[0]


@dataclass(frozen=True, slots=True)
class Build:
    """One call of a bundle's Makefile."""

    bundle: Path
    out: Path  # its path may have any characters
    port: str
    compiler: Compiler
    targets: tuple[str, ...]
    flags: tuple[str, ...] = ()
    optimize: str = "-O2"
    steps: int | None = None
    prompt: int | None = None  # tokens of a prompt of programs without arguments
    cores: int | None = None  # team of programs that are started without arguments


def run_make(build: Build) -> None:
    """Build the targets into `build.out`; ToolError with the compiler's output when it fails."""
    make = find_make()
    tree = _mirror(build.bundle, build.out)
    # Every variable that the Makefile reads is given, so that none comes from the environment.
    variables = {
        "PORT": build.port,
        "OUT": os.pardir,
        "CC": shlex.join(build.compiler.command),
        "OPT": build.optimize,
        "CFLAGS": shlex.join(build.flags),
        "CPPFLAGS": "",
        "LDFLAGS": "",
        "STEPS": "" if build.steps is None else str(build.steps),
        "PROMPT": "" if build.prompt is None else str(build.prompt),
        "CORES": "" if build.cores is None else str(build.cores),
    }
    command = [make, "--silent", "-C", str(tree), f"-j{os.cpu_count() or 1}", *build.targets]
    command += [f"{name}={value.replace('$', '$$')}" for name, value in variables.items()]
    result = _run(command, environment=_environment())
    if result.exit_code != 0:
        text = (result.errors or result.output.decode(errors="replace")).strip().splitlines()
        raise ToolError(
            f"the generated C does not build with {build.compiler.name}: " + "\n".join(text[:40])
        )


def _mirror(bundle: Path, out: Path) -> Path:
    """A folder of links to the bundle's entries inside `out`.

    Run there, make sees relative paths only: a space in the path of either would split a name.
    """
    tree = out / "bundle"
    tree.mkdir(parents=True, exist_ok=True)
    for entry in bundle.resolve().iterdir():
        link = tree / entry.name
        if not link.is_symlink():
            link.symlink_to(entry)
    return tree


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


def run_program(
    command: Sequence[str],
    *,
    what: str = "",
    seconds: float | None = None,
    output: Path | None = None,
) -> ProgramRun:
    """Run a program that was just built, for at most `seconds` (None: RUN_SECONDS).

    Its standard output goes to the file `output` when one is named. MismatchError that names
    `what` when the program does not end, ToolError when it cannot be started.
    """
    limit = RUN_SECONDS if seconds is None else seconds
    try:
        return _run(command, seconds=limit, output=output)
    except subprocess.TimeoutExpired as error:
        raise MismatchError(
            f"{what or command[0]} did not end within {limit:.0f} s and was stopped",
            fix="look for an endless loop, or for a core that does not reach a barrier",
        ) from error


def _run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
    output: Path | None = None,
) -> ProgramRun:
    """Run in a process group of its own, which is gone afterwards however this call ends."""
    with output.open("wb") if output else nullcontext(subprocess.PIPE) as stdout:
        try:
            process = subprocess.Popen(
                list(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"{command[0]} cannot be started: {error}") from error
        with process:
            try:
                written, errors = process.communicate(timeout=seconds)
            except BaseException:  # also Ctrl-C and the end of this process
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    return ProgramRun(process.returncode, written or b"", errors.decode(errors="replace"))
