"""Pruned models go on through `edgec compile` and `edgec verify`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from sim.session import read_constants
from tests.bundles import ODD_SHAPE
from tests.compress.test_lora import needs_peft
from tests.compress.toys import compress, text_file, toy_model
from toolchain.compress.checkpoint import Source, block_name
from toolchain.compress.gptq_format import CodeMatrix
from toolchain.compress.quantized import QuantizedSource
from toolchain.model.input_order import gathers_in
from toolchain.model.names import hf_name_of, linear_ids
from toolchain.model.packing import WeightInts
from toolchain.model.quantize import QuantConfig, quantize_model
from toolchain.model.shared_blocks import blocks_in
from toolchain.model.sparse_packing import SparseLayout
from toolchain.model.sparsity import FOUND
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE = ODD_SHAPE | {"num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "context": 12}
PLAIN = {"hidden_size": 32, "intermediate_size": 64, "context": 12, "num_layers": 2}
QUANT = QuantConfig(bits=4, group_size=16)


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    """A block less, 30 neurons fewer, a query head per group fewer, one silent attention, 2:4."""
    model = toy_model(tmp_path / "m", **SHAPE)
    text = {"calibration": str(text_file(tmp_path)), "samples": 3}
    free = {"protect_first": 0, "protect_last": 0}
    structured: dict[str, Any] = {"ffn": 0.3, "grain": 10, "query_heads": 1, "attention": 1}
    stages = (
        {"kind": "depth", "remove": 1, **free, **text},
        {"kind": "structured", **structured, **text},
        {"kind": "width", "pattern": "2:4", **text},
        {"kind": "layer-order", "order": [1, 0, 1]},
    )
    compress(model, tmp_path / "out", *stages)
    return tmp_path / "out" / "04-layer-order"


def test_compile_and_verify(tmp_path: Path, pruned: Path) -> None:
    compiled = compile_model(pruned, "siracusa", CompileOptions(QUANT), lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    program = load_bundle(tmp_path / "bundle").program
    shape = program.shape
    assert blocks_in(program) == (0, 1, 0)
    assert (shape.layers, shape.ffn, shape.heads, shape.kv_heads) == (3, 70, 2, 2)
    assert verify_bundle(tmp_path / "bundle", ("host",), VerifyOptions(cores=(1,))).passed


@needs_peft
def test_the_whole_way(tmp_path: Path) -> None:
    """2:4, LoRA merged, GPTQ and EoRA: masks and codes arrive in the blobs, and C agrees."""
    model = toy_model(
        tmp_path / "m", hidden_size=32, intermediate_size=64, context=12, num_layers=2
    )
    text: dict[str, Any] = {"calibration": str(text_file(tmp_path)), "samples": 8}
    rows = compress(
        model,
        tmp_path / "out",
        {"kind": "width", "pattern": "2:4", **text},
        {"kind": "lora", "rank": 2, **text},
        {"kind": "quantize", "method": "gptq", "group_size": 16, **text},
        {"kind": "eora", "rank": 3, **text},
    )
    out = {row.directory: tmp_path / "out" / row.directory for row in rows[1:]}
    pruned = Source.open(out["01-width"])
    options = CompileOptions(QuantConfig(sparse=(FOUND,)))
    compiled = compile_model(out["04-eora"], "rv32", options, lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    constants = read_constants(bundle.program, bundle.plan, bundle.blobs)
    codes = QuantizedSource.open(out["03-quantize"])
    for op_id in linear_ids(pruned.config):
        name = hf_name_of(op_id)
        matrix, stored = codes.matrix(name), constants[f"{op_id}.weight"]
        assert isinstance(matrix, CodeMatrix)
        assert isinstance(stored, WeightInts)
        assert np.array_equal(stored.values, matrix.codes.numpy().astype(int) - 8)
        assert not stored.values[~pruned.masks[name].keep].any()
        layout = bundle.program.tensors[f"{op_id}.weight"].layout
        assert isinstance(layout, SparseLayout)
        assert str(layout.pattern) == "2:4"
        assert bundle.program.tensors[f"{op_id}.eora_b.weight"].shape[1] == 3
    assert rows[-1].packed_bytes == compiled.reports["fit.json"]["bytes"]["packed"]
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions(cores=(3,))).passed


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gptqmodel") is None, reason="gptqmodel is not installed")
def test_the_package_by_activation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """desc_act of gptqmodel, float16: three orders per block, codes unchanged; no logs stay."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = toy_model(
        tmp_path / "m", hidden_size=32, intermediate_size=64, context=12, num_layers=2
    )
    text: dict[str, Any] = {"calibration": str(text_file(tmp_path)), "samples": 8}
    stage = {"kind": "quantize", "group_size": 16, "desc_act": True, **text}
    compress(model, tmp_path / "out", stage)
    compress(model, tmp_path / "again", stage)
    coded, file = tmp_path / "out" / "01-quantize", Path("01-quantize") / "model.safetensors"
    assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert not any((tmp_path / "here").iterdir())
    compiled = compile_model(coded, "siracusa", CompileOptions(), lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert gathers_in(bundle.program) == {
        **dict.fromkeys(("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.q_proj"),
        "attn.o_proj": "attn.o_proj",
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_proj"),
    }
    assert verify_bundle(bundle.directory, ("host",), VerifyOptions(cores=(1,))).passed


def test_removed_weights_are_integer_zeros(pruned: Path) -> None:
    source = Source.open(pruned)
    quant = quantize_model(source.model, QUANT)
    for block in range(source.config.num_layers):
        for suffix in ("attn.q_proj", "mlp.down_proj"):
            keep = source.masks[block_name(block, suffix)].keep
            assert not quant.linears[f"l{block:02d}.{suffix}"].values[~keep].any()
