"""Recipes: every problem at once, overrides, the built-in files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.compress.toys import recipe_of
from tests.paths import REPOSITORY
from toolchain.compress import registry
from toolchain.compress.recipe import builtin_recipes, load_recipe, parse_recipe, parse_value
from toolchain.model.errors import ConfigError, ToolError


def problems_of(values: dict[str, Any], sets: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_recipe("bad", values, sets)
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_at_once() -> None:
    stages = [
        {"kind": "depth", "remov": 1, "protect_first": 1.5, "method": "size", "samples": 0},
        {"kind": "lorra"},
        {"remove": 2},
        {"kind": "width"},
    ]
    found = problems_of({"stage": stages, "name": "x"}, ("a=1", "depth.kind=2", "nonsense"))
    expected = [
        "name: found an unknown key",
        "[[stage]] 3: found no kind",
        "--set: found 'a=1', allowed STAGE.OPTION=VALUE",
        "--set depth.kind=2: found kind",
        "--set: found 'nonsense'",
        "depth.remov: found an unknown option",
        "depth.protect_first: found 1.5, allowed an integer",
        "depth.method: found 'size', allowed magnitude or taylor or perplexity",
        "depth.samples: found 0, allowed 1..",
        "stage 2: found unknown stage kind 'lorra'",
        "width.amount: found none",
    ]
    for text in expected:
        assert any(line.startswith(text) for line in found), text
    assert any("did you mean remove?" in line for line in found)


@pytest.mark.parametrize(
    "values", [{}, {"stage": []}, {"stage": "depth"}, {"stage": [3]}, {"stage": [{}] * 100}]
)
def test_no_stages(values: dict[str, Any]) -> None:
    assert problems_of(values)


def test_overrides() -> None:
    depth = {"kind": "depth", "samples": 5}
    sets = ["depth.remove=3", "depth#2.method=magnitude", "depth#1.iterative=true"]
    one, two = recipe_of(depth, depth, sets=sets).stages
    assert (one.label, two.label) == ("depth", "depth#2")
    first, second = one.options, two.options
    assert (first.remove, first.samples, first.iterative) == (3, 5, True)  # type: ignore[attr-defined]
    assert second.method == "magnitude"  # type: ignore[attr-defined]


def test_options_that_lose_their_meaning() -> None:
    """What the recipe says may become idle by an override; what the user says may not."""
    depth = {"kind": "depth", "samples": 5}
    recipe_of(depth, sets=["depth.method=magnitude"])
    with pytest.raises(ConfigError, match="looks at no text"):
        recipe_of(depth, sets=["depth.method=magnitude", "depth.samples=3"])
    with pytest.raises(ConfigError, match="looks at no text"):
        recipe_of(depth | {"method": "magnitude"})


def test_skips() -> None:
    depth, width = {"kind": "depth"}, {"kind": "width", "pattern": "2:4"}
    with pytest.raises(ConfigError, match="--skip: found lora"):
        recipe_of(depth, width, skips=["lora"])
    with pytest.raises(ConfigError, match="every stage"):
        recipe_of(depth, skips=["depth"])


def test_values() -> None:
    assert parse_value("3") == 3
    assert parse_value("true") is True
    assert parse_value("[0, 1]") == [0, 1]
    assert parse_value("2:4") == "2:4"
    assert parse_value("some text") == "some text"


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_builtin_recipes_load(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.stages
    assert recipe.description


def test_unreadable_recipes(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[[stage", encoding="utf-8")
    with pytest.raises(ConfigError, match="unreadable recipe"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="galavotti"):
        load_recipe(str(tmp_path / "absent.toml"))


def test_a_missing_package_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = replace(registry.STAGES["depth"], needs=("torch", "no_such_package"))
    monkeypatch.setitem(registry.STAGES, "depth", kind)
    with pytest.raises(ToolError, match=r"needs no_such_package, not installed") as caught:
        recipe_of({"kind": "depth"})
    assert "edgec[compress]" in str(caught.value)


def test_recipes_are_listed_without_torch() -> None:
    code = (
        "import sys; from toolchain.compress.listing import *; list_recipes(); list_stages();"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
