"""Recipes: TOML text, `--set` and `--skip` -> a checked list of stages.

    description = "what it is for"
    [[stage]]
    kind = "depth"
    remove = 2

A stage is called by its kind, the second one of a kind `kind#2`. All problems of a recipe are
raised at once.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from toolchain.compress.option_values import read_options
from toolchain.compress.registry import STAGES, LoadedKind, load_kind
from toolchain.compress.stage import StageOptions
from toolchain.model.errors import ConfigError, Problem

SUFFIX = ".toml"
MAX_STAGES = 99  # two digits in directory names


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One step of a recipe; `position` counts from 1 and includes skipped stages."""

    position: int
    label: str  # kind, or kind#2
    kind: str
    options: StageOptions
    loaded: LoadedKind

    @property
    def directory(self) -> str:
        """Name of its checkpoint within the output directory."""
        return f"{self.position:02d}-{self.kind}"


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """The stages to run, in order."""

    name: str
    description: str
    stages: tuple[Stage, ...]


def builtin_recipes() -> dict[str, Path]:
    """Name to file of the recipes that come with edgec."""
    folder = Path(str(files("toolchain.compress") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def find_recipe(name_or_file: str) -> Path:
    """A built-in recipe by name, else a file; raises ConfigError when there is neither."""
    builtin = builtin_recipes()
    path = builtin.get(name_or_file, Path(name_or_file))
    if path.is_file():
        return path
    allowed = f"a file, or one of {', '.join(builtin)}"
    raise ConfigError("there is no such recipe", [Problem("--recipe", name_or_file, allowed)])


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed file; raises ConfigError when it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problem = Problem(str(path), f"an unreadable recipe ({error})", "a TOML file")
        raise ConfigError("the recipe cannot be read", [problem]) from error


def load_recipe(name_or_file: str, sets: Sequence[str] = (), skips: Sequence[str] = ()) -> Recipe:
    """The recipe with overrides applied; raises ConfigError with every problem."""
    path = find_recipe(name_or_file)
    return parse_recipe(path.stem, read_toml(path), sets, skips)


def parse_recipe(
    name: str, values: Mapping[str, Any], sets: Sequence[str] = (), skips: Sequence[str] = ()
) -> Recipe:
    """A recipe from parsed TOML."""
    problems: list[Problem] = []
    known = {"description", "stage"}
    for key in sorted(values.keys() - known):
        problems.append(Problem(key, "an unknown key", "description, [[stage]]"))
    description = values.get("description", "")
    if not isinstance(description, str):
        problems.append(Problem("description", repr(description), "a text"))
    tables = _stage_tables(values.get("stage", []), problems)
    labels = _labels(tables)
    asked = _apply_sets(dict(zip(labels, tables, strict=True)), sets, problems)
    for label in skips:
        if label not in labels:
            problems.append(Problem("--skip", label, " or ".join(labels) or "a stage"))
    stages = [
        stage
        for position, (label, table) in enumerate(zip(labels, tables, strict=True), start=1)
        if (stage := _read_stage(position, label, table, asked[label], problems))
        and label not in skips
    ]
    if not problems and not stages:
        problems.append(Problem("--skip", "every stage", "at least one stage to run"))
    if problems:
        raise ConfigError(f"the recipe {name} cannot be used", problems)
    return Recipe(name, str(description), tuple(stages))


def _stage_tables(value: Any, problems: list[Problem]) -> list[dict[str, Any]]:
    """Copies of the [[stage]] tables, without those that are none."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STAGES:
        problems.append(Problem("[[stage]]", "no list", f"1..{MAX_STAGES} tables [[stage]]"))
        return []
    tables = []
    for number, table in enumerate(value, start=1):
        if isinstance(table, dict) and isinstance(table.get("kind"), str):
            tables.append(dict(table))
        else:
            problems.append(Problem(f"[[stage]] {number}", "no kind", f"kind = {_kinds()}"))
    return tables


def _labels(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    seen: Counter[str] = Counter()
    labels = []
    for table in tables:
        kind = str(table["kind"])
        seen[kind] += 1
        labels.append(kind if seen[kind] == 1 else f"{kind}#{seen[kind]}")
    return labels


def _apply_sets(
    tables: Mapping[str, dict[str, Any]], sets: Iterable[str], problems: list[Problem]
) -> dict[str, set[str]]:
    """Writes the overrides into the tables; the options that were set, by stage."""
    asked: dict[str, set[str]] = {label: set() for label in tables}
    for text in sets:
        target, equals, value = text.partition("=")
        label, dot, name = target.partition(".")
        label = label.removesuffix("#1")
        if not equals or not dot or not name:
            problems.append(Problem("--set", repr(text), "STAGE.OPTION=VALUE"))
        elif label not in tables:
            allowed = " or ".join(tables) or "a stage of the recipe"
            problems.append(Problem(f"--set {text}", f"the stage {label}", allowed))
        elif name == "kind":
            problems.append(Problem(f"--set {text}", "kind", "an option of the stage"))
        else:
            tables[label][name] = parse_value(value)
            asked[label].add(name)
    return asked


def parse_value(text: str) -> Any:
    """A TOML value; what is none is taken as text, so that words need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read_stage(
    position: int,
    label: str,
    table: Mapping[str, Any],
    asked: set[str],
    problems: list[Problem],
) -> Stage | None:
    kind = str(table["kind"])
    if kind not in STAGES:
        problems.append(Problem(f"stage {position}", f"unknown stage kind {kind!r}", _kinds()))
        return None
    loaded = load_kind(kind)
    values = {name: value for name, value in table.items() if name != "kind"}
    options = read_options(loaded.options, values, label, problems, asked)
    return None if options is None else Stage(position, label, kind, options, loaded)


def _kinds() -> str:
    return " or ".join(STAGES)
