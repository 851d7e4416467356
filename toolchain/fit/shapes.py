"""Which model is meant: a directory, a config.json, or a shape that comes with edgec.

Built-in shapes are `builtin/*.json` in the layout of a Hugging Face config.json, with one more key,
`source`. A path that exists is taken before a built-in name; the report says which it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.fit.options import BUNDLED
from toolchain.model.config import ModelConfig, read_config
from toolchain.model.errors import ConfigError, EdgecError, Problem

if TYPE_CHECKING:
    from toolchain.model.checkpoint import FloatModel

BUNDLED_SOURCE = "trained by this project, comes with edgec"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model: its name, where its shape is from, and the shape."""

    name: str
    source: str
    config: ModelConfig
    model: FloatModel | None = None  # its weights, where there are some


def list_shapes() -> tuple[str, ...]:
    """Names of the built-in shapes, the bundled model first."""
    found = (entry.name for entry in _folder().iterdir() if entry.suffix == ".json")
    return (BUNDLED, *sorted(name.removesuffix(".json") for name in found))


def load_shape(name: str) -> Subject:
    """The built-in shape `name`; ConfigError with the names that there are."""
    if name not in list_shapes():
        raise _unknown(name)
    if name == BUNDLED:
        bundled = Path(str(files("toolchain.model") / "bundled"))
        return Subject(BUNDLED, BUNDLED_SOURCE, read_config(bundled))
    path = _folder() / f"{name}.json"
    source = json.loads(path.read_text(encoding="utf-8"))["source"]
    return Subject(name, f"built-in shape; {source}", read_config(path))


def find_model(text: str | None) -> Subject:
    """The model that the command line names; the bundled one when it names none.

    Raises ConfigError for what neither exists nor is a name, CheckpointError for a path without a
    readable config.json, UnsupportedModelError for a shape that edgec cannot compile.
    """
    if text is None:
        return load_shape(BUNDLED)
    path = Path(text)
    if path.exists():
        return _load_path(path)
    if text.lower() not in list_shapes():
        raise _unknown(text)
    return load_shape(text.lower())


def _load_path(path: Path) -> Subject:
    """The model in a file or directory, with its weights where they can be read.

    Adapters and codes must be readable.
    """
    # Imported now: a built-in shape has no weights.
    from toolchain.model.checkpoint import load_model
    from toolchain.model.coded_settings import has_codes
    from toolchain.model.lora import base_directory, is_adapter

    base, model = base_directory(path), None
    if path.is_dir():
        try:
            model = load_model(path)
        except EdgecError:
            if is_adapter(path) or has_codes(path):
                raise
    return Subject(_name_of(path), str(path), read_config(base), model)


def _unknown(text: str) -> ConfigError:
    """The error of a path that does not exist and is no name either, with the names that are close.

    Of a path the directory and file name are compared.
    """
    names, path = list_shapes(), Path(text.lower())
    words = [text.lower(), path.stem if path.suffix == ".json" else path.name, path.parent.name]
    close = [name for word in words for name in get_close_matches(word, names, 3, 0.5)]
    close += [name for name in names for word in words if len(word) > 3 and word in name]
    listed = ", ".join(dict.fromkeys(close)) or ", ".join(names)
    problem = Problem(
        "MODEL",
        f"{text!r}, a path that does not exist",
        f"a directory, a config.json, or a built-in shape{' like' * bool(close)}: {listed}",
        "edgec fit --list-shapes has all shapes",
    )
    return ConfigError("unknown model", [problem])


def _name_of(path: Path) -> str:
    if path.suffix != ".json":
        return path.resolve().name
    return path.resolve().parent.name if path.name == "config.json" else path.stem


def _folder() -> Path:
    return Path(str(files("toolchain.fit") / "builtin"))
