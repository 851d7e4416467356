"""A checked view of one TOML table: reads typed values and notes every defect with its path.

Reading never raises: a defect adds a `Problem` to the shared list and yields a neutral value, so
that one pass over a file finds all of them. `finish` reports the keys that nobody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from memory_planner.target import Constant, Reading, Span, Status
from toolchain.model.errors import Problem

T = TypeVar("T")

_CONSTANT_KEYS = ("value", "unit", "source", "status")
_SPAN_KEYS = ("low", "high")
_SLOWER = "conservative"
_READ_TWICE = ("costs", "engine", "link")  # tables whose constants have two readings


class Table:
    """One table at `path`; problems and constants are shared by all tables of a file.

    A constant may have a second value, `conservative`, which counts in that reading.
    """

    def __init__(
        self,
        path: str,
        raw: Mapping[str, object],
        problems: list[Problem],
        constants: dict[str, Constant],
        reading: Reading = Reading.SIMULATOR,
    ) -> None:
        self._path = path
        self._raw = raw
        self._problems = problems
        self._constants = constants
        self._reading = reading
        self._asked: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether an optional key is there."""
        return key in self._raw

    def entries(self) -> tuple[str, ...]:
        """What the table has, in the file's order."""
        return tuple(self._raw)

    def text(self, key: str) -> str:
        """A non-empty string."""
        value = self._get(key)
        if isinstance(value, str) and value:
            return value
        return self._wrong(key, value, "a non-empty string", "")

    def word(self, key: str, pattern: str) -> str:
        """A string that matches `pattern` in full: names that end up in C, linker or file names."""
        value = self._get(key)
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        return self._wrong(key, value, f"text of the form {pattern}", "")

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """One of the strings in `allowed`."""
        value = self._get(key)
        if isinstance(value, str) and value in allowed:
            return value
        return self._wrong(key, value, "one of " + ", ".join(allowed), allowed[0])

    def flag(self, key: str) -> bool:
        """true or false."""
        value = self._get(key)
        return value if isinstance(value, bool) else self._wrong(key, value, "a boolean", False)

    def names(self, key: str) -> tuple[str, ...]:
        """A non-empty list of different strings."""
        value = self._get(key)
        names = value if isinstance(value, list) else []
        if names and all(isinstance(name, str) for name in names) and len({*names}) == len(names):
            return tuple(names)
        return self._wrong(key, value, "a non-empty list of different names", ())

    def table(self, key: str) -> Table:
        """A sub-table."""
        value = self._get(key)
        raw = value if isinstance(value, dict) else self._wrong(key, value, "a table", {})
        return self._child(key, raw)

    def tables(self, key: str, at_least: int = 1) -> list[Table]:
        """An array of tables; their paths use the entry's name where there is one."""
        value = self._get(key) if at_least or key in self._raw else []
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            return self._wrong(key, value, "an array of tables", [])
        if len(value) < at_least:
            return self._wrong(key, value, f"at least {at_least} tables", [])
        return [
            self._child(f"{key}.{entry.get('name', index)}", entry)
            for index, entry in enumerate(value)
        ]

    def number(self, key: str, unit: str, positive: bool = False) -> float:
        """A constant in `unit`, at least 0, or greater than 0 when `positive`."""
        value, _ = self.number_in(key, (unit,))
        if positive and value <= 0:
            return self._wrong(key, value, f"more than 0 {unit}", 1.0)
        return value

    def number_in(self, key: str, units: Sequence[str]) -> tuple[float, str]:
        """A constant of at least 0 in one of `units`, and which unit it has."""
        constant = self._constant(key, units, self._slower())
        if constant is None:
            return 1.0, units[0]
        return constant.read(self._reading), constant.unit

    def span(self, key: str, unit: str) -> Span:
        """A constant in `unit` with the lowest and the highest plausible value."""
        constant = self._constant(key, (unit,), _SPAN_KEYS)
        if constant is None or constant.span is None:
            return Span(0.0, 0.0, 0.0)
        low, high = constant.span
        return Span(low, constant.value, high)

    def integer(self, key: str, unit: str, low: int = 0, high: int | None = None) -> int:
        """A whole-numbered constant in `unit` in [low, high]."""
        constant = self._constant(key, (unit,))
        if constant is None:
            return max(low, 1)
        top = "" if high is None else f" and at most {high}"
        value = constant.value
        if not isinstance(value, int) or value < low or (high is not None and value > high):
            return self._wrong(key, value, f"a whole number of at least {low}{top} {unit}", low)
        return value

    def limit(self, key: str, found: float, most: float, unit: str) -> None:
        """Notes a constant that has been read when it is more than `most`."""
        if found > most:
            self._wrong(key, found, f"at most {most:g} {unit}", most)

    def finish(self) -> None:
        """Notes every key that was never asked for."""
        for key in self._raw.keys() - self._asked:
            known = ", ".join(sorted(self._asked))
            self._problems.append(Problem(self._at(key), "an unknown key", known))
        self._problems.sort(key=lambda problem: problem.where)

    def _constant(
        self, key: str, units: Sequence[str], more: Sequence[str] = ()
    ) -> Constant | None:
        """The constant at `key`; None and a noted problem when it is not a complete one.

        `more` are keys that it has too: `conservative`, which is optional, or both of a span.
        """
        table = self._get(key)
        keys = {*_CONSTANT_KEYS, *(more if more == _SPAN_KEYS else ())}
        found = table if isinstance(table, dict) else {}
        if keys - found.keys() or found.keys() - keys - {*more}:
            named = sorted(found) if isinstance(table, dict) else table
            wanted = ", ".join((*_CONSTANT_KEYS, *more))
            return self._wrong(key, named, f"{{ {wanted} }}", None)
        for name in ("value", *more):
            number = found.get(name, 0)
            if isinstance(number, bool) or not isinstance(number, int | float):
                return self._wrong(f"{key}.{name}", number, "a number from 0 to 1e18", None)
            if not 0 <= number < 1e18:
                return self._wrong(f"{key}.{name}", number, "a number from 0 to 1e18", None)
        value, unit, source, status = (found[name] for name in _CONSTANT_KEYS)
        if unit not in units:
            return self._wrong(f"{key}.unit", unit, " or ".join(units), None)
        if not isinstance(source, str) or not source:
            return self._wrong(f"{key}.source", source, "where the number comes from", None)
        if status not in list(Status):
            return self._wrong(f"{key}.status", status, ", ".join(Status), None)
        span = (found["low"], found["high"]) if more == _SPAN_KEYS else None
        if span and not span[0] <= value <= span[1]:
            return self._wrong(key, f"{span[0]}, {value}, {span[1]}", "low <= value <= high", None)
        constant = Constant(value, unit, source, Status(status), found.get(_SLOWER), span)
        self._constants[self._at(key)] = constant
        return constant

    def _slower(self) -> tuple[str, ...]:
        """Optional keys of a constant here: a second reading where it takes effect."""
        return (_SLOWER,) if self._path.partition(".")[0] in _READ_TWICE else ()

    def _get(self, key: str) -> object:
        self._asked.add(key)
        return self._raw.get(key)

    def _wrong(self, key: str, found: object, allowed: str, neutral: T) -> T:
        text = "nothing" if found is None else repr(found)
        self._problems.append(Problem(self._at(key), text, allowed))
        return neutral

    def _child(self, key: str, raw: Mapping[str, object]) -> Table:
        return Table(self._at(key), raw, self._problems, self._constants, self._reading)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key
