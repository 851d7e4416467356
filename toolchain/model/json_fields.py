"""Strict reading of JSON objects from untrusted files, with every problem noted before raising.

`read_json_object` refuses what Python's parser lets through: duplicate keys, NaN and Infinity,
absurd sizes and nesting. `FieldReader` takes typed fields out of an object; a bad field is noted
in the `ProblemLog` and a harmless stand-in returned, so that one pass finds all problems.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from toolchain.model.errors import CheckpointError, Problem, UnsupportedModelError

MAX_JSON_SIZE = 16 << 20  # bytes; a config or shard index is a few hundred KiB at most
_MISSING = object()


class ProblemLog:
    """Problems of one stage, broken input apart from well-formed but unsupported input."""

    def __init__(self) -> None:
        self.broken: list[Problem] = []
        self.unsupported: list[Problem] = []

    def add_broken(self, where: str, found: str, allowed: str, fix: str = "") -> None:
        """Note input that is missing, ill-typed, or contradicts itself."""
        self.broken.append(Problem(where, found, allowed, fix))

    def add_unsupported(self, where: str, found: str, allowed: str, fix: str = "") -> None:
        """Note input that is valid but beyond what edgec compiles."""
        self.unsupported.append(Problem(where, found, allowed, fix))

    def raise_if_any(self, subject: str) -> None:
        """Raise CheckpointError (if anything is broken) or UnsupportedModelError with all."""
        if self.broken:
            raise CheckpointError(f"{subject} is broken", [*self.broken, *self.unsupported])
        if self.unsupported:
            raise UnsupportedModelError(f"{subject} is not supported", self.unsupported)


class FieldReader:
    """Typed fields of one JSON object; `where` prefixes the field name in problems."""

    def __init__(self, values: Mapping[str, object], where: str, log: ProblemLog) -> None:
        self._values = values
        self._where = where
        self._log = log
        self._bad: set[str] = set()

    def is_set(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(key) is not None

    def has(self, key: str) -> bool:
        """Whether the field is there, null included."""
        return key in self._values

    def good(self, *keys: str) -> bool:
        """Whether none of these fields had a problem, so that they may be compared."""
        return self._bad.isdisjoint(keys)

    def integer(self, key: str, lowest: int, highest: int, default: int | None = None) -> int:
        """An integer; below `lowest` is broken, above `highest` unsupported."""
        value = self._get(key, default)
        allowed = f"an integer {lowest}..{highest}"
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            self.broken(key, value, allowed)
            return lowest
        if value > highest:
            self.unsupported(key, value, allowed)
            return lowest
        return value

    def number(
        self, key: str, lowest: float, highest: float, default: float | None = None
    ) -> float:
        """A finite number in `lowest`..`highest`; anything else is broken."""
        value = self._get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Compared before conversion: an integer may be too large for a float.
        if is_number and lowest <= cast("float", value) <= highest:
            return float(cast("float", value))
        self.broken(key, value, f"a number {lowest:g}..{highest:g}")
        return lowest

    def boolean(self, key: str, default: bool) -> bool:
        """Either true or false; anything else is broken."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            self.broken(key, value, "true or false")
            return default
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; anything else is broken."""
        value = self._get(key, default)
        if not isinstance(value, str):
            self.broken(key, value, "a string")
            return ""
        return value

    def raw(self, key: str) -> object:
        """The value as parsed, None when absent."""
        return self._values.get(key)

    def broken(self, key: str, value: object, allowed: str, fix: str = "") -> None:
        """Note the field as broken."""
        self._bad.add(key)
        self._log.add_broken(self._where + key, show(value), allowed, fix)

    def unsupported(self, key: str, value: object, allowed: str, fix: str = "") -> None:
        """Note the field as unsupported."""
        self._bad.add(key)
        self._log.add_unsupported(self._where + key, show(value), allowed, fix)

    def _get(self, key: str, default: object) -> object:
        value = self._values.get(key, _MISSING)
        if default is not None and (value is _MISSING or value is None):
            return default
        return value


def show(value: object) -> str:
    """A JSON value as short text for a message; an absent field reads "nothing"."""
    if value is _MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."


def read_json_object(path: Path) -> dict[str, object]:
    """Parse a UTF-8 JSON file whose top level is an object; CheckpointError for anything else."""
    if not path.is_file():
        found = "something that is not a file" if path.exists() else "nothing"
        raise _unreadable(path, found, "a JSON file")
    try:
        size = path.stat().st_size
        if size > MAX_JSON_SIZE:
            raise _unreadable(path, f"{size} bytes", f"at most {MAX_JSON_SIZE} bytes")
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, f"unreadable content ({error})", "UTF-8 text") from error
    try:
        return parse_json_object(text)
    except ValueError as error:
        raise _unreadable(path, f"invalid JSON ({error})", "a JSON object") from error


def parse_json_object(text: str) -> dict[str, object]:
    """The object in `text`; ValueError for bad JSON, duplicate keys, NaN, or another type."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"the top level is {show(value)}")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"duplicate key {show(key)}")
        values[key] = value
    return values


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is out of range")
    return value


def _unreadable(path: Path, found: str, allowed: str) -> CheckpointError:
    return CheckpointError(f"cannot read {path.name}", [Problem(str(path), found, allowed)])
