"""The bare-metal port of Siracusa, on a model of the chip: start, team, DMA, engine, programs."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.bundle import LoadedBundle
from codegen.chip_link import ChipLinkView, chip_link_view
from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits
from memory_planner.plan import Plan
from memory_planner.target import Pin, TargetSpec
from sim.compare import compare_dump
from sim.dump import read_dump
from tests.bundles import compile_tiny
from tests.firmware.builds import any_compiler, build, build_model, compiler
from toolchain.c_tools import Build, run_make, run_program
from toolchain.firmware.check import check_sizes
from toolchain.firmware.elf import read_image
from toolchain.model.errors import ConfigError, DoesNotFitError, ToolError
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig

PER_CHANNEL = QuantConfig(bits=4, group_size=-1)


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("soc"), "core", "soc")


@pytest.fixture(scope="module")
def engine_bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """Linears on the engine, int16 activations."""
    return compile_tiny(
        tmp_path_factory.mktemp("engine"), quant=PER_CHANNEL, engine=EngineChoice.NEUREKA
    )


@pytest.fixture(scope="module")
def engine_a8_bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return compile_tiny(
        tmp_path_factory.mktemp("engine8"),
        quant=PER_CHANNEL,
        engine=EngineChoice.NEUREKA,
        mode=ActMode.A8,
    )


@pytest.fixture(scope="module")
def off_chip_bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    limits = MemoryLimits({}, (Pin("*.weight", "hyperram"),))
    return compile_tiny(tmp_path_factory.mktemp("outside"), limits=limits, num_layers=1)


def check_lines(bundle: LoadedBundle) -> list[str]:
    """What the checker says when all is well."""
    ops = [f"{op.id:<28}ok" for op in bundle.program.ops]
    count, steps = len(ops), len(bundle.golden.tokens)
    verdict = f"golden: {count} of {count} ops equal in {steps} steps and a prompt: PASSED"
    return ["self-test: passed", *ops, verdict]


@pytest.mark.parametrize("name", ["tiny_bundle", "engine_bundle", "engine_a8_bundle"])
@pytest.mark.parametrize("cores", [1, 3, 8])
def test_every_op_is_equal(
    name: str, cores: int, chip: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle: LoadedBundle = request.getfixturevalue(name)
    assert (bundle.plan.engine is not None) == name.startswith("engine")
    result = run_program([str(chip), str(build(bundle, tmp_path, "checker", cores))])
    assert result.errors == ""
    assert result.output.decode().splitlines() == check_lines(bundle)
    assert result.exit_code == 0


@pytest.mark.parametrize(("using", "optimize"), [("gcc", "-O2"), ("gcc", "-Os"), ("clang", "-O2")])
def test_dump_of_each_compiler_equals_the_golden_files(
    using: str, optimize: str, engine_bundle: LoadedBundle, chip: Path, tmp_path: Path
) -> None:
    """The tracer's dump, as `edgec compare` reads it; the console may add a line feed. With -Os gcc
    calls functions of its library."""
    chosen, bundle = compiler(using), engine_bundle.directory
    run_make(Build(bundle, tmp_path, "siracusa", chosen, ("tracer",), optimize=optimize, cores=8))
    result = run_program([str(chip), str(tmp_path / "tiny_tracer")])
    assert result.exit_code == 0
    comparison = compare_dump(read_dump(result.output), engine_bundle.golden)
    assert comparison.complete
    assert comparison.first_divergence is None


def test_a_damaged_image_does_not_start(
    engine_bundle: LoadedBundle, chip: Path, tmp_path: Path
) -> None:
    """One flipped bit of a weight in the program file."""
    program = build(engine_bundle, tmp_path, "checker")
    image = bytearray(program.read_bytes())
    blob = (engine_bundle.directory / "weights" / "mram.bin").read_bytes()
    start = image.index(blob)
    place = engine_bundle.plan.placements["l01.mlp.gate_proj.weight"]
    base = engine_bundle.plan.region("mram").blob_base
    image[start + place.offset - base] ^= 1
    program.write_bytes(image)
    lines = run_program([str(chip), str(program)]).output.decode().splitlines()
    assert lines[-1].endswith("status 10")  # a blob's CRC is wrong: EDGEC_BAD_PAYLOAD_CRC


def test_profile_counts_every_call(engine_bundle: LoadedBundle, chip: Path, tmp_path: Path) -> None:
    result = run_program([str(chip), str(build(engine_bundle, tmp_path, "profiler"))])
    head, *rows, step = result.output.decode().splitlines()
    steps = str(len(engine_bundle.golden.tokens))
    assert (result.exit_code, head) == (0, "op, cycles of a call, calls, share in percent")
    ids, timed = [op.id for op in engine_bundle.program.ops], [row.split()[0] for row in rows]
    assert timed == [name for name in ids if name in timed]
    fused = {f"l0{layer}.{name}" for layer in (0, 1) for name in ("attn.norm", "mlp.norm")}
    assert set(ids) - set(timed) >= fused  # fused functions count as one of their ops
    assert {row.split()[2] for row in rows} == {steps}
    assert step.split()[2:] == [steps, "100.0"]
    total = int(step.split()[1])
    assert abs(sum(int(row.split()[1]) for row in rows) - total) <= len(rows)


@pytest.mark.parametrize("using", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["tiny_bundle", "engine_bundle"])
def test_programs_are_as_planned(
    name: str, using: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Addresses, bytes of code, and (with gcc) the worst stacks."""
    bundle: LoadedBundle = request.getfixturevalue(name)
    report = check_sizes(bundle.directory, compiler(using))
    assert [use.program for use in report.memories] == ["runner", "tracer", "checker", "profiler"]
    assert all(8_000 < use.used <= use.reserved == 163840 + 8192 for use in report.memories)
    assert len(report.stacks) == (8 if using == "gcc" else 0)
    assert report.instruction_cache == 4096
    if using == "gcc":
        assert report.blocks is not None
        assert 2_000 < report.blocks.hot < min(use.used for use in report.memories)
    for use in report.stacks:
        assert 128 <= use.used <= use.reserved
        assert use.reserved == (2944 if "cluster" in use.what else 8192)
    deepest = [use.path for use in report.stacks if use.what == "stack of a cluster core"]
    assert all("tiny_step" in path or "tiny_prefill" in path for path in deepest)


def test_a_stack_that_is_too_small_is_named(
    tiny_bundle: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little(plan: Plan, target: TargetSpec) -> ChipLinkView:
        view = chip_link_view(plan, target)
        assert view is not None
        return replace(view, core_stack=512)

    monkeypatch.setattr("toolchain.firmware.check.chip_link_view", little)
    with pytest.raises(DoesNotFitError, match=r"runner: stack of a cluster core.*at most 512"):
        check_sizes(tiny_bundle.directory, compiler("gcc"))


@pytest.mark.parametrize("using", ["gcc", "clang"])
def test_moved_or_grown_sections_do_not_link(
    using: str, tiny_bundle: LoadedBundle, tmp_path: Path
) -> None:
    chosen = compiler(using)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle.directory, copy)
    arenas = copy / "arenas.S"
    text = arenas.read_text(encoding="utf-8")
    size = tiny_bundle.plan.region("l1").arena_size
    arenas.write_text(text.replace(f".zero {size}", f".zero {size + 8}"), encoding="utf-8")
    with pytest.raises(ToolError, match=r"\.arena_l1 must have"):
        run_make(Build(copy, tmp_path / "grown", "siracusa", chosen, ("runner",)))
    arenas.write_text(text, encoding="utf-8")
    script = copy / "runtime/port/siracusa/link.ld"
    linker = script.read_text(encoding="utf-8")
    place = re.search(r"\.weightmem_mram (0x\w+) :", linker)
    assert place is not None
    moved = f"0x{int(place[1], 16) + 32:08X}"
    script.write_text(linker.replace(place[0], f".weightmem_mram {moved} :"), encoding="utf-8")
    with pytest.raises(ToolError, match=r"\.weightmem_mram must have"):
        run_make(Build(copy, tmp_path / "moved", "siracusa", chosen, ("runner",)))


def test_code_that_is_too_large_does_not_link(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle.directory, copy)
    script = copy / "runtime/port/siracusa/link.ld"
    text = script.read_text(encoding="utf-8")
    assert "LENGTH = 106504" in text
    script.write_text(text.replace("LENGTH = 106504", "LENGTH = 8192"), encoding="utf-8")
    with pytest.raises(ToolError, match=r"region 'code'|region `code'"):
        run_make(Build(copy, tmp_path / "out", "siracusa", any_compiler(), ("runner",)))


def test_image_sections_and_symbols(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    image = read_image(build(tiny_bundle, tmp_path, "runner"))
    found = {section.name: section for section in image.sections}
    l1 = tiny_bundle.plan.region("l1")
    assert found[".arena_l1"].address == 0x1000_0000 + l1.arena_base
    assert not found[".arena_l1"].content
    assert found[".weightmem_mram"].content
    assert found[".text"].address == 0x1C01_0000  # the controller begins there
    assert {"tiny_step", "tiny_cluster_core", "main"} <= image.functions
    other = tmp_path / "text"
    other.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ToolError, match="32-bit"):
        read_image(other)


def test_off_chip_weights_are_refused_at_build_time(
    off_chip_bundle: LoadedBundle, tmp_path: Path
) -> None:
    with pytest.raises(ToolError, match=r"PORT=siracusa.*weights are in hyperram"):
        run_make(
            Build(off_chip_bundle.directory, tmp_path, "siracusa", any_compiler(), ("runner",))
        )
    assert not (off_chip_bundle.directory / "runtime/port/siracusa").exists()
    with pytest.raises(ConfigError, match="hyperram"):
        check_sizes(off_chip_bundle.directory)


def test_other_chips_have_no_such_port(tmp_path: Path) -> None:
    bundle = compile_tiny(tmp_path, target="rv32", num_layers=1)
    ports = {path.name for path in (bundle.directory / "runtime" / "port").iterdir()}
    assert ports == {"host", "rv32"}
    with pytest.raises(ConfigError, match="target rv32 declares none"):
        check_sizes(bundle.directory)
    with pytest.raises(ToolError, match="ports host, rv32"):
        run_make(Build(bundle.directory, tmp_path / "out", "siracusa", any_compiler(), ("runner",)))


def test_cmake_builds_the_port(engine_bundle: LoadedBundle, chip: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    command, *flags = compiler("gcc").command
    architecture = " ".join(flags)
    options = {
        "CMAKE_SYSTEM_NAME": "Generic",
        "CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",
        "CMAKE_C_COMPILER": command,
        "CMAKE_C_FLAGS": f"{architecture} -Os",
        "CMAKE_ASM_FLAGS": architecture,
        "TINY_PORT": "siracusa",
    }
    words = [f"-D{name}={value}" for name, value in options.items()]
    made = [cmake, "-S", str(engine_bundle.directory), "-B", str(tmp_path), *words]
    for step in (made, [cmake, "--build", str(tmp_path)]):
        result = run_program(step)
        assert result.exit_code == 0, result.output.decode() + result.errors
    runner = tmp_path / "tiny_runner"
    result = run_program([str(chip), str(runner)])
    assert (result.exit_code, len(read_dump(result.output).steps)) == (0, 5)
    assert ".tables" in {section.name for section in read_image(runner).sections}
    commands = run_program([cmake, "--build", str(tmp_path), "--clean-first", "-v"]).output
    assert b"-DTINY_XPULP=1" in commands
