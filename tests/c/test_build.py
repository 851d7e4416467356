"""What an integrator's compiler and linker see of the runtime."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c, rv32_port, sources

ZIG = (sys.executable, "-m", "ziglang", "cc")
RV32 = ("-target", "riscv32-freestanding", "-mcpu=generic_rv32+m+c", "-ffreestanding")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
needs_zig = pytest.mark.skipif(find_spec("ziglang") is None, reason="ziglang is not installed")
KERNELS = sorted((RUNTIME / "src").glob("*.c"))
HEADERS = sorted((RUNTIME / "include").glob("*.h"))

# What a compiler may call on RV32 by itself: copies, and 64-bit shifts and products.
ALLOWED = {"memcpy", "memset", "__ashldi3", "__ashrdi3", "__lshrdi3", "__muldi3"}


def compile_each(command: Sequence[str], files: Sequence[Path], directory: Path) -> list[Path]:
    """Object files of `files`, one call each: zig joins what one call compiles."""
    objects = [directory / f"{file.name}.o" for file in files]
    for source, target in zip(files, objects, strict=True):
        compile_c([*command, *INCLUDES, "-c", str(source), "-o", str(target)])
    return objects


def symbols(path: Path) -> tuple[set[str], set[str]]:
    """Names of an object file: (defined and visible outside, needed from outside)."""
    listing = subprocess.run(["nm", "-g", str(path)], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listing.stdout.splitlines()]
    undefined = {row[-1] for row in rows if row[-2] == "U"} - {"_GLOBAL_OFFSET_TABLE_"}
    return {row[-1] for row in rows if row[-2] != "U"}, undefined


@needs_gcc
@pytest.mark.parametrize("optimize", ["-O0", "-O3"])
def test_no_warnings_from_gcc(optimize: str, tmp_path: Path) -> None:
    compile_each(["gcc", *STRICT, optimize], sources(), tmp_path)


@needs_zig
def test_no_warnings_from_clang(tmp_path: Path) -> None:
    compile_each([*ZIG, *STRICT, "-O2"], sources(), tmp_path)


@needs_zig
@needs_nm
def test_rv32_objects_need_nothing_but_the_port(tmp_path: Path) -> None:
    port = rv32_port()
    flags = [*ZIG, *RV32, "-fno-sanitize=undefined", "-O2"]
    objects = compile_each(
        [*flags, *STRICT], [*KERNELS, *(p for p in port if p.suffix == ".c")], tmp_path
    )
    objects += compile_each(flags, [p for p in port if p.suffix == ".S"], tmp_path)
    defined, needed = (set().union(*sets) for sets in zip(*map(symbols, objects), strict=True))
    program = {"main", "__bss_start", "__bss_end", "__stack_top", "__global_pointer$"}
    assert needed - defined - ALLOWED <= program


@needs_gcc
@needs_nm
def test_symbols_and_stack_of_kernels(tmp_path: Path) -> None:
    objects = compile_each(["gcc", *STRICT, "-O2", "-fstack-usage"], KERNELS, tmp_path)
    for source, target in zip(KERNELS, objects, strict=True):
        defined, needed = symbols(target)
        assert defined == {source.stem}, "one public function per file, called like the file"
        assert {name for name in needed - ALLOWED if not name.startswith("edgec_")} == set()
        for line in target.with_suffix(".su").read_text().splitlines():
            _, size, kind = line.split("\t")
            assert int(size) <= 1024, line
            assert kind in {"static", "dynamic,bounded"}, line  # bounded: alignment of the frame


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize("standard", ["-std=c++11", "-std=c++20"])
def test_headers_can_be_included_from_cpp(standard: str, tmp_path: Path) -> None:
    source = tmp_path / "include.cpp"
    includes = [f'#include "{header.name}"' for header in HEADERS]
    source.write_text("\n".join([*includes, *includes, "int main() { return 0; }", ""]))
    flags = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wundef")
    compile_c(["g++", standard, *flags, "-Werror", *INCLUDES, "-fsyntax-only", str(source)])


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_each_header_stands_alone(header: Path, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header.name}"\nextern int unused;\n')
    compile_c(["cc", *STRICT, *INCLUDES, "-fsyntax-only", str(source)])


@pytest.mark.parametrize("path", [*sources(), *HEADERS], ids=lambda path: path.name)
def test_only_prefixed_macros_and_no_forbidden_words(path: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    if "include" in path.parts:
        assert set(re.findall(r"#define (?!EDGEC_)(\w+)", text)) == set()
    if "port" not in path.parts:
        assert re.findall(r"\b(?:malloc|free|printf|float|double|goto|alloca)\b", text) == []


def test_functions_are_short() -> None:
    for path in [*sources(), *HEADERS, *sorted((RUNTIME / "src").glob("*.h"))]:
        lines, start = path.read_text().splitlines(), 0
        assert len(lines) <= 300, path.name
        for number, line in enumerate(lines):
            if re.match(r"[A-Za-z].*[({,]$", line):
                start = number
            if line == "}":
                assert number - start + 1 <= 60, f"{path.name}:{start + 1}"
