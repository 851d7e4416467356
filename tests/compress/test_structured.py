"""Structured pruning: known answers, smaller shapes, silenced attention, compile and verify."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compress.toys import compress, stage_values, text_file, toy_model
from tests.model.tiny import random_weights, tensor_shapes, write_weights
from toolchain.compress.checkpoint import Source, block_name
from toolchain.compress.forward import mean_loss, perplexity_of
from toolchain.compress.structured import Options, choose_heads
from toolchain.compress.texts import TextCache
from toolchain.model.config import read_config
from toolchain.model.errors import ConfigError
from toolchain.model.silent_parts import find_silent


def spoil(directory: Path, seed: int = 5, **edits: Any) -> Path:
    """A model with edited weights; keys are block and suffix joined by a double underscore."""
    config = read_config(directory)
    shapes = tensor_shapes(
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        layers=config.num_layers,
        q_rows=config.num_heads * config.head_dim,
        kv_rows=config.num_kv_heads * config.head_dim,
        vocab=config.vocab_size,
        tied=True,
    )
    weights = random_weights(shapes, seed)
    for key, edit in edits.items():
        block, suffix = key.split("__")
        edit(weights[block_name(int(block[1:]), suffix.replace("_DOT_", "."))])
    write_weights(directory, weights)
    return directory


def zero(*index: Any) -> Any:
    def edit(weight: Any) -> None:
        weight[index] = 0

    return edit


def stage(tmp_path: Path, **values: Any) -> dict[str, Any]:
    return {"kind": "structured", "calibration": str(text_file(tmp_path)), "samples": 4} | values


def loss_of(directory: Path, tokens: Any) -> float:
    source = Source.open(directory)
    return mean_loss(source, tokens, "cpu", range(source.config.num_layers))


def test_idle_neurons_go_and_nothing_changes(tmp_path: Path) -> None:
    """Half of the gate rows of every block are 0: exactly those neurons go."""
    dead = {0: slice(0, 12), 1: slice(12, 24)}
    edits = {f"b{b}__mlp_DOT_gate_proj": zero(rows) for b, rows in dead.items()}
    model = spoil(toy_model(tmp_path / "m", num_layers=2), **edits)
    compress(model, tmp_path / "out", stage(tmp_path, ffn=0.5, grain=4))
    smaller = tmp_path / "out" / "01-structured"
    before, after = Source.open(model), Source.open(smaller)
    assert after.config.intermediate_size == 12
    for block, rows in dead.items():
        kept = np.delete(np.arange(24), rows)
        old = before.model.load(block_name(block, "mlp.down_proj"))
        assert np.array_equal(after.model.load(block_name(block, "mlp.down_proj")), old[:, kept])
    tokens = TextCache().windows(model, Options(calibration=str(text_file(tmp_path))), 0)
    assert loss_of(smaller, tokens) == pytest.approx(loss_of(model, tokens), rel=1e-6)


@pytest.mark.parametrize(("ffn", "grain", "kept"), [(0.5, 8, 16), (0.4, 8, 16), (0.1, 5, 20)])
def test_neurons_are_rounded_to_the_grain(
    tmp_path: Path, ffn: float, grain: int, kept: int
) -> None:
    config = read_config(toy_model(tmp_path / "m"))  # 24 neurons
    assert Options(ffn=ffn, grain=grain).kept_neurons(config) == kept


def test_balance_of_neurons_and_attention(tmp_path: Path) -> None:
    """8 blocks, 768 attention and 1152 feed-forward weights each, s = 0.5 and alpha = 1.5."""
    config = read_config(toy_model(tmp_path / "m", num_layers=8))
    share, attention = Options(sparsity=0.5).amounts(config)
    assert attention == 4  # 8 * 0.5 ** (1.5 / 1.5)
    assert share == pytest.approx((0.5 * 8 * 1920 - 4 * 768) / (8 * 1152))  # a half, here
    assert Options(sparsity=0.5, balance=3.0).amounts(config)[1] == 6  # 8 * 0.5 ** 0.5 = 5.66
    assert Options(sparsity=0.5, grain=4).kept_neurons(config) == 12


def test_silent_kv_group_goes(tmp_path: Path) -> None:
    """The o columns of one KV group of every block are 0: the group goes, the loss stays."""
    columns = {0: slice(8, 16), 1: slice(0, 8)}  # 4 heads of 4 in 2 groups
    edits = {f"b{b}__attn_DOT_o_proj": zero(slice(None), c) for b, c in columns.items()}
    model = spoil(toy_model(tmp_path / "m", num_layers=2), **edits)
    compress(model, tmp_path / "out", stage(tmp_path, kv_groups=1))
    smaller = tmp_path / "out" / "01-structured"
    config = read_config(smaller)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (2, 1, 4)
    before, after = Source.open(model), Source.open(smaller)
    old = before.model.load(block_name(0, "attn.k_proj"))
    assert np.array_equal(after.model.load(block_name(0, "attn.k_proj")), old[:4])
    tokens = TextCache().windows(model, Options(calibration=str(text_file(tmp_path))), 0)
    assert loss_of(smaller, tokens) == pytest.approx(loss_of(model, tokens), rel=1e-6)


def test_heads_of_each_group(tmp_path: Path) -> None:
    before = replace(read_config(toy_model(tmp_path / "m")), num_heads=6, num_kv_heads=3)
    after = replace(before, num_heads=2, num_kv_heads=2)
    scores = torch.tensor([1.0, 9.0, 2.0, 3.0, 8.0, 1.0])  # groups 10, 5, 9
    groups, queries = choose_heads(scores, before, after)
    assert groups.tolist() == [0, 2]
    assert queries.tolist() == [1, 4]


def test_energy_of_heads_by_brute_force(tmp_path: Path) -> None:
    from toolchain.compress.structured import _Scores

    config = read_config(toy_model(tmp_path / "m"))
    generator = torch.Generator().manual_seed(4)
    output = torch.randn((16, 16), generator=generator)
    x = torch.randn((5, 16), generator=generator)
    scores = _Scores(config, output)
    scores.tap("attn.o_proj", x)
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        energy = (x[:, part] @ output[:, part].T).pow(2).sum()
        assert float(scores.heads[head]) == pytest.approx(float(energy), rel=1e-5)


def test_attention_by_perplexity(tmp_path: Path) -> None:
    """The perplexities of models whose attention is zeroed by hand, and the best is taken."""
    model = toy_model(tmp_path / "m", num_layers=3)
    compress(model, tmp_path / "out", stage(tmp_path, attention=2))
    silenced = tmp_path / "out" / "01-structured"
    metrics = stage_values(tmp_path / "out", "01-structured")["metrics"]
    first, second = metrics["perplexity_without_attention"]
    tokens = TextCache().windows(model, Options(calibration=str(text_file(tmp_path)), samples=4), 0)
    for block, found in first.items():
        edit = {f"b{block}__attn_DOT_o_proj": zero(slice(None))}
        other = spoil(toy_model(tmp_path / f"m{block}", num_layers=3), seed=0, **edit)
        assert found == pytest.approx(perplexity_of(loss_of(other, tokens)), rel=1e-6)
    best = min(first, key=lambda block: first[block])
    assert set(second) == set(first) - {best}
    gone = {int(best), int(min(second, key=lambda block: second[block]))}
    assert set(metrics["silent_attention"]) == gone
    measured = perplexity_of(loss_of(silenced, tokens))
    assert measured == pytest.approx(min(second.values()), rel=1e-6)
    source = Source.open(silenced)
    assert read_config(silenced) == read_config(model)
    assert all(not source.masks[block_name(b, "attn.q_proj")].keep.any() for b in gone)
    assert find_silent(source.model) == {f"l{block:02d}.attn" for block in gone}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    packed = [row["packed_bytes"] for row in summary["rows"]]
    assert packed[1] < packed[0]  # the compiled program goes without them


def test_masks_follow_the_cut(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    cut = stage(tmp_path, ffn=0.5, grain=4, query_heads=1)
    compress(model, tmp_path / "out", width, cut)
    source = Source.open(tmp_path / "out" / "02-structured")  # weights are compared by the run
    gate = source.masks[block_name(0, "mlp.gate_proj")]
    assert gate.keep.shape == (12, 16)
    assert gate.pattern == "2:4"
    down = source.masks[block_name(0, "mlp.down_proj")]
    assert down.keep.shape == (16, 12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "nothing to remove"),
        ({"attention": 4}, "attention: found 4, allowed at most 3"),
        ({"kv_groups": 2}, "kv_groups: found 2, allowed at most 1"),
        ({"query_heads": 2}, "query_heads: found 2, allowed at most 1"),
        ({"ffn": 0.1, "grain": 24}, "multiples of 24"),
        ({"ffn": 0.9, "grain": 32}, "multiples of 32"),
        ({"attention": 1, "grain": 8}, "ffn is 0"),
        ({"attention": 1, "balance": 2.0}, "no sparsity to balance"),
        ({"sparsity": 0.5, "ffn": 0.5}, "the sparsity says"),
        ({"sparsity": 0.5, "kv_groups": 1}, "given with heads"),
    ],
)
def test_refusals(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    model = toy_model(tmp_path / "m")
    with pytest.raises(ConfigError, match=words):
        compress(model, tmp_path / "out", stage(tmp_path, **values))
    assert not (tmp_path / "out").exists()
