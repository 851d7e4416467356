"""LoRA: what is trained is what is merged, masks stay, divergence is one error."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compress.toys import compress, recipe_of, stage_values, text_file, toy_model
from tests.model.tiny import random_weights, tensor_shapes, write_weights
from toolchain.compress.checkpoint import Source, block_name
from toolchain.compress.lora import Options, _examples
from toolchain.compress.lora_training import adapted, masked_forward
from toolchain.compress.masks import read_masks
from toolchain.compress.stage import RunContext
from toolchain.compress.texts import TextCache
from toolchain.model.errors import CompressionError, ConfigError

needs_peft = pytest.mark.skipif(
    find_spec("peft") is None or find_spec("transformers") is None, reason="peft is not installed"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_model(tmp_path / "m", num_layers=2)


def lora(tmp_path: Path, **options: Any) -> dict[str, Any]:
    text = {"calibration": str(text_file(tmp_path)), "samples": 40}
    usual = {"rank": 4, "dropout": 0.0, "learning_rate": 0.01, "epochs": 2}
    return {"kind": "lora", **text, **usual, **options}


@needs_peft
def test_pruned_model_recovers_under_its_masks(tmp_path: Path, model: Path) -> None:
    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    targets = ["q_proj", "v_proj", "down_proj"]
    stages = (width, lora(tmp_path, targets=targets, accumulate=2, dropout=0.1))
    for out in ("one", "two"):
        compress(model, tmp_path / out, *stages)
    pruned, merged = (tmp_path / "one" / d for d in ("01-width", "02-lora"))
    name = "model.safetensors"
    assert (merged / name).read_bytes() == (tmp_path / "two" / "02-lora" / name).read_bytes()
    before, after, masks = Source.open(pruned), Source.open(merged), read_masks(merged)
    for block in (0, 1):
        for suffix in ("attn.q_proj", "attn.k_proj", "mlp.down_proj"):
            weight = block_name(block, suffix)
            old, new = before.stored(weight), after.stored(weight)
            gone = torch.from_numpy(~masks[weight].keep)
            assert torch.count_nonzero(new[gone]) == 0
            assert torch.equal(old, new) == (suffix == "attn.k_proj")
    metrics = stage_values(tmp_path / "one", "02-lora")["metrics"]
    assert metrics["best_heldout_loss"] < metrics["heldout_loss"][0] - 0.05
    assert metrics["steps"] == 9


@needs_peft
def test_masked_forward_is_the_merged_layer(tmp_path: Path, model: Path) -> None:
    from toolchain.compress.lora_training import _wrap
    from toolchain.compress.packages import surroundings

    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    compress(model, tmp_path / "o", width)
    source = Source.open(tmp_path / "o" / "01-width")
    options = Options(rank=3, dropout=0.0)
    with surroundings():
        layers = adapted(_wrap(source, options, "cpu"))
    assert set(layers) == {
        block_name(b, f"attn.{r}_proj") for b in (0, 1) for r in ("q", "k", "v", "o")
    }
    name = block_name(1, "attn.o_proj")
    layer, mask, x = layers[name], source.masks[name], torch.randn(5, 16)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (16 / 3)
    weight = source.stored(name) + update * torch.from_numpy(mask.keep)
    assert torch.allclose(layer(x), x @ weight.T, atol=1e-5)
    assert torch.allclose(masked_forward(layer, mask, "cpu")(x), x @ weight.T, atol=1e-5)


@needs_peft
def test_a_diverging_training_is_one_error(tmp_path: Path, model: Path) -> None:
    weights = random_weights(
        tensor_shapes(hidden=16, ffn=24, layers=2, q_rows=16, kv_rows=8, vocab=97, tied=True), 0
    )
    weights["model.embed_tokens.weight"] *= 1e30  # squares overflow
    write_weights(model, weights)
    with pytest.raises(CompressionError, match="diverged") as caught:
        compress(model, tmp_path / "o", lora(tmp_path))
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "o" / "01-lora").exists()


@needs_peft
def test_early_stop_keeps_the_best(tmp_path: Path, model: Path) -> None:
    """With a rate that only hurts, training ends early and the model stays as it was."""
    stage = lora(tmp_path, learning_rate=0.5, patience=2, evaluations=9)
    compress(model, tmp_path / "o", stage)
    metrics = stage_values(tmp_path / "o", "01-lora")["metrics"]
    losses = metrics["heldout_loss"]
    assert metrics["best_heldout_loss"] == min(losses)
    if metrics["steps"] < metrics["steps_planned"]:
        assert min(losses) not in losses[-2:]


def test_curriculum_shows_clean_text_first(tmp_path: Path, model: Path) -> None:
    clean = text_file(tmp_path / "c", "aaaa bbbb cccc dddd. " * 90)
    text = text_file(tmp_path)
    options = Options(calibration=str(text), clean=str(clean), samples=20, epochs=2)
    run = RunContext("cpu", 0, TextCache(), lambda *_: None)
    examples = _examples(model, options, run)
    assert (len(examples.heldout), len(examples.training)) == (2, 36)
    letters = set(TextCache().ids(model, "abcd. "))
    is_clean = [set(row[1:].tolist()) <= letters for row in examples.training]
    assert is_clean == [True] * 18 + [False] * 18
    heldout = {tuple(row.tolist()) for row in examples.heldout}
    assert not heldout & {tuple(row.tolist()) for row in examples.training}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": []}, "targets: found none"),
        ({"targets": ["x_proj"]}, "x_proj"),
        ({"batch": 8, "accumulate": 3}, "a divisor of batch"),
        ({"precision": "int4"}, "auto or fp32"),
    ],
)
@needs_peft
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe_of({"kind": "lora", **options})


@needs_peft
def test_what_does_not_suit_the_model_or_device(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank: found 9, allowed at most 8"):
        compress(model, tmp_path / "o", lora(tmp_path, rank=9))
    with pytest.raises(CompressionError, match="the device is a CPU"):
        compress(model, tmp_path / "o", lora(tmp_path, precision="bf16"))
