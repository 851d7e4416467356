"""What an integrator's compiler and linker see of the runtime."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c, sources

ZIG = (sys.executable, "-m", "ziglang", "cc")
RV32 = ("-target", "riscv32-freestanding", "-mcpu=generic_rv32+m+c", "-ffreestanding")
needs_zig = pytest.mark.skipif(find_spec("ziglang") is None, reason="ziglang is not installed")
KERNELS = sorted((RUNTIME / "src").glob("*.c"))
HEADERS = sorted((RUNTIME / "include").glob("*.h"))

# What a compiler may call on RV32 by itself: copies, and 64-bit shifts and products.
ALLOWED = {"memcpy", "memset", "__ashldi3", "__ashrdi3", "__lshrdi3", "__muldi3"}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("optimize", ["-O0", "-O2", "-O3", "-Os"])
def test_no_warnings_from_gcc(optimize: str, tmp_path: Path) -> None:
    for source in sources():
        compile_c(
            ["gcc", *STRICT, optimize, *INCLUDES, "-c", str(source), "-o", str(tmp_path / "o")]
        )


@needs_zig
def test_no_warnings_from_clang_for_the_host(tmp_path: Path) -> None:
    for source in sources():
        compile_c([*ZIG, *STRICT, "-O2", *INCLUDES, "-c", str(source), "-o", str(tmp_path / "o.o")])


def rv32_objects(directory: Path) -> list[Path]:
    port = RUNTIME / "port" / "rv32"
    objects = []
    for source in [*KERNELS, *sorted(port.glob("*.c")), *sorted(port.glob("*.S"))]:
        target = directory / f"{source.stem}_{source.suffix[1:]}.o"
        strict = STRICT if source.suffix == ".c" else ()
        flags = (*RV32, *strict, "-fno-sanitize=undefined", "-O2", *INCLUDES)
        compile_c([*ZIG, *flags, "-c", str(source), "-o", str(target)])
        objects.append(target)
    return objects


@needs_zig
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_rv32_objects_need_nothing_but_the_port(tmp_path: Path) -> None:
    defined: set[str] = set()
    undefined: set[str] = set()
    for path in rv32_objects(tmp_path):
        listing = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            *_, kind, name = line.split()
            (undefined if kind == "U" else defined).add(name)
    from_outside = undefined - defined
    program = {"main", "__bss_start", "__bss_end", "__stack_top", "__global_pointer$"}
    assert from_outside - ALLOWED <= program
    kernels = {path.stem for path in KERNELS}
    assert kernels <= defined, "one public function per file, called like the file"


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_symbols_of_kernels(tmp_path: Path) -> None:
    for source in KERNELS:
        target = tmp_path / "kernel.o"
        compile_c(["cc", *STRICT, "-O2", *INCLUDES, "-c", str(source), "-o", str(target)])
        listing = subprocess.run(["nm", "-g", str(target)], capture_output=True, text=True)
        symbols = [line.split() for line in listing.stdout.splitlines()]
        assert [s[-1] for s in symbols if s[-2] in "TDBRC"] == [source.stem]
        outside = {s[-1] for s in symbols if s[-2] == "U"} - {"_GLOBAL_OFFSET_TABLE_"}
        assert all(name.startswith("edgec_") or name in ALLOWED for name in outside), outside


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


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_stack_is_small_and_fixed(tmp_path: Path) -> None:
    for source in KERNELS:
        target = tmp_path / f"{source.stem}.o"
        compile_c(
            *[
                ["gcc", *STRICT, "-O2", "-fstack-usage", *INCLUDES, "-c", str(source)]
                + ["-o", str(target)]
            ]
        )
        for line in target.with_suffix(".su").read_text().splitlines():
            _, size, kind = line.split("\t")
            assert int(size) <= 1024, line
            assert kind == "static", line


def test_functions_are_short() -> None:
    for path in [*sources(), *HEADERS, *sorted((RUNTIME / "src").glob("*.h"))]:
        lines, start = path.read_text().splitlines(), 0
        assert len(lines) <= 300, path.name
        for number, line in enumerate(lines):
            if re.match(r"[A-Za-z].*[({,]$", line):
                start = number
            if line == "}":
                assert number - start + 1 <= 60, f"{path.name}:{start + 1}"
