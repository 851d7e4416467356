"""Blocks in any order: copies, what is recorded, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compress.toys import compress, stage_values, text_file, toy_model
from toolchain.compress.checkpoint import BLOCK_SUFFIXES, Source, block_name
from toolchain.compress.layer_order import Options
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import ConfigError
from toolchain.model.quantize import QuantConfig, quantize_model


@pytest.mark.parametrize(
    ("order", "shared"),
    [([0, 1, 2, 2, 3], [0, 1, 2, 2, 4]), ([3, 0, 3], [0, 1, 0]), ([2, 0], None)],
)
def test_blocks_are_copied(tmp_path: Path, order: list[int], shared: list[int] | None) -> None:
    model = toy_model(tmp_path / "m")
    compress(model, tmp_path / "out", {"kind": "layer-order", "order": order})
    before, after = Source.open(model), Source.open(tmp_path / "out" / "01-layer-order")
    assert after.config.num_layers == len(order)
    for target, block in enumerate(order):
        for suffix in BLOCK_SUFFIXES:
            old = before.model.load(block_name(block, suffix))
            assert np.array_equal(after.model.load(block_name(target, suffix)), old)
    assert stage_values(tmp_path / "out", "01-layer-order")["layer_order"] == shared


@pytest.mark.parametrize("method", ["gptq", "awq", "rtn", "nf4"])
def test_copies_get_the_same_codes(tmp_path: Path, method: str) -> None:
    """Quantized by the inputs of the first; a compile then stores them once."""
    text: dict[str, Any] = {"calibration": str(text_file(tmp_path)), "samples": 8}
    options: dict[str, Any] = {"group_size": -1} if method != "nf4" else {}
    if method in ("gptq", "awq"):
        options |= text
    stages = (
        {"kind": "layer-order", "order": [1, 0, 1]},
        {"kind": "quantize", "method": method, **options},
    )
    compress(toy_model(tmp_path / "m"), tmp_path / "out", *stages)
    values = stage_values(tmp_path / "out", "02-quantize")
    assert values["layer_order"] == (None if method == "nf4" else [0, 1, 0])
    if method == "gptq":
        assert "copies" in values["metrics"]["why_not_gptqmodel"]
    if method != "nf4":
        quant = quantize_model(load_model(tmp_path / "out" / "02-quantize"), QuantConfig())
        assert quant.blocks == (0, 1, 0)


def test_copies_of_other_bits_are_no_copies(tmp_path: Path) -> None:
    stages = (
        {"kind": "layer-order", "order": [1, 0, 1]},
        {"kind": "quantize", "method": "rtn", "group_size": 8, "layers": {"l02.*": 8}},
    )
    compress(toy_model(tmp_path / "m"), tmp_path / "out", *stages)
    assert stage_values(tmp_path / "out", "02-quantize")["layer_order"] is None


def test_unknown_blocks_are_refused(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"block 4, allowed 0\.\.3"):
        compress(model, tmp_path / "out", {"kind": "layer-order", "order": [0, 4]})
    with pytest.raises(ConfigError, match="order: found 0 blocks"):
        compress(model, tmp_path / "out", {"kind": "layer-order", "order": []})
    with pytest.raises(ConfigError, match="order: found none"):
        compress(model, tmp_path / "out", {"kind": "layer-order"})
    with pytest.raises(ConfigError, match="at most 3 of 4 blocks"):
        compress(model, tmp_path / "out", {"kind": "layer-order", "skip_middle": 4})


def test_middle_blocks_are_skipped() -> None:
    assert Options(skip_middle=2).blocks(6) == (0, 1, 4, 5)
    assert Options(skip_middle=1).blocks(4) == (0, 1, 3)
    assert Options(skip_middle=3).blocks(4) == (0,)
