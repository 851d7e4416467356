"""Width pruning of whole models: recomputed inputs, amounts, masks that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compress.toys import compress, recipe_of, stage_values, text_file, toy_model
from toolchain.compress.checkpoint import Source, block_name
from toolchain.compress.forward import Passes, gradients
from toolchain.compress.masks import check_masked, read_masks
from toolchain.compress.texts import TextCache
from toolchain.compress.width import Options
from toolchain.model.errors import CompressionError, ConfigError
from toolchain.model.names import LINEAR_SUFFIXES


def text_options(tmp_path: Path, samples: int = 4) -> dict[str, Any]:
    return {"calibration": str(text_file(tmp_path)), "samples": samples}


def brute_force_inputs(source: Source, tokens: torch.Tensor, masks: dict[str, Any]) -> Any:
    """Input of every projection by weight name, of a model whose earlier blocks are masked."""
    runner = Passes.make(source, tokens, "cpu").runner
    inputs: dict[str, Any] = {}
    x = Passes.make(source, tokens, "cpu").start()
    for block in range(source.config.num_layers):
        weights = source.block(block, "cpu")

        def tap(suffix: str, rows: Any, block: int = block) -> None:
            inputs[block_name(block, suffix)] = rows

        runner(x, weights, tap)
        for suffix in LINEAR_SUFFIXES:
            weights[suffix] = weights[suffix] * torch.from_numpy(
                masks[block_name(block, suffix)].keep
            )
        x = runner(x, weights)
    return inputs


def lowest(values: list[float], count: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda i: values[i])[:count])


@pytest.mark.parametrize("method", ["wanda", "gblm"])
def test_masks_equal_brute_force(tmp_path: Path, method: str) -> None:
    model = toy_model(tmp_path / "m", num_layers=2)
    values = {"method": method, "pattern": "2:4"} | text_options(tmp_path)
    compress(model, tmp_path / "out", {"kind": "width", **values})
    masks = read_masks(tmp_path / "out" / "01-width")
    source = Source.open(model)
    tokens = TextCache().windows(model, Options(**values), 0)
    inputs = brute_force_inputs(source, tokens, masks)
    squares: dict[str, Any] = {}
    for block, _, found in gradients(source, tokens, "cpu", [0, 1]):
        for suffix, gradient in found.items():
            name = block_name(block, suffix)
            squares[name] = squares.get(name, 0) + gradient**2 / len(tokens)
    assert set(masks) == {block_name(b, s) for b in (0, 1) for s in LINEAR_SUFFIXES}
    for name, mask in masks.items():
        weight = source.stored(name)
        factor = (inputs[name] ** 2).sum(0).div(len(tokens)).sqrt().expand(weight.shape)
        if method == "gblm":
            factor = factor + 100 * squares[name].sqrt()
        score = (weight.abs() * factor).tolist()
        for row, kept in zip(score, mask.keep, strict=True):
            for start in range(0, len(row), 4):
                gone = lowest(row[start : start + 4], 2)
                assert [i not in gone for i in range(4)] == kept[start : start + 4].tolist()
        assert mask.pattern == "2:4"


def test_weights_are_zero_exactly_where_masked(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m", dtype="bf16")
    stage = {"kind": "width", "pattern": "1:8", **text_options(tmp_path)}
    compress(model, tmp_path / "out", stage)
    before, after = Source.open(model), Source.open(tmp_path / "out" / "01-width")
    for name, mask in after.masks.items():
        old, new = before.model.load(name), after.model.load(name)
        assert np.array_equal(new, np.where(mask.keep, old, 0))
        assert mask.keep.mean() == 1 - 1 / 8
    assert before.model.tensors.keys() == after.model.tensors.keys()
    assert stage_values(tmp_path / "out", "01-width")["patterns"] == dict.fromkeys(
        after.masks, "1:8"
    )


def test_amounts_by_module_and_block(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    stage = {
        "kind": "width",
        "method": "magnitude",
        "amounts": {"*.mlp.*": 0.5, "*.attn.v_proj": "1:4", "l00.*": 0.0},
    }
    compress(model, tmp_path / "out", stage)
    masks = read_masks(tmp_path / "out" / "01-width")
    roles = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "attn.v_proj")
    assert set(masks) == {block_name(b, s) for b in (1, 2, 3) for s in roles}
    assert masks[block_name(1, "attn.v_proj")].pattern == "1:4"
    gate = masks[block_name(1, "mlp.gate_proj")]
    assert gate.pattern is None
    weight = np.abs(Source.open(model).model.load(block_name(1, "mlp.gate_proj")))
    assert (~gate.keep).sum() == weight.size // 2
    assert weight[~gate.keep].max() <= weight[gate.keep].min()


def test_gradient_over_depth(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    stage = {"kind": "width", "method": "magnitude", "depth_gradient": [0.5, 0.0]}
    compress(model, tmp_path / "out", stage)
    masks = read_masks(tmp_path / "out" / "01-width")
    found = [1 - masks[block_name(b, "attn.q_proj")].keep.mean() for b in range(3)]
    assert found == pytest.approx([0.5, 1 / 3, 1 / 6], abs=1 / 256)
    assert block_name(3, "attn.q_proj") not in masks


def test_masks_survive_following_stages(tmp_path: Path) -> None:
    """2:4 attention, then 3:4 of some, then a block is removed: nothing comes back."""
    model = toy_model(tmp_path / "m")
    width = {"kind": "width", "method": "magnitude"}
    stages = (
        width | {"pattern": "2:4"},
        width | {"amounts": {"*.mlp.*": "3:4"}},
        {"kind": "depth", "method": "magnitude", "remove": 1, "protect_first": 0},
    )
    compress(model, tmp_path / "out", *stages)
    one, two, three = (tmp_path / "out" / n for n in ("01-width", "02-width", "03-depth"))
    first, second, third = map(read_masks, (one, two, three))
    assert all((second[name].keep <= first[name].keep).all() for name in first)
    assert second[block_name(0, "mlp.up_proj")].pattern == "3:4"
    assert second[block_name(0, "attn.q_proj")].pattern == "2:4"
    (gone,) = stage_values(tmp_path / "out", "03-depth")["metrics"]["removed_blocks"]
    kept = [block for block in range(4) if block != gone]
    for target, block in enumerate(kept):
        for suffix in LINEAR_SUFFIXES:
            name, old = block_name(target, suffix), block_name(block, suffix)
            assert np.array_equal(third[name].keep, second[old].keep)
            assert third[name].pattern == second[old].pattern
    check_masked(Source.open(three).model, third)


def test_revived_weights_are_refused(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    out = tmp_path / "out"
    compress(model, out, {"kind": "width", "method": "magnitude", "pattern": "2:4"})
    pruned = out / "01-width"
    (pruned / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with pytest.raises(CompressionError, match=r"removed but not 0") as caught:
        compress(
            pruned, tmp_path / "two", {"kind": "width", "sparsity": 0.1, "method": "magnitude"}
        )
    assert len(caught.value.problems) == 28


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "amount: found none"),
        ({"pattern": "2:4", "sparsity": 0.5}, "pattern and sparsity: found given together"),
        ({"pattern": "4:4"}, "found '4:4'"),
        ({"amounts": {"*.mlp.*": "x"}}, r"amounts\.\*\.mlp\.\*: found 'x'"),
        ({"sparsity": 1.5}, r"sparsity: found 1\.5, allowed 0\.\.0\.999"),
        ({"depth_gradient": [0.5]}, "two rates"),
        ({"pattern": "2:4", "compare": "row"}, "N:M leaves no choice"),
        ({"pattern": "2:4", "gradient_weight": 3}, "only gblm"),
        ({"method": "magnitude", "sparsity": 0.5, "samples": 3}, "looks at no text"),
        ({"method": "magnitude", "sparsity": 0.5, "alpha_search": True}, "with wanda or gblm"),
    ],
)
def test_bad_options(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe_of({"kind": "width", **values})


def test_patterns_that_fit_no_row(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    stage = {"kind": "width", "method": "magnitude", "pattern": "2:20", "amounts": {"x.*": 0.5}}
    with pytest.raises(ConfigError) as caught:
        compress(model, tmp_path / "out", stage)
    where = [problem.where for problem in caught.value.problems]
    assert where[0] == "width.amounts.x.*"
    assert "width.pattern of attn.q_proj" in where
    assert not (tmp_path / "out").exists()
