"""Checkpoints that are not plain floats: GPTQ through gptqmodel, and PEFT adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from tests.evaluate.data import TEXT
from tests.evaluate.gptq import write_gptq
from tests.model.tiny import write_model
from toolchain.cli import main

pytest.importorskip("torch")

# GPTQ kernels want multiples of 32.
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "num_kv_heads": 1,
    "vocab_size": 300,
    "context": 48,
}


def perplexity(model: Path, text: Path, *options: str) -> Any:
    arguments = ["eval", str(model), "--suite", "text", "--text", str(text), "--limit", "4"]
    result = CliRunner().invoke(main, [*arguments, *options, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("plain") / "m", **SHAPE)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_pickled_adapters_are_refused(model: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    shutil.copytree(model, tmp_path / "base")
    values = {"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(values))
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x02")
    for device in ("cpu", "numpy"):
        options = ["--suite", "text", "--text", str(text), "--device", device]
        result = CliRunner().invoke(main, ["eval", str(tmp_path / "adapter"), *options])
        assert result.exit_code == 5, result.output
        assert "safetensors" in result.output


@pytest.mark.filterwarnings("ignore")  # of gptqmodel and what it imports
def test_gptq_checkpoints_run_as_the_weights_that_they_stand_for(
    model: Path, text: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gptqmodel")
    real = write_gptq(model, tmp_path / "gptq", group=32)
    shutil.copytree(model, tmp_path / "real")
    save_file(real, tmp_path / "real" / "model.safetensors")
    expected = perplexity(tmp_path / "real", text, "--device", "numpy")
    found = perplexity(tmp_path / "gptq", text, "--device", "cpu")
    assert found["kind"] == "quantized checkpoint"
    assert found["engine"] == "torch cpu float16"
    value, other = (report["suites"][0]["perplexity"] for report in (found, expected))
    assert abs(value / other - 1) < 2e-3  # float16 against float32 arithmetic


def test_numpy_reads_a_gptq_checkpoint(model: Path, text: Path, tmp_path: Path) -> None:
    """Against a plain checkpoint of the weights that the codes stand for."""
    real = write_gptq(model, tmp_path / "gptq", group=32)
    shutil.copytree(model, tmp_path / "real")
    save_file(real, tmp_path / "real" / "model.safetensors")
    reports = [perplexity(tmp_path / name, text, "--device", "numpy") for name in ("gptq", "real")]
    found, expected = (report["suites"][0]["perplexity"] for report in reports)
    assert abs(found / expected - 1) < 2e-3  # multipliers of 8 bits stand for the scales


@pytest.mark.filterwarnings("ignore")  # of peft and what it imports
def test_an_adapter_runs_on_its_base(model: Path, text: Path, tmp_path: Path) -> None:
    """W + 2 B A, with alpha / r = 2, against a checkpoint that holds the sum."""
    pytest.importorskip("peft")
    rng = np.random.default_rng(0)
    name = "model.layers.0.self_attn.q_proj"
    a = rng.standard_normal((4, 64)).astype(np.float32) / 8
    b = rng.standard_normal((64, 4)).astype(np.float32) / 8
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    prefix = f"base_model.model.{name}"
    save_file(
        {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(model),
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "task_type": "CAUSAL_LM",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    merged = tmp_path / "merged"
    shutil.copytree(model, merged)
    tensors = load_file(merged / "model.safetensors")
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + 2 * b @ a
    save_file(tensors, merged / "model.safetensors")
    found, expected, base = (
        perplexity(path, text, "--device", "cpu")["suites"][0]["perplexity"]
        for path in (adapter, merged, model)
    )
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(base, rel=1e-4)


def test_an_adapter_without_its_base_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/model"}')
    arguments = ["eval", str(tmp_path), "--suite", "text", "--text", str(text)]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu"])
    assert result.exit_code == 5
    assert "owner/model" in result.output
