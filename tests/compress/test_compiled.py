"""Pruned models go on through `edgec compile` and `edgec verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from tests.bundles import ODD_SHAPE
from tests.compress.toys import compress, text_file, toy_model
from toolchain.compress.checkpoint import Source, block_name
from toolchain.model.quantize import QuantConfig, quantize_model
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE = ODD_SHAPE | {"num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "context": 12}
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
    shape = load_bundle(tmp_path / "bundle").program.shape
    assert (shape.layers, shape.ffn, shape.heads, shape.kv_heads) == (3, 70, 2, 2)
    assert verify_bundle(tmp_path / "bundle", ("host",), VerifyOptions(cores=(1,))).passed


def test_removed_weights_are_integer_zeros(pruned: Path) -> None:
    source = Source.open(pruned)
    quant = quantize_model(source.model, QUANT)
    for block in range(source.config.num_layers):
        for suffix in ("attn.q_proj", "mlp.down_proj"):
            keep = source.masks[block_name(block, suffix)].keep
            assert not quant.linears[f"l{block:02d}.{suffix}"].values[~keep].any()
