"""Code of the blocks: what `edgec sizes` says of it, and what the model of the chip executes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_planner.engines import EngineChoice
from memory_planner.limits import NO_LIMITS, MemoryLimits
from memory_planner.ports import SIRACUSA
from memory_planner.target import Pin
from tests.bundles import compile_tiny
from tests.c.runtime import compile_c
from tests.firmware.builds import build_model, compiler
from toolchain.c_tools import Build, run_make, run_program
from toolchain.firmware.call_graph import CallGraph
from toolchain.firmware.check import blocks_of
from toolchain.firmware.elf import Function, Image, read_functions, read_image
from toolchain.firmware.hot_code import hot_code, rare_functions
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig

CALLED_BY_RARE = ("__ashldi3", "__ashrdi3", "__lshrdi3")
ONCE = "tiny_engine_feed"  # around the inner loop, where that is all that is hot
LINE = SIRACUSA.instruction_line
FAR_CACHE = MemoryLimits({}, (Pin("kv.*", "tile_sram"),))  # that travels in chunks
ENGINE = {"quant": QuantConfig(bits=4, group_size=-1), "engine": EngineChoice.NEUREKA}


NAMES = ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "context")


def shape_of(*sizes: int) -> dict[str, Any]:
    return dict(zip(NAMES, sizes, strict=True))


# Small models with the code of the benchmarks' shapes: heads, widths and contexts are theirs.
SMALL_HEADS = shape_of(64, 256, 16, 16, 4, 64)
BUNDLED = shape_of(224, 608, 7, 1, 32, 256)
IN_PIECES = shape_of(240, 840, 4, 1, 60, 256)  # sums in several pieces, heads of no power of two
ODD = shape_of(84, 156, 6, 2, 12, 37)
IN_CHUNKS = shape_of(64, 172, 8, 4, 8, 512)  # its cache travels
A8, A16 = ActMode.A8, ActMode.A16
CHANNEL = -1  # one scale per output channel
SHAPES = (
    pytest.param(SMALL_HEADS, CHANNEL, A16, id="small heads"),
    pytest.param(SMALL_HEADS, 32, A8, id="small heads-groups-a8"),
    pytest.param(BUNDLED, CHANNEL, A8, id="bundled-a8"),
    pytest.param(BUNDLED, 32, A16, id="bundled-groups"),
    pytest.param(BUNDLED, 32, A8, id="bundled-groups-a8"),
    pytest.param(IN_PIECES, CHANNEL, A16, id="pieces"),
    pytest.param(IN_PIECES, CHANNEL, A8, id="pieces-a8"),
    pytest.param(ODD, 32, A16, id="odd-groups"),
    pytest.param(IN_CHUNKS, 32, A16, id="chunks-groups"),
    pytest.param(IN_CHUNKS, 32, A8, id="chunks-groups-a8"),
)


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("soc"), "core", "soc")


def lines_of(function: Function) -> set[int]:
    last = function.address + function.size - 1
    return set(range(function.address // LINE * LINE, last + 1, LINE))


@pytest.mark.parametrize(
    "options",
    [
        ENGINE,
        {**ENGINE, "mode": ActMode.A8},
        {"quant": QuantConfig(bits=4, group_size=16), "engine": EngineChoice.NEUREKA},
        {"engine": EngineChoice.CORES},
        {**ENGINE, "limits": FAR_CACHE, "head_dim": 8, "context": 14},
    ],
)
def test_nothing_that_blocks_execute_is_left_out(
    options: dict[str, Any], chip: Path, tmp_path: Path
) -> None:
    bundle = compile_tiny(tmp_path / "bundle", **options)
    out = tmp_path / "out"
    flags = ("-fcallgraph-info=su",)
    run_make(Build(bundle.directory, out, "siracusa", compiler("gcc"), ("runner",), flags))
    program = out / f"{bundle.prefix}_runner"
    image, found = read_image(program), blocks_of(bundle.prefix, out, read_image(program))
    entry = next(each for key, each in image.code.items() if key[1] == "all_blocks")
    record = tmp_path / "executed"
    result = run_program([str(chip), str(program), hex(entry.address), str(record)])
    assert result.exit_code == 0
    executed = {int(row, 16) for row in record.read_text().split()}
    hot, rare = set[int](), set[int]()
    marked = {name for _, name in rare_functions(out.rglob("*.o"))} | {*CALLED_BY_RARE, ONCE}
    names = {name for name, _ in found.functions}
    for (_, name), function in image.code.items():
        if name in names:
            hot |= lines_of(function)
        elif name in marked:
            rare |= lines_of(function)
    assert executed <= hot | rare
    assert LINE * len(executed - rare) <= found.hot == LINE * len(hot)
    assert max(size for _, size in found.functions) > LINE


@pytest.mark.parametrize(("shape", "group_size", "mode"), SHAPES)
def test_the_instruction_cache_holds_what_blocks_run(
    shape: dict[str, Any], group_size: int, mode: ActMode, tmp_path: Path
) -> None:
    bundle = compile_tiny(
        tmp_path / "bundle",
        mode=mode,
        quant=QuantConfig(bits=4, group_size=group_size),
        engine=EngineChoice.AUTO,
        limits=FAR_CACHE if shape is IN_CHUNKS else NO_LIMITS,
        **shape,
    )
    out = tmp_path / "out"
    flags = ("-fcallgraph-info=su",)
    run_make(Build(bundle.directory, out, "siracusa", compiler("gcc"), ("runner",), flags))
    found = blocks_of(bundle.prefix, out, read_image(out / f"{bundle.prefix}_runner"))
    assert found.functions[0][0] == "all_blocks"
    assert found.hot <= SIRACUSA.instruction_cache, found.functions


def test_rare_functions_and_what_only_they_call_are_apart() -> None:
    """blocks > hot > shared, blocks > rare > shared, helper: lines count once."""
    calls = {
        "blocks": frozenset({"a.c:hot", "a.c:rare"}),
        "a.c:hot": frozenset({"shared"}),
        "a.c:rare": frozenset({"shared", "helper"}),
    }
    frames = dict.fromkeys(("blocks", "a.c:hot", "a.c:rare", "shared", "helper", "main"), 16)
    places = [("blocks", 0, 20), ("hot", 20, 4), ("shared", 64, 8), ("rare", 256, 40)]
    code = {
        ("a.c" if name in {"hot", "rare"} else "", name): Function(address, size, ".text")
        for name, address, size in [*places, ("helper", 300, 10), ("main", 400, 50)]
    }
    image, graph = Image((), code), CallGraph(frames, calls)
    found = hot_code(graph, image, frozenset({("a.c", "rare")}), ["blocks"], 16)
    assert found.functions == (("blocks", 20), ("shared", 8), ("hot", 4))
    assert found.hot == 3 * 16  # lines 0, 1 and 4
    assert found.rare == 40 + 10
    whole = hot_code(graph, image, frozenset(), ["blocks", "main"], 16)
    assert (whole.hot, whole.rare) == (11 * 16, 0)


def test_functions_of_objects_have_their_sections(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text(
        "int f(int x);\n__attribute__((cold, noinline)) static int g(int x) { return x * 3; }\n"
        "int f(int x) { return x == 1 ? g(x) : 5; }\n"
    )
    target = tmp_path / "a.o"
    compile_c([*compiler("gcc").command, "-O2", "-c", str(source), "-o", str(target)])
    sections = {key: each.section for key, each in read_functions(target).items()}
    assert sections[("", "f")] == ".text"
    assert rare_functions([target]) == {key for key, name in sections.items() if name != ".text"}
    assert [key[1].split(".")[0] for key in rare_functions([target])] == ["g"]
