"""The generated C under compilers: strict, self-contained, reentrant, with bounded stack."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from codegen.bundle import LoadedBundle
from memory_planner.engines import EngineChoice
from tests.bundles import compile_tiny
from tests.paths import REPOSITORY
from toolchain.c_tools import Build, Compiler, find_host_compiler, run_make
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig

STRICT = [
    *("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow"),
    *("-Wundef", "-Wstrict-prototypes", "-Werror"),
]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
NEEDED = {"memcpy", "memset", "tiny_barrier", "tiny_dma_start", "tiny_dma_wait"}


def command(*words: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def needs(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def include_flags(bundle: LoadedBundle) -> list[str]:
    folders = ("include", "runtime/include", "runtime/src", "test")
    return [f"-I{bundle.directory / folder}" for folder in folders]


def sources(bundle: LoadedBundle, kind: str) -> list[Path]:
    lines = (bundle.directory / "files.txt").read_text().splitlines()
    return [bundle.directory / line.split()[1] for line in lines if line.startswith(f"{kind} ")]


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """As different as can be: another target, int8 activations, 2-bit weights, tied, one block."""
    return compile_tiny(
        tmp_path_factory.mktemp("other"),
        prefix="other",
        target="rv32",
        mode=ActMode.A8,
        quant=QuantConfig(bits=2, group_size=-1),
        num_layers=1,
        tied=True,
    )


@pytest.fixture(scope="module")
def library(tiny_bundle: LoadedBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libtiny.a as firmware links it, at fixed addresses."""
    out = tmp_path_factory.mktemp("library")
    compiler = Compiler("cc", (needs("cc"),))
    run_make(Build(tiny_bundle.directory, out, "host", compiler, ("lib",), ("-fno-pie",)))
    return out / "libtiny.a"


@pytest.mark.parametrize("name", ["tiny_bundle", "other_bundle"])
def test_clang_finds_nothing_to_warn_about(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is not installed")
    bundle: LoadedBundle = request.getfixturevalue(name)
    zig = Compiler("zig", (sys.executable, "-m", "ziglang", "cc"))
    run_make(Build(bundle.directory, tmp_path, "host", zig, ("runner",), optimize="-O0"))


def test_headers_are_cpp(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    headers = sorted(tiny_bundle.directory.glob("*include/*.h"))
    headers += sorted(tiny_bundle.directory.glob("runtime/include/*.h"))
    unit = tmp_path / "unit.cpp"
    unit.write_text("".join(f'#include "{path.name}"\n' for path in headers if path.suffix == ".h"))
    flags = ("-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    command(needs("g++"), *flags, *include_flags(tiny_bundle), unit)


def test_library_needs_nothing_but_the_port(library: Path) -> None:
    text = command(needs("nm"), library)
    symbols = re.findall(r"^\S* +([A-Za-z]) (\S+)$", text, re.MULTILINE)
    defined = {name for kind, name in symbols if kind.isupper() and kind != "U"}
    undefined = {name for kind, name in symbols if kind == "U"} - defined
    assert undefined - {"_GLOBAL_OFFSET_TABLE_"} <= NEEDED
    assert {name for name in defined if not name.startswith("tiny_")} == set()


def test_library_has_no_mutable_data(library: Path) -> None:
    """All state is in contexts and arenas; the arenas are the only symbols outside read-only."""
    text = command(needs("nm"), library)
    mutable = re.findall(r"^\S+ ([bBdDcCsSgG]) (\S+)$", text, re.MULTILINE)
    assert {name for _, name in mutable} <= {"tiny_arena_l1", "tiny_arena_tile_sram"}


def test_sections_can_be_chosen(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    readelf = needs("readelf")
    chosen = '-DTINY_SECTION_MRAM=".flash"'
    for flag, section in (("-DUNUSED", ".weightmem_mram"), (chosen, ".flash")):
        unit = tmp_path / "weights.o"
        command(
            *find_host_compiler().command,
            flag,
            *include_flags(tiny_bundle),
            "-c",
            "weights.S",
            "-o",
            unit,
            cwd=tiny_bundle.directory,
        )
        headers = command(readelf, "-SW", unit)
        found = re.search(rf"{re.escape(section)}\s+PROGBITS\s+\S+ \S+ (\S+) \S+\s+A ", headers)
        assert found is not None, headers
        assert int(found.group(1), 16) == len(tiny_bundle.blobs["mram"])
    arenas = tmp_path / "arenas.o"
    compiler = find_host_compiler().command
    flags = (*include_flags(tiny_bundle), "-c", "arenas.S", "-o", str(arenas))
    command(*compiler, *flags, cwd=tiny_bundle.directory)
    assert re.search(r"\.arena_l1\s+NOBITS", command(readelf, "-SW", arenas))


def run_sanitized(
    test: str, bundles: Sequence[LoadedBundle], tmp_path: Path, defines: Sequence[str] = ()
) -> None:
    """Build the bundles' libraries and tests/c/`test` with sanitizers, and run it."""
    compiler = find_host_compiler()
    if "zig" in compiler.name:
        pytest.skip("zig brings no sanitizer runtime")
    archives, flags = [], [*STRICT, *SANITIZE, *defines]
    for bundle in bundles:
        out = tmp_path / bundle.prefix
        flags += include_flags(bundle)
        extra = (*SANITIZE, *defines)
        run_make(Build(bundle.directory, out, "host", compiler, ("lib",), extra, ""))
        archives.append(out / f"lib{bundle.prefix}.a")
        include = [f"-Wa,-I,{bundle.directory}", *include_flags(bundle)]
        ports = (bundle.directory / "runtime/port/host").glob("*_port.c")
        model = (bundle.directory / "runtime/src").glob("*_neureka_*.c")  # of the host's port
        for unit in (*sources(bundle, "selftest"), *ports, *model):
            target = tmp_path / f"{unit.name}.o"
            command(*compiler.command, *SANITIZE, *include, "-c", unit, "-o", target)
            archives.insert(0, target)
    program = tmp_path / "program"
    source = REPOSITORY / "tests" / "c" / test
    command(*compiler.command, *flags, source, *archives, "-pthread", "-o", program)
    command(program)


def test_two_models_run_interleaved(
    tiny_bundle: LoadedBundle, other_bundle: LoadedBundle, tmp_path: Path
) -> None:
    run_sanitized("two_models.c", [tiny_bundle, other_bundle], tmp_path)


@pytest.mark.parametrize("engine", [False, True])
def test_cores_that_keep_their_step(
    engine: bool, tiny_bundle: LoadedBundle, tmp_path: Path
) -> None:
    bundle = tiny_bundle
    if engine:
        quant = QuantConfig(bits=4, group_size=-1)
        bundle = compile_tiny(tmp_path / "engine", quant=quant, engine=EngineChoice.NEUREKA)
    run_sanitized("core_memory.c", [bundle], tmp_path, ["-DTINY_CORE_MEMORY=1"])


def test_every_status_code(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    run_sanitized("api_status.c", [tiny_bundle], tmp_path)


def stack_usage(bundle: LoadedBundle, tmp_path: Path) -> dict[str, int]:
    """Bytes of stack of each function of the generated schedule; fails on unbounded ones."""
    unit = tmp_path / bundle.directory.parent.name / "model.o"
    unit.parent.mkdir(exist_ok=True)
    source = bundle.directory / "src" / f"{bundle.prefix}_model.c"
    flags = (*STRICT, *include_flags(bundle), "-Os", "-fstack-usage", "-c")
    command(needs("gcc"), *flags, source, "-o", unit)
    rows = [line.split("\t") for line in unit.with_suffix(".su").read_text().splitlines()]
    assert {row[2] for row in rows} <= {"static", "dynamic,bounded"}  # pushed arguments
    return {row[0].rsplit(":", 1)[1]: int(row[1]) for row in rows}


def test_stack_does_not_grow_with_the_number_of_blocks(
    tiny_bundle: LoadedBundle, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    deep = compile_tiny(tmp_path / "deep", num_layers=9)
    shallow = stack_usage(tiny_bundle, tmp_path)
    found = stack_usage(deep, tmp_path)
    for name in found.keys() & shallow.keys():  # which functions are inlined may differ
        assert abs(found[name] - shallow[name]) <= 16  # registers saved: constants are others
    assert max(found.values()) <= max(shallow.values()) + 16
    assert max(shallow.values()) < 1024


LINK_SCRIPT = """
MEMORY {
    mram : ORIGIN = 0x10000000, LENGTH = 4M
    tile_sram : ORIGIN = 0x20000000, LENGTH = 4M
    l2 : ORIGIN = 0x30000000, LENGTH = 2M
    l1 : ORIGIN = 0x40000000, LENGTH = 256K
}
SECTIONS {
    INCLUDE sections.ld
    .rodata : { *(.rodata) } > l2
}
"""


def test_linker_fragment_places_and_checks(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    linker = needs("ld")
    (tmp_path / "all.ld").write_text(LINK_SCRIPT)
    compiler = find_host_compiler().command

    def link() -> subprocess.CompletedProcess[str]:
        for name in ("weights", "arenas"):
            words = [*compiler, *include_flags(tiny_bundle), "-c", f"{name}.S"]
            command(*words, "-o", tmp_path / f"{name}.o", cwd=tiny_bundle.directory)
        words = [linker, "-L", str(tiny_bundle.directory), "-T", "all.ld", "weights.o", *extra]
        words += ["-o", "image"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    extra = ["arenas.o"]
    result = link()
    assert result.returncode == 0, result.stderr
    symbols = command(needs("nm"), tmp_path / "image")
    assert "0000000010000000 R tiny_weights_mram\n" in symbols.replace(" r ", " R ")
    assert re.search(r"^0*40000000 \w tiny_arena_l1$", symbols, re.MULTILINE)
    (tmp_path / "big.S").write_text('.section ".arena_l1", "aw", %nobits\n.zero 262000\n')
    command(*compiler, "-c", "big.S", "-o", "big.o", cwd=tmp_path)
    extra.append("big.o")
    result = link()
    assert result.returncode != 0
    assert "bytes of l1" in result.stderr


def test_cmake_builds_and_passes_the_selftest(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    cmake, ctest = needs("cmake"), needs("ctest")
    command(cmake, "-S", tiny_bundle.directory, "-B", tmp_path / "build")
    command(cmake, "--build", tmp_path / "build", "-j2")
    assert "100% tests passed" in command(ctest, "--test-dir", tmp_path / "build")
