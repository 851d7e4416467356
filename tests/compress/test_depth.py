"""Depth pruning: known importance on a toy, protected blocks, what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compress.toys import compress, stage_values, text_file, toy_model
from tests.model.tiny import random_weights, tensor_shapes, write_weights
from toolchain.compress.checkpoint import Source, block_name
from toolchain.model.errors import ConfigError

FREE = {"protect_first": 0, "protect_last": 0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Block 2 adds nothing; block 0 has the smallest weights but matters."""
    directory = toy_model(tmp_path / "model")
    shapes = tensor_shapes(hidden=16, ffn=24, layers=4, q_rows=16, kv_rows=8, vocab=97, tied=True)
    weights = random_weights(shapes, 3)
    for name in weights:
        if name.startswith("model.layers.0.") and "norm" not in name:
            weights[name] *= 0.5
    weights[block_name(2, "attn.o_proj")][:] = 0
    weights[block_name(2, "mlp.down_proj")][:] = 0
    weights[block_name(2, "mlp.gate_proj")] *= 3
    weights[block_name(2, "attn.q_proj")] *= 3
    write_weights(directory, weights)
    return directory


@pytest.mark.parametrize(("method", "gone"), [("magnitude", 0), ("taylor", 2), ("perplexity", 2)])
def test_known_importance(tmp_path: Path, model: Path, method: str, gone: int) -> None:
    stage: dict[str, Any] = {"kind": "depth", "remove": 1, "method": method, **FREE}
    if method != "magnitude":
        stage |= {"calibration": str(text_file(tmp_path)), "samples": 5}
    out = tmp_path / "out"
    compress(model, out, stage)
    assert stage_values(out, "01-depth")["metrics"]["removed_blocks"] == [gone]
    before, after = Source.open(model), Source.open(out / "01-depth")
    assert after.config.num_layers == 3
    kept = [block for block in range(4) if block != gone]
    for target, block in enumerate(kept):
        old = before.stored(block_name(block, "mlp.up_proj")).numpy()
        new = after.stored(block_name(target, "mlp.up_proj")).numpy()
        assert np.array_equal(old, new)


def test_perplexity_of_a_block_without_effect(tmp_path: Path, model: Path) -> None:
    stage = {"kind": "depth", "remove": 2, "method": "perplexity", "iterative": True, **FREE}
    text = {"calibration": str(text_file(tmp_path)), "samples": 5}
    out = tmp_path / "out"
    compress(model, out, stage | text)
    metrics = stage_values(out, "01-depth")["metrics"]
    first, second = metrics["importance"]
    assert 2 in metrics["removed_blocks"]
    assert len(first) == 4
    assert len(second) == 3
    assert "2" not in second


def test_protected_blocks_stay(tmp_path: Path, model: Path) -> None:
    stage = {"kind": "depth", "remove": 1, "method": "magnitude"}
    out = tmp_path / "out"
    compress(model, out, stage | {"protect_first": 1, "protect_last": 2})
    assert stage_values(out, "01-depth")["metrics"]["removed_blocks"] == [1]


def test_too_many_are_refused_before_work(tmp_path: Path, model: Path) -> None:
    stage = {"kind": "depth", "remove": 2, "method": "magnitude"}
    with pytest.raises(ConfigError, match=r"depth\.remove: found 2, allowed at most 1") as caught:
        compress(model, tmp_path / "out", stage | {"protect_first": 2, "protect_last": 1})
    assert "protect_first" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_second_stage_sees_the_shorter_model(tmp_path: Path, model: Path) -> None:
    stage = {"kind": "depth", "remove": 2, "method": "magnitude", **FREE}
    with pytest.raises(ConfigError, match=r"depth#2\.remove: found 2, allowed at most 1"):
        compress(model, tmp_path / "out", stage, stage)
