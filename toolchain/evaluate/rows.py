"""The rows and texts of a suite, from local files or, when the user allows it, from the hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from toolchain.evaluate.data_files import (
    DataSource,
    Row,
    data_directory,
    find_file,
    missing_problems,
    read_rows,
    read_text,
)
from toolchain.evaluate.suites import SUITES
from toolchain.model.errors import ConfigError, EnvironmentFailureError, ToolError


class Data:
    """Where the files of suites come from; `directory` None: the usual places."""

    def __init__(self, directory: Path | None, allow_hub: bool) -> None:
        """Raises ConfigError for a directory that is not there."""
        self._directory = data_directory(directory)
        self._allow_hub = allow_hub

    def check(self, suites: Iterable[str]) -> None:
        """Raise ConfigError with every file that is missing, unless the hub may be asked."""
        problems = missing_problems(
            self._directory, {name: SUITES[name].sources for name in suites}
        )
        if problems and not self._allow_hub:
            fix = "name the directory with --data DIR, or allow downloads with --allow-hub"
            raise ConfigError("evaluation data is missing", problems, fix)

    def text(self, source: DataSource) -> str:
        """A whole text."""
        path = find_file(self._directory, source.file)
        if path is not None:
            return read_text(path)
        return "".join(str(row["text"]) for row in _from_hub(source))

    def rows(self, source: DataSource) -> list[Row]:
        """Checked rows."""
        path = find_file(self._directory, source.file)
        if path is not None:
            return read_rows(path, source.fields)
        return [_hub_row(row) for row in _from_hub(source)]


def _from_hub(source: DataSource) -> Sequence[Row]:
    """Rows of a data set of the hub; no code of the data set is run."""
    try:
        import datasets  # noqa: PLC0415 - one second, and an extra
    except ImportError as error:
        raise ToolError("datasets is not installed", fix="pip install 'edgec[eval]'") from error
    path, configuration, split = source.hub
    try:
        loaded: Any = datasets.load_dataset(path, configuration, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        where = f"{path} ({configuration}, {split})"
        raise EnvironmentFailureError(f"the data set {where} cannot be read: {error}") from error
    rows: Sequence[Row] = loaded
    return rows


def _hub_row(row: Row) -> Row:
    """TriviaQA of the hub nests answers and contexts; every other set has the form of the files."""
    answer = row.get("answer")
    if not isinstance(answer, dict):
        return row
    flat = {
        "question": row["question"],
        "value": answer["value"],
        "aliases": list(answer["normalized_aliases"]),
    }
    pages = row.get("entity_pages") or {}
    contexts = [text for text in pages.get("wiki_context", ()) if text]
    return flat | {"contexts": contexts} if contexts else flat
