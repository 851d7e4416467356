"""Adapters beside integer codes: two linears and an addition, equal in C, near W + B A in float."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits
from memory_planner.target import Pin
from sim.session import Session, read_constants
from tests.model.gptq import Format, write_gptq
from tests.model.test_lora import F32, random, write_adapter
from tests.test_sparse import needs_rv32
from toolchain.cli import main
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import network_of_build, network_of_float
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import ConfigError
from toolchain.model.names import hf_name_of
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode, Arithmetic, OpKind
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.quantize import adapter_ranks_of, quantize_model
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 72,
    "context": 5,
    "tied": False,
}
SIZES = {"self_attn.q_proj": (32, 32), "self_attn.o_proj": (32, 32), "mlp.down_proj": (32, 72)}


def write_eora(directory: Path) -> Path:
    """Adapters on three roles of both blocks but one, of different ranks and sizes."""
    write_gptq(directory / "base", Format(bits=2, group_size=16), **SHAPE)
    factors: dict[str, tuple[F32, F32]] = {}
    ranks = {}
    for layer in range(2):
        for part, (rows, columns) in SIZES.items():
            rank = 5 if layer else 3
            module = f"model.layers.{layer}.{part}"
            if module != "model.layers.0.mlp.down_proj":
                down = random(rank, columns, layer) * np.float32(1e-3)
                factors[module] = (down, random(rows, rank, 7 + layer) * np.float32(20))
                ranks[module] = rank
    write_adapter(
        directory / "eora",
        factors,
        rank_pattern=ranks,
        alpha_pattern=ranks,
        base_model_name_or_path="../base",
    )
    return directory / "eora"


def compile_eora(
    directory: Path, mode: ActMode = ActMode.A16, arithmetic: Arithmetic = Arithmetic.PRECISE
) -> LoadedBundle:
    modes = dict.fromkeys(SITES, mode)
    options = CompileOptions(QuantConfig(), prefix="eora", modes=modes, arithmetic=arithmetic)
    compiled = compile_model(write_eora(directory), "siracusa", options, lambda _: None)
    write_bundle(compiled.bundle, directory / "bundle")
    return load_bundle(directory / "bundle")


def test_factors_are_balanced_and_padded(tmp_path: Path) -> None:
    model = load_model(write_eora(tmp_path))
    ranks = {"attn.q_proj": 5, "attn.o_proj": 5, "mlp.down_proj": 5}
    assert adapter_ranks_of(model) == ranks
    quant = quantize_model(model, QuantConfig())
    assert quant.ranks == ranks
    for op_id, (down, up) in quant.adapters.items():
        product = up.dequantize() @ down.dequantize()
        name = hf_name_of(op_id)
        factors = model.factors.get(name)
        if factors is None:
            assert not product.any()
            continue
        exact = factors.up.read() @ factors.down.read()
        assert np.linalg.norm(product - exact) < 0.02 * np.linalg.norm(exact)
        own, base = down.dequantize()[: factors.rank], model.stored(name)
        assert 0.4 < np.sqrt((own**2).mean() / (base**2).mean()) < 2.5


def assert_near_float(directory: Path, bundle: LoadedBundle, limit: float) -> None:
    """The integers are near W + B A in float, of checkpoint and build; W alone is not."""
    tokens = np.array([1, 40, 7, 3, 90])
    constants = read_constants(bundle.program, bundle.plan, bundle.blobs)
    logits = Session(bundle.program, constants).forward(tokens) * 2.0**-16
    exact = FloatSession(network_of_float(load_model(directory / "eora"))).forward(tokens)
    own = FloatSession(network_of_build(bundle)).forward(tokens)
    bare = FloatSession(network_of_float(load_model(directory / "base"))).forward(tokens)
    scale = np.abs(exact).max()
    assert np.abs(logits - exact).max() < limit * scale
    assert np.abs(logits - own).max() < limit * scale
    assert np.abs(bare - exact).max() > 2 * limit * scale


@pytest.mark.parametrize(
    ("mode", "arithmetic"), [(ActMode.A8, Arithmetic.PRECISE), (ActMode.A16, Arithmetic.FAST)]
)
def test_c_and_float_agree(tmp_path: Path, mode: ActMode, arithmetic: Arithmetic) -> None:
    bundle = compile_eora(tmp_path, mode, arithmetic)
    assert sum(op.kind is OpKind.QUANTIZE for op in bundle.program.ops) == 6
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions(sanitize=True)).passed
    assert_near_float(tmp_path, bundle, 0.1 if mode is ActMode.A8 else 0.05)


def test_rv32(tmp_path: Path) -> None:
    needs_rv32(tmp_path)
    bundle = compile_eora(tmp_path)
    assert verify_bundle(bundle.directory, ("rv32",), VerifyOptions()).passed


def test_fit_equals_a_compile(tmp_path: Path) -> None:
    bundle = compile_eora(tmp_path)
    report = json.loads((bundle.directory / "report" / "fit.json").read_text())
    assert report["estimates"] == []
    assert report["parameters"]["adapters"] > 0
    found = CliRunner().invoke(main, ["fit", str(tmp_path / "eora"), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["bytes"] == report["bytes"]


@pytest.mark.parametrize("engine", [EngineChoice.CORES, EngineChoice.NEUREKA])
@pytest.mark.parametrize("region", ["", "hyperram"], ids=["on chip", "streamed"])
def test_adapter_of_a_coded_head(tmp_path: Path, region: str, engine: EngineChoice) -> None:
    """Behind the head, wherever that is; the last op that writes logits is the sum."""
    group = -1 if engine is EngineChoice.NEUREKA else 8
    layout = Format(head=True, group_size=group, desc_act="" if group == -1 else "site")
    write_gptq(tmp_path / "base", layout, **SHAPE)
    factors = random(3, 32, 0) * np.float32(1e-3), random(97, 3, 0) * np.float32(300)
    write_adapter(tmp_path / "eora", {"lm_head": factors}, base_model_name_or_path="../base")
    pins = (Pin("lm_head.weight", region),) if region else ()
    limits = MemoryLimits({}, pins)
    options = CompileOptions(QuantConfig(), prefix="eora", limits=limits, engine=engine)
    compiled = compile_model(tmp_path / "eora", "siracusa", options, lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert [op.id for op in bundle.program.ops[-6:]] == [
        *("lm_head", "lm_head.eora_a", "lm_head.eora_low", "lm_head.eora_b", "lm_head.eora_add"),
        "argmax",
    ]
    assert (bundle.plan.streams is not None) == bool(region)
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions()).passed
    assert_near_float(tmp_path, bundle, 0.05)


def test_the_adapter_of_a_head_does_not_stream(tmp_path: Path) -> None:
    write_gptq(tmp_path, Format(head=True), **SHAPE)
    write_adapter(tmp_path, {"lm_head": (random(3, 32, 0), random(97, 3, 0))})
    limits = MemoryLimits({}, (Pin("lm_head.eora_b.weight", "hyperram"),))
    with pytest.raises(ConfigError, match="hyperram for lm_head"):
        compile_model(tmp_path, "siracusa", CompileOptions(limits=limits), lambda _: None)
