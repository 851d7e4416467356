"""`edgec compress` and `edgec recipes` as they are typed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.compress.toys import text_file, toy_model
from toolchain.cli import main
from toolchain.model.config import read_config
from toolchain.model.errors import CompressionError

RECIPE = """
description = "test"
[[stage]]
kind = "depth"
method = "magnitude"
remove = 1
protect_first = 0
[[stage]]
kind = "width"
method = "magnitude"
pattern = "2:4"
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    model = toy_model(tmp_path / "model")
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    options = ["--recipe", str(recipe), "-o", str(tmp_path / "out"), "--device", "cpu"]
    return ["compress", str(model), *options, "--eval-text", str(text_file(tmp_path))]


def test_table_json_and_csv(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["model"] == "02-width"
    rows = summary["rows"]
    assert [row["stage"] for row in rows] == ["input", "depth", "width"]
    assert all(row["perplexity"] > 1 for row in rows)
    per_block = 4 * 16 * 16 - 2 * 8 * 16 + 3 * 24 * 16
    assert rows[0]["parameters"] - rows[1]["parameters"] == per_block + 2 * 16
    assert rows[2]["parameters_kept"] == rows[1]["parameters"] - 3 * per_block // 2
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["directory"] for row in table] == ["model", "01-depth", "02-width"]
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0, again.output
    assert again.stdout.count("reused") == 3
    assert "01-depth" in again.stdout


def test_set_and_skip(tmp_path: Path, arguments: list[str]) -> None:
    more = ["--set", "depth.remove=2", "--skip", "width", "--eval-windows", "0", "--json"]
    done = CliRunner().invoke(main, [*arguments, *more])
    assert done.exit_code == 0, done.output
    (_, row) = json.loads(done.stdout)["rows"]
    assert (row["directory"], row["perplexity"]) == ("01-depth", None)
    assert read_config(tmp_path / "out" / "01-depth").num_layers == 2


def test_bundled_is_a_name(tmp_path: Path) -> None:
    options = ["--recipe", "franken", "-o", str(tmp_path / "out"), "--eval-windows", "0", "--json"]
    done = CliRunner().invoke(main, ["compress", "bundled", *options])
    assert done.exit_code == 0, done.output
    assert read_config(tmp_path / "out" / "01-layer-order").num_layers == 3


def test_errors_have_their_codes(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [*arguments, "--set", "depth.remove=9", "--json"])
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["where"] == "depth.remove"
    short = text_file(tmp_path / "short", "")
    done = CliRunner().invoke(main, [*arguments, "--eval-text", str(short)])
    assert done.exit_code == CompressionError.exit_code
    assert "too short for a perplexity" in done.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def test_recipes() -> None:
    done = CliRunner().invoke(main, ["recipes", "--json"])
    names = [entry["name"] for entry in json.loads(done.stdout)["recipes"]]
    studies = ["franken", "galavotti", "midllamai", "module-specific", "sheared-lora", "siracusa"]
    assert names == studies
    done = CliRunner().invoke(main, ["recipes", "--stages", "--json"])
    kinds = [entry["kind"] for entry in json.loads(done.stdout)["stages"]]
    assert {"depth", "layer-order", "structured", "width"} <= set(kinds)
    assert "galavotti" in CliRunner().invoke(main, ["recipes"]).stdout


def test_options_of_a_stage() -> None:
    done = CliRunner().invoke(main, ["recipes", "--stage", "width", "--json"])
    options = {entry["option"]: entry for entry in json.loads(done.stdout)["options"]}
    assert options["method"]["allowed"] == "wanda or magnitude or gblm"
    assert options["samples"] == {
        "option": "samples",
        "default": 10,
        "allowed": "an integer, 1..1048576",
        "meaning": "windows of calibration text",
    }
    assert "alpha of gblm" in CliRunner().invoke(main, ["recipes", "--stage", "width"]).stdout
    assert CliRunner().invoke(main, ["recipes", "--stage", "lorra"]).exit_code == 2
