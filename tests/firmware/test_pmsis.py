"""The example port on the vendor SDK's API, with a stub of that API for one core."""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen.bundle import LoadedBundle
from memory_planner.engines import EngineChoice
from memory_planner.target_file import load_target
from tests.bundles import compile_tiny
from tests.c.runtime import RUNTIME, STRICT, compile_c
from tests.firmware.builds import any_compiler, build_model
from tests.paths import REPOSITORY
from toolchain.c_tools import run_program
from toolchain.model.quantize import QuantConfig

STUB = REPOSITORY / "tests" / "c" / "pmsis_stub"
BARE = ("-O2", "-ffreestanding", "-nostdlib", "-static")


def listed(bundle: LoadedBundle, *kinds: str) -> list[Path]:
    """Files of the bundle's files.txt whose lines begin with one of `kinds`."""
    lines = (bundle.directory / "files.txt").read_text(encoding="utf-8").splitlines()
    return [
        bundle.directory / line.split()[-1]
        for line in lines
        if any(line.startswith(kind + " ") for kind in kinds)
    ]


def command(bundle: LoadedBundle) -> list[str]:
    folders = [bundle.directory / name for name in ("include", "runtime/include", "runtime/src")]
    includes = [f"-I{folder}" for folder in (*folders, bundle.directory / "test", STUB)]
    flags = [*BARE, *includes, f"-Wa,-I,{bundle.directory}"]
    prefix = bundle.prefix
    names = [f"-DSTUB_EXIT={prefix}_exit", f"-DSTUB_TRAP={prefix}_trap"]
    macro = f"-D{prefix.upper()}_PMSIS_IN_L1(address)=((address)!=0U)"  # all transfers are inward
    return [*any_compiler().command, *flags, *names, macro]


def test_checker_runs_on_the_stub(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    root = tiny_bundle.directory
    files = listed(tiny_bundle, "source", "optional", "selftest", "port pmsis")
    files += [root / "test" / name for name in ("tiny_programs.c", "tiny_golden.c", "check.c")]
    files += [root / "test" / "tiny_golden_data.S", STUB / "pmsis.c"]
    files += [root / "runtime/port/rv32" / name for name in ("crt0.S", "tiny_memory.S")]
    trace = ["-include", str(root / "test" / "tiny_trace.h")]
    objects = []
    for file in files:
        objects.append(str(tmp_path / f"{file.name}.o"))
        flags = [*STRICT, *(trace if file.name == "tiny_model.c" else [])]
        flags = flags if file.suffix == ".c" else []
        compile_c([*command(tiny_bundle), *flags, "-c", str(file), "-o", objects[-1]])
    program = tmp_path / "program.elf"
    script = root / "runtime/port/rv32/link.ld"
    compile_c([*command(tiny_bundle), *objects, "-T", str(script), "-o", str(program)])
    core = build_model(tmp_path, "core")
    result = run_program([str(core), str(program)])
    assert (
        result.output.decode()
        .splitlines()[-1]
        .endswith("ops equal in 5 steps and a prompt: PASSED")
    )
    assert result.exit_code == 0


def test_engine_port_compiles(tmp_path: Path) -> None:
    bundle = compile_tiny(
        tmp_path,
        quant=QuantConfig(bits=4, group_size=-1),
        engine=EngineChoice.NEUREKA,
        num_layers=1,
    )
    for file in listed(bundle, "port pmsis"):
        target = str(tmp_path / "o.o")
        words = [word for word in command(bundle) if "IN_L1" not in word]
        compile_c([*words, *STRICT, "-c", str(file), "-o", target])


@pytest.mark.parametrize("name", ["tiny_console.c", "tiny_port.c"])
def test_files_are_listed(name: str, tiny_bundle: LoadedBundle) -> None:
    assert name in {path.name for path in listed(tiny_bundle, "port pmsis")}


def test_stacks_are_those_of_the_target() -> None:
    text = (RUNTIME / "port" / "pmsis" / "edgec_port.c").read_text(encoding="utf-8")
    reserved = load_target("siracusa").region("l1").reservations
    (stack,) = [part.size // part.count for part in reserved if part.category == "stacks"]
    assert f"#define CORE_STACK {stack}U " in text
