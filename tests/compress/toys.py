"""Tiny models and recipes of the compression tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.model.tiny import write_model
from toolchain.compress.pipeline import Settings, run_recipe
from toolchain.compress.recipe import Recipe, parse_recipe
from toolchain.compress.summary import Row

TEXT = "it was not the same as the other one, she said; and he saw that it was true. " * 60


def toy_model(directory: Path, **shape: Any) -> Path:
    """A random Llama of four blocks with a character tokenizer."""
    return write_model(directory, **({"num_layers": 4, "context": 32} | shape))


def text_file(directory: Path, text: str = TEXT) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def recipe_of(
    *stages: dict[str, Any], sets: Iterable[str] = (), skips: Iterable[str] = ()
) -> Recipe:
    return parse_recipe("test", {"stage": list(stages)}, list(sets), list(skips))


def quiet(stage: str, what: str, done: int, total: int) -> None:
    pass


def compress(model: Path, out: Path, *stages: dict[str, Any], **settings: Any) -> list[Row]:
    """Run stages without any perplexity."""
    return run_recipe(recipe_of(*stages), Settings(model, out, device="cpu", **settings), quiet)


def stage_values(out: Path, name: str) -> Any:
    """The record of a finished stage."""
    return json.loads((out / name / "edgec_stage.json").read_text(encoding="utf-8"))
