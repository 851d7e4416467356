"""The bytes of masks, broken mask files, masks against weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from tests.compress.toys import compress, text_file, toy_model
from tests.model.tiny import random_weights, tensor_shapes, write_weights
from toolchain.compress.checkpoint import block_name
from toolchain.compress.masks import (
    MASKS_FILE,
    Mask,
    check_survived,
    fits_pattern,
    read_masks,
    write_masks,
)
from toolchain.model.errors import CheckpointError, CompressionError

KEEP = np.array([[1, 0, 0, 1, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]], bool)
WIDTH = {"kind": "width", "method": "magnitude", "pattern": "2:4"}


def test_bytes(tmp_path: Path) -> None:
    write_masks(tmp_path / MASKS_FILE, {"b": Mask(KEEP, "2:5"), "a": Mask(KEEP[:1])})
    with safe_open(tmp_path / MASKS_FILE, framework="np") as file:
        assert file.get_tensor("b").tolist() == [[0x09, 0x03], [0x80, 0x00]]
    masks = read_masks(tmp_path)
    assert np.array_equal(masks["b"].keep, KEEP)
    assert (masks["b"].pattern, masks["a"].pattern) == ("2:5", None)
    one = (tmp_path / MASKS_FILE).read_bytes()
    write_masks(tmp_path / MASKS_FILE, {"a": Mask(KEEP[:1]), "b": Mask(KEEP, "2:5")})
    assert (tmp_path / MASKS_FILE).read_bytes() == one


def test_patterns() -> None:
    assert fits_pattern(KEEP, 3, 5)
    assert not fits_pattern(KEEP, 4, 5)
    assert fits_pattern(KEEP, 2, 4)  # the last two inputs belong to no group
    assert not fits_pattern(KEEP, 1, 16)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_broken_files(tmp_path: Path, content: bytes | None) -> None:
    model = toy_model(tmp_path / "m")
    if content is None:
        content = (model / "model.safetensors").read_bytes()
    (model / MASKS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="the masks are broken"):
        compress(model, tmp_path / "out", WIDTH)


def test_contradictions_are_listed(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    name = block_name(0, "attn.q_proj")
    masks = {name: Mask(np.zeros((16, 16), bool)), "other": Mask(KEEP)}
    masks[block_name(1, "attn.q_proj")] = Mask(KEEP)
    write_masks(model / MASKS_FILE, masks)
    with pytest.raises(CompressionError) as caught:
        compress(model, tmp_path / "out", WIDTH)
    found = {problem.where: problem.found for problem in caught.value.problems}
    assert found == {
        f"weights of {name}": "256 removed but not 0",
        "mask of other": "no such weight",
        f"mask of {block_name(1, 'attn.q_proj')}": "shape [16, 16]",
    }


def test_masks_must_survive() -> None:
    before = {"a": Mask(KEEP), "b": Mask(KEEP)}
    check_survived(before, {"a": Mask(KEEP), "b": Mask(np.zeros_like(KEEP))})
    with pytest.raises(CompressionError, match="undid the pruning") as caught:
        check_survived(before, {"a": Mask(np.ones_like(KEEP))})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("kind", ["depth", "width"])
def test_models_without_gradients(tmp_path: Path, kind: str) -> None:
    """A final norm of 0 makes all logits 0: the loss is finite, but nothing can be learned."""
    model = toy_model(tmp_path / "m")
    shapes = tensor_shapes(hidden=16, ffn=24, layers=4, q_rows=16, kv_rows=8, vocab=97, tied=True)
    weights = random_weights(shapes, 0)
    weights["model.norm.weight"][:] = 0
    write_weights(model, weights)
    stages: dict[str, dict[str, Any]] = {
        "depth": {"remove": 1, "protect_first": 0},
        "width": {"method": "gblm", "pattern": "2:4"},
    }
    text = {"calibration": str(text_file(tmp_path)), "samples": 2}
    with pytest.raises(CompressionError, match="no usable gradients"):
        compress(model, tmp_path / "out", {"kind": kind, **stages[kind], **text})
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
