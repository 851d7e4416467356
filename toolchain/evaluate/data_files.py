"""Evaluation data from local files: where each set is looked for, and its checked rows.

A data directory holds the files directly, or in `eval/`, `text/` or `wikitext-2/` below it, with or
without `.gz`. Rows have the fields of the sets' own releases. Nothing is downloaded here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from toolchain.model.errors import ConfigError, EnvironmentFailureError, Problem

Row = dict[str, Any]
DEFAULT_PLACES = (Path("data"), Path("../shared/data"))
FOLDERS = ("", "eval", "text", "wikitext-2", "text/wikitext-2")
SHOWN = 3  # broken rows named in an error


@dataclass(frozen=True, slots=True)
class DataSource:
    """A file of rows (or plain text), what each row must have, and its name on the hub."""

    file: str
    fields: tuple[str, ...] = ()
    hub: tuple[str, str | None, str] = ("", None, "")  # path, configuration, split

    @property
    def is_text(self) -> bool:
        """Whether it is plain text."""
        return self.file.endswith(".txt")


def data_directory(given: Path | None) -> Path:
    """The directory that was given, else the first usual place that exists."""
    if given is not None:
        if not given.is_dir():
            problem = Problem("--data", str(given), "a directory of evaluation files")
            raise ConfigError("there is no evaluation data", [problem])
        return given
    return next((place for place in DEFAULT_PLACES if place.is_dir()), DEFAULT_PLACES[0])


def find_file(directory: Path, file: str) -> Path | None:
    """The file or its gzip form in any of the known folders."""
    for folder in FOLDERS:
        for name in (file, f"{file}.gz"):
            path = directory / folder / name
            if path.is_file():
                return path
    return None


def missing_problems(directory: Path, sources: Mapping[str, Sequence[DataSource]]) -> list[Problem]:
    """One problem per file that is not there; `sources` by suite."""
    return [
        Problem(f"{suite}: {directory}", "nothing", f"{source.file} or {source.file}.gz")
        for suite, needed in sources.items()
        for source in needed
        if find_file(directory, source.file) is None
    ]


def read_text(path: Path) -> str:
    """A UTF-8 text file, perhaps compressed; raises ConfigError when it is none."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        problem = Problem(str(path), str(error), "UTF-8 text")
        raise ConfigError("a data file cannot be read", [problem]) from error
    except OSError as error:
        raise EnvironmentFailureError(f"{path} cannot be read: {error.strerror}") from error


def read_rows(path: Path, fields: Sequence[str]) -> list[Row]:
    """Rows of a JSON-lines file, or the `examples` of a JSON file, each with all `fields`.

    Raises ConfigError that names the first broken rows.
    """
    text = read_text(path)
    is_lines = path.name.removesuffix(".gz").endswith(".jsonl")
    try:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()] if is_lines else None
        if rows is None:
            value = json.loads(text)
            rows = value.get("examples") if isinstance(value, dict) else None
    except ValueError as error:
        problem = Problem(str(path), str(error), "JSON")
        raise ConfigError("a data file cannot be read", [problem]) from error
    if not isinstance(rows, list) or not rows:
        problem = Problem(str(path), "no rows", "rows, one JSON object each")
        raise ConfigError("a data file is empty", [problem])
    _check(path, rows, fields)
    return cast("list[Row]", rows)


def _check(path: Path, rows: Sequence[object], fields: Sequence[str]) -> None:
    problems = []
    for index, row in enumerate(rows):
        absent = [f for f in fields if f not in row] if isinstance(row, dict) else list(fields)
        if absent:
            found = f"no {', '.join(absent)}"
            problems.append(Problem(f"{path}: row {index + 1}", found, ", ".join(fields)))
    if problems:
        raise ConfigError("a data file has another form", problems[:SHOWN])


def spread(groups: Mapping[str, Sequence[Row]], limit: int | None) -> dict[str, list[Row]]:
    """The first `limit` rows of all groups together, taken in turn from each; None: all rows."""
    if limit is None:
        return {name: list(rows) for name, rows in groups.items()}
    taken: dict[str, list[Row]] = {name: [] for name in groups}
    depth = 0
    left = min(limit, sum(len(rows) for rows in groups.values()))
    while left:
        for name, rows in groups.items():
            if depth < len(rows) and left:
                taken[name].append(rows[depth])
                left -= 1
        depth += 1
    return {name: rows for name, rows in taken.items() if rows}
