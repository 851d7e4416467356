"""What `edgec recipes` lists: recipes, stage kinds, and the options of one."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.table import Table

from toolchain.compress.option_values import allowed_text
from toolchain.compress.recipe import builtin_recipes, read_toml
from toolchain.compress.registry import STAGES, load_kind
from toolchain.model.errors import ConfigError, Problem
from toolchain.tables import stdout

Json = dict[str, Any]


def list_recipes() -> list[Json]:
    """The built-in recipes with the kinds of their stages."""
    found = []
    for name, path in builtin_recipes().items():
        values = read_toml(path)
        kinds = [stage["kind"] for stage in values["stage"]]
        found.append({"name": name, "stages": kinds, "description": values["description"]})
    return found


def list_stages() -> list[Json]:
    """The stage kinds and the packages that they need."""
    return [
        {"kind": kind, "summary": entry.summary, "needs": list(entry.needs)}
        for kind, entry in STAGES.items()
    ]


def list_options(kind: str) -> list[Json]:
    """The options of a kind; raises ConfigError when there is no such kind."""
    if kind not in STAGES:
        problem = Problem("--stage", kind, " or ".join(STAGES))
        raise ConfigError("there is no such stage kind", [problem])
    options = load_kind(kind).options
    hints = typing.get_type_hints(options)
    return [
        {
            "option": field.name,
            "default": list(value) if isinstance(value := field.default, tuple) else value,
            "allowed": allowed_text(hints[field.name], field.metadata),
            "meaning": field.metadata["doc"],
        }
        for field in fields(options)
    ]


def print_entries(entries: Sequence[Json]) -> None:
    """A table with the keys as its head."""
    table = Table(*entries[0])
    for entry in entries:
        cells = (", ".join(v) if isinstance(v, list) else v for v in entry.values())
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    stdout().print(table)
