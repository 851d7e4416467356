"""`edgec eval`: perplexity against a loop of its own in transformers, output forms, errors."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.evaluate.data import TEXT
from tests.model.tiny import write_model
from tests.paths import SHARED, STORIES, needs_shared
from toolchain.cli import main
from toolchain.evaluate import subject
from toolchain.model.tokenizer import load_tokenizer


def edgec(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def edgec_json(*args: object) -> Any:
    result = edgec(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("eval") / "tiny", vocab_size=300, context=48)


@pytest.fixture(scope="module")
def build(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("eval-build") / "built"
    assert edgec("compile", model, "-o", output, "--bits", 8).exit_code == 0
    return output


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def perplexity_of_transformers(model_dir: Path, text: str, window: int, count: int) -> float:
    """The usual loop over `labels=`: mean loss per window, weighed by its scored tokens."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    ids = load_tokenizer(model_dir).encode(text)
    bos, rest = ids[:1], ids[1:]
    total, tokens = 0.0, 0
    for start in range(0, len(rest), window - 1):
        row = torch.tensor([bos + rest[start : start + window - 1]])
        if row.shape[1] > 1 and tokens < count * (window - 1):
            with torch.no_grad():
                loss = model(row, labels=row).loss.item()
            total += loss * (row.shape[1] - 1)
            tokens += row.shape[1] - 1
    return math.exp(total / tokens)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_perplexity_is_that_of_transformers(model: Path, text: Path, device: str) -> None:
    expected = perplexity_of_transformers(model, TEXT, 48, 1000)
    options = ("--suite", "text", "--text", text, "--device", device)
    report = edgec_json("eval", model, *options)
    (suite,) = report["suites"]
    assert suite["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert suite["window"] == 48  # the context is shorter than 512
    assert device in report["engine"].lower()


@needs_shared
def test_perplexity_of_stories_is_that_of_transformers() -> None:
    file = SHARED / "data" / "text" / "tinystories" / "tinystories_val_sample.txt"
    expected = perplexity_of_transformers(STORIES, file.read_text(encoding="utf-8"), 256, 3)
    options = ("--text", file, "--window", 256, "--limit", 3, "--device", "numpy")
    (suite,) = edgec_json("eval", STORIES, "--suite", "text", *options)["suites"]
    assert suite["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert suite["scored_tokens"] == 3 * 255


def test_a_build_is_close_to_its_model_and_needs_no_torch(
    model: Path, build: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--suite", "text", "--text", text, "--limit", 6)
    expected = edgec_json("eval", model, *options, "--device", "numpy")["suites"][0]["perplexity"]
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    report = edgec_json("eval", build, *options)
    assert (report["kind"], report["engine"]) == ("build", "integer simulator")
    (suite,) = report["suites"]
    assert abs(suite["perplexity"] / expected - 1) < 0.02
    assert suite["tokens_per_second"] > 0
    assert report["peak_memory_bytes"] > 1 << 20


def test_without_torch_a_checkpoint_runs_in_numpy(
    model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "find_spec", lambda _: None)
    options = ("eval", model, "--suite", "text", "--text", text, "--limit", 1)
    assert edgec_json(*options)["engine"] == "NumPy float32"
    refused = edgec(*options, "--device", "cpu")
    assert refused.exit_code == 7
    assert "edgec[compress]" in refused.output


def test_forms_of_output(model: Path, text: Path) -> None:
    options = ("eval", model, "--suite", "text", "--text", text, "--limit", 2, "--device", "numpy")
    report = edgec_json(*options)
    (row,) = csv.DictReader(io.StringIO(edgec(*options, "--csv").stdout))
    assert float(row["value"]) == report["suites"][0]["perplexity"]
    assert row["total"] == str(report["suites"][0]["scored_tokens"])
    table = edgec(*options).stdout
    assert f"{report['suites'][0]['perplexity']:.3f}" in table
    assert "2 windows of 48 tokens" in table
    assert edgec(*options, "--csv", "--json").exit_code == 2


def test_refusals(model: Path, build: Path, text: Path, tmp_path: Path) -> None:
    suite = ("--suite", "text", "--text", text)
    for arguments, found in (
        ((model, *suite, "--window", 49, "--device", "numpy"), "49 tokens, allowed 2..48"),
        ((build, *suite, "--device", "cpu"), "a build runs on the integer simulator"),
        ((tmp_path / "nothing", *suite), "a build, or a checkpoint directory"),
        ((model, "--suite", "wikitext2", "--data", tmp_path), "wikitext-2/test.txt"),
        ((model, *suite, "--device", "tpu"), "--device"),
    ):
        result = edgec("eval", *arguments)
        assert result.exit_code == 2, result.output
        assert found in result.output


def test_a_checkpoint_without_tokenizer_is_refused_before_it_is_loaded(
    model: Path, text: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    result = edgec("eval", tmp_path / "bare", "--suite", "text", "--text", text)
    assert result.exit_code == 5
    assert "tokenizer.json" in result.output


def test_pickled_weights_are_refused(model: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    shutil.copytree(model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    for device in ("cpu", "numpy"):
        options = ("--suite", "text", "--text", text, "--device", device)
        result = edgec("eval", tmp_path / "pickled", *options)
        assert result.exit_code == 5, result.output


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from toolchain.cli import main\n"
        "result = CliRunner().invoke(main, ['--help']); assert 'sensitivity' in result.output\n"
        "assert CliRunner().invoke(main, ['eval', '--help']).exit_code == 0\n"
        "print([n for n in ('torch', 'transformers', 'onnx', 'lm_eval', 'datasets', 'numpy')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_downloaded_unless_allowed(
    model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.evaluate import command

    asked: list[tuple[str | None, bool]] = []

    def note(name: str | None, allow_hub: bool) -> Path:
        asked.append((name, allow_hub))
        return model

    monkeypatch.setattr(command, "model_path", note)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    options = ("eval", "owner/name", "--suite", "text", "--text", text, "--limit", 1)
    edgec_json(*options, "--device", "numpy", "--allow-hub")
    assert "HF_HUB_OFFLINE" not in os.environ
    edgec_json(*options, "--device", "numpy")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert asked == [("owner/name", True), ("owner/name", False)]
