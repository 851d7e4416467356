"""Blocks that run more than once: one copy of their weights, from checkpoint to C."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from codegen.program_check import check_program
from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits
from sim.session import Session
from tests.model.gptq import Format, write_gptq
from tests.model.spoil import Encoded
from tests.model.tiny import write_model, write_weights
from tests.test_sparse import needs_rv32
from toolchain.cli import main
from toolchain.model.block_copies import copied_blocks
from toolchain.model.checkpoint import load_model
from toolchain.model.lower import lower_model
from toolchain.model.outline import LowerConfig, WeightFacts, outline_program
from toolchain.model.quant_settings import Override, QuantConfig
from toolchain.model.quantize import quantize_model
from toolchain.model.shared_blocks import blocks_in, with_shared_blocks
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 72, "context": 5, "tied": False}
ORDER = (0, 2, 2, 1, 0)
COPIES = (0, 1, 1, 3, 0)


def franken(directory: Path, order: tuple[int, ...] = ORDER, **shape: Any) -> tuple[Path, Path]:
    """A model of three blocks, and one that runs them in `order`, as copies."""
    base = write_model(directory / "base", num_layers=3, **(SHAPE | shape))
    other = write_model(directory / "franken", num_layers=len(order), **(SHAPE | shape))
    model = load_model(base)
    weights = {}
    for name in load_model(other).tensors:
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(order[int(parts[2])])
        weights[name] = model.load(".".join(parts))
    write_weights(other, weights)
    return base, other


def compiled(model: Path, out: Path, **options: Any) -> LoadedBundle:
    given: dict[str, Any] = {"quant": QuantConfig(group_size=16), "prefix": "franken"} | options
    found = compile_model(model, "siracusa", CompileOptions(**given), lambda _: None)
    write_bundle(found.bundle, out)
    return load_bundle(out)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"engine": EngineChoice.CORES, "limits": MemoryLimits({"mram": 4096, "tile_sram": 8192})},
    ],
    ids=["engine", "streams"],
)
def test_copies_have_one_place(tmp_path: Path, options: dict[str, Any]) -> None:
    base, model = franken(tmp_path)
    bundle = compiled(model, tmp_path / "bundle", **options)
    assert (bundle.plan.streams is not None) == ("limits" in options)
    assert blocks_in(bundle.program) == COPIES
    stored = {name.partition(".")[0] for name in bundle.program.tensors}
    assert {name for name in stored if name.startswith("l0")} == {"l00", "l01", "l03"}
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions()).passed
    quant = quantize_model(load_model(base), QuantConfig(group_size=16))
    apart = compiled(base, tmp_path / "apart", **options)
    size = sum(len(blob) for blob in bundle.blobs.values())
    whole = sum(len(blob) for blob in apart.blobs.values())
    assert abs(size - whole) <= 64  # linear.shift has an element per linear that runs
    assert len(quant.linears) == 21


def test_the_function_is_that_of_copies(tmp_path: Path) -> None:
    _, model = franken(tmp_path)
    quant = quantize_model(load_model(model), QuantConfig(group_size=16))
    program = lower_model(quant, LowerConfig(5))
    assert blocks_in(program) == quant.blocks == COPIES
    whole = lower_model(replace(quant, blocks=None), LowerConfig(5))
    tokens = np.array([1, 40, 7, 3, 90])
    shared = Session(program, program.constants).forward(tokens)
    np.testing.assert_array_equal(shared, Session(whole, whole.constants).forward(tokens))
    assert len(program.constants) < len(whole.constants)


def test_fit_says_the_same_before_and_after(tmp_path: Path) -> None:
    """--layer-order of the model, fit of the copies, and their compile: equal bytes."""
    base, model = franken(tmp_path)
    bundle = compiled(model, tmp_path / "bundle")
    report = json.loads((bundle.directory / "report" / "fit.json").read_text())
    run = CliRunner().invoke
    common = ["--group-size", "16", "--json"]
    after = json.loads(run(main, ["fit", str(model), *common]).output)
    order = ",".join(map(str, ORDER))
    before = json.loads(run(main, ["fit", str(base), "--layer-order", order, *common]).output)
    assert before["estimates"] == []
    for key in ("bytes", "rows", "regions"):
        assert before[key] == after[key] == report[key]
    assert after["parameters"]["dense"] == before["parameters"]["dense"]
    (model / "model.safetensors").unlink()  # a shape alone says nothing of copies
    alone = json.loads(run(main, ["fit", str(model), *common]).output)
    assert alone["bytes"]["packed"] > after["bytes"]["packed"]


def test_rv32(tmp_path: Path) -> None:
    needs_rv32(tmp_path)
    _, model = franken(tmp_path, (0, 1, 0))
    bundle = compiled(model, tmp_path / "bundle")
    assert verify_bundle(bundle.directory, ("rv32",), VerifyOptions()).passed


def test_what_makes_blocks_differ(tmp_path: Path) -> None:
    _, path = franken(tmp_path)
    model, plain = load_model(path), QuantConfig()
    assert copied_blocks(model, plain, {}) == COPIES
    other = QuantConfig(overrides=(Override("l02.mlp.up_proj", bits=8),))
    assert copied_blocks(model, other, {}) == (0, 1, 2, 3, 0)
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    norm = model.tensors["model.layers.4.post_attention_layernorm.weight"]
    data[norm.offset] ^= 1
    shutil.copyfile(file, tmp_path / "whole")
    file.write_bytes(data)
    assert copied_blocks(load_model(path), plain, {}) == (0, 1, 1, 3, 4)
    assert copied_blocks(load_model(tmp_path / "base"), plain, {}) is None


def test_copies_of_codes(tmp_path: Path) -> None:
    """Codes in an order of their own, both blocks alike."""

    def alike(tensors: Encoded) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            tensors[name] = tensors[name.replace(".layers.1.", ".layers.0.")]

    write_gptq(tmp_path / "model", Format(group_size=8, desc_act="site"), alike, **SHAPE)
    bundle = compiled(tmp_path / "model", tmp_path / "bundle", quant=QuantConfig())
    assert blocks_in(bundle.program) == (0, 0)
    assert sum(name.endswith(".order") for name in bundle.program.tensors) == 3
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions()).passed


def test_programs_that_no_compile_writes(tmp_path: Path) -> None:
    config = load_model(franken(tmp_path)[1]).config
    quant, lower = QuantConfig(group_size=16), LowerConfig(5)
    good = outline_program(config, quant, lower, facts=WeightFacts(blocks=COPIES))
    assert check_program(good) == []
    plain = outline_program(config, quant, lower)
    for blocks in ((0, 1, 2, 3, 7), (1, 1, 2, 3, 4)):  # block 7 does not run; block 1 comes later
        wrong = check_program(with_shared_blocks(plain, blocks))
        assert [problem.where for problem in wrong] == ["program: blocks"]
