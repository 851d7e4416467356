"""Attention and feed-forward modules that add nothing: gone from program, plan and C."""

from __future__ import annotations

import json
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
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from sim.session import Session
from tests.model.gptq import Format, write_gptq
from tests.model.spoil import Encoded
from tests.model.tiny import write_model, write_weights
from tests.test_sparse import needs_rv32
from toolchain.cli import main
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import network_of_quant
from toolchain.model.checkpoint import load_model
from toolchain.model.lower import lower_model
from toolchain.model.names import hf_name_of
from toolchain.model.outline import LowerConfig, WeightFacts, outline_program
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.quantize import quantize_model
from toolchain.model.silent_parts import LAST_OF, cache_slots, find_silent, silent_in, whole_block
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 72, "context": 6, "tied": False}
BLOCKS = 4
# The first block lacks one part, a middle one both, the last one the other.
SILENT = ("l00.attn", "l02.attn", "l02.mlp", "l03.mlp")
ENGINE = {"quant": QuantConfig(group_size=-1)}
CORES = {"engine": EngineChoice.CORES}
LIMITS = MemoryLimits({"mram": 4096, "tile_sram": 8192})
STREAMS = {**CORES, "limits": LIMITS}


def silenced(directory: Path, silent: tuple[str, ...] = SILENT, **shape: Any) -> Path:
    """A model whose parts in `silent` end with a projection of zeros, some of them negative."""
    path = write_model(directory, num_layers=BLOCKS, **(SHAPE | shape))
    model = load_model(path)
    weights = {name: model.load(name) for name in model.tensors}
    for part in silent:
        name = hf_name_of(part.split(".")[0] + "." + LAST_OF[part.split(".")[1]])
        weights[name] = weights[name] * np.float32(0)
    write_weights(path, weights)
    return path


def compiled(model: Path, out: Path, **options: Any) -> LoadedBundle:
    given: dict[str, Any] = {"quant": QuantConfig(group_size=16), "prefix": "silent"} | options
    found = compile_model(model, "siracusa", CompileOptions(**given), lambda _: None)
    write_bundle(found.bundle, out)
    return load_bundle(out)


def test_they_are_found_in_the_weights(tmp_path: Path) -> None:
    assert find_silent(load_model(silenced(tmp_path / "some"))) == set(SILENT)
    assert find_silent(load_model(silenced(tmp_path / "none", ()))) == set()
    every = tuple(f"l{i:02d}.{room}" for i in range(BLOCKS) for room in LAST_OF)
    found = find_silent(load_model(silenced(tmp_path / "all", every)))
    assert set(every) - found == {"l00.attn", "l00.mlp"}  # the program has no other form


@pytest.mark.parametrize("bits", [12, 0, 16])
def test_the_function_is_that_of_zeros(tmp_path: Path, bits: int) -> None:
    """Bit for bit, with residual streams that saturate nowhere and at their coarsest and finest."""
    quant = quantize_model(load_model(silenced(tmp_path)), QuantConfig(group_size=16))
    config = LowerConfig(6, residual_bits=bits)
    program = lower_model(quant, config)
    whole = lower_model(replace(quant, silent=frozenset()), config)
    assert silent_in(program) == quant.silent == set(SILENT)
    assert silent_in(whole) == set()
    tokens = np.array([1, 40, 7, 3, 90, 2])
    short, long = (Session(each, each.constants) for each in (program, whole))
    np.testing.assert_array_equal(short.forward(tokens), long.forward(tokens))
    assert {op.id for op in program.ops} < {op.id for op in whole.ops}
    assert cache_slots(program) == {1: 0, 3: 1}
    assert [op.role for op in whole_block(program)] == [op.role for op in whole_block(whole)]
    assert check_program(program) == []


def test_float_runs_go_without_them(tmp_path: Path) -> None:
    quant = quantize_model(load_model(silenced(tmp_path)), QuantConfig(group_size=16))
    networks = [network_of_quant(each) for each in (quant, replace(quant, silent=frozenset()))]
    short, long = (FloatSession(network).forward([1, 40, 7]) for network in networks)
    np.testing.assert_array_equal(short, long)
    assert len(networks[0].matrices) == len(networks[1].matrices) - 2 * 4 - 2 * 3


@pytest.mark.parametrize("options", [ENGINE, CORES, STREAMS], ids=["engine", "cores", "streams"])
def test_neither_bytes_nor_ops(tmp_path: Path, options: dict[str, Any]) -> None:
    bundle = compiled(silenced(tmp_path / "model"), tmp_path / "bundle", **options)
    program, plan = bundle.program, bundle.plan
    assert silent_in(program) == set(SILENT)
    assert (plan.streams is not None) == (options is STREAMS)
    names = {name.rpartition(".")[0] for name in program.tensors}
    assert not any(name.startswith(SILENT) for name in names)
    assert program.tensors["kv.k"].shape[0] == 2
    code = (bundle.directory / "src" / "silent_model.c").read_text()
    assert ("{NULL, 0U, 0U}," in code) == (options is ENGINE)  # jobs of absent parts are left out
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions()).passed
    if plan.streams:
        rooms = [cut.partition(".")[0] for cut in plan.streams.cuts]
        assert rooms == sorted(rooms)
        assert set(rooms) == {"attn", "mlp"}  # a block without attention begins with its MLP
        target = limited_target(load_target("siracusa"), LIMITS)
        assert validate_plan(program, target, plan) == []
        for begins in ((), plan.streams.begins[:1], (0, 9, -3, 1 << 60)):
            wrong = replace(plan, streams=replace(plan.streams, begins=begins))
            assert validate_plan(program, target, wrong) != []
    whole = compiled(silenced(tmp_path / "whole", ()), tmp_path / "apart", **options)
    weights = sum(len(blob) for blob in whole.blobs.values())
    assert sum(len(blob) for blob in bundle.blobs.values()) < 0.75 * weights


@pytest.mark.parametrize("silent", [("l01.attn",), ("l00.mlp", "l03.attn")])
def test_one_part_of_a_kind(tmp_path: Path, silent: tuple[str, ...]) -> None:
    bundle = compiled(silenced(tmp_path / "model", silent), tmp_path / "bundle", **STREAMS)
    assert silent_in(bundle.program) == set(silent)
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions()).passed


def test_fit_says_the_same_as_compile(tmp_path: Path) -> None:
    model = silenced(tmp_path / "model")
    bundle = compiled(model, tmp_path / "bundle")
    report = json.loads((bundle.directory / "report" / "fit.json").read_text())
    run = CliRunner().invoke
    common = ["--group-size", "16", "--json"]
    found = json.loads(run(main, ["fit", str(model), *common]).output)
    for key in ("bytes", "rows", "regions", "kv_cache"):
        assert found[key] == report[key]
    order = ["--layer-order", "0,0,2"]
    other = json.loads(run(main, ["fit", str(model), *common, *order]).output)
    assert other["bytes"]["packed"] < found["bytes"]["packed"]


def test_settings_of_silent_parts_alone(tmp_path: Path) -> None:
    model = str(silenced(tmp_path / "model"))
    run, out = CliRunner().invoke, str(tmp_path / "bundle")
    idle = ["--layer", "l02.*=3", "--layer", "l00.attn.q_proj=5", "--group-size", "16"]
    sparse = ["--sparse", "l03.mlp.*=off"]
    for command in (["fit", model], ["compile", model, "-o", out, *sparse]):
        found = run(main, [*command, *idle])
        assert found.exit_code == 2
        assert "'l02.*'" in found.output
        assert "'l00.attn.q_proj'" in found.output
        assert ("'l03.mlp.*'" in found.output) == (command[0] == "compile")
    assert not Path(out).exists()
    assert run(main, ["fit", model, "--layer", "l0?.attn.q_proj=5"]).exit_code == 0


def test_codes(tmp_path: Path) -> None:
    """Codes at the zero points, and scales of 0."""

    def silence(tensors: Encoded) -> None:
        one, two = "model.layers.0.self_attn.o_proj", "model.layers.1.mlp.down_proj"
        dtype, shape, data = tensors[f"{one}.scales"]
        tensors[f"{one}.scales"] = dtype, shape, bytes(len(data))
        dtype, shape, data = tensors[f"{two}.qweight"]
        tensors[f"{two}.qweight"] = dtype, shape, b"\x88" * len(data)

    write_gptq(tmp_path / "model", Format(group_size=8), silence, **SHAPE)
    bundle = compiled(tmp_path / "model", tmp_path / "bundle", quant=QuantConfig())
    assert silent_in(bundle.program) == {"l00.attn", "l01.mlp"}
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions()).passed


def test_rv32(tmp_path: Path) -> None:
    needs_rv32(tmp_path)
    bundle = compiled(silenced(tmp_path / "model"), tmp_path / "bundle")
    assert verify_bundle(bundle.directory, ("rv32",), VerifyOptions()).passed


def test_programs_that_no_compile_writes(tmp_path: Path) -> None:
    config = load_model(silenced(tmp_path, ())).config
    quant, lower = QuantConfig(group_size=16), LowerConfig(6)
    good = outline_program(config, quant, lower, facts=WeightFacts(silent=frozenset(SILENT)))
    assert check_program(good) == []
    lost = [op for op in good.ops if op.id != "l01.attn.residual"]
    assert check_program(replace(good, ops=tuple(lost))) != []
    rows = replace(good.tensors["kv.k"], shape=(BLOCKS, *good.tensors["kv.k"].shape[1:]))
    assert check_program(replace(good, tensors={**good.tensors, "kv.k": rows})) != []
