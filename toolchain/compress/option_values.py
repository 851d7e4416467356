"""A TOML table -> a frozen Options dataclass: types, ranges and unknown keys, all problems at once.

Field types are read from the annotations: bool, int, float, str, tuple[X, ...], dict[str, X], and
unions of these with None.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from toolchain.compress.stage import StageOptions
from toolchain.model.errors import Problem

NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
Opts = TypeVar("Opts", bound=StageOptions)


class _WrongTypeError(Exception):
    pass


def read_options(
    kind: type[Opts],
    values: Mapping[str, Any],
    where: str,
    problems: list[Problem],
    asked: Collection[str] = (),
) -> Opts | None:
    """The options that `values` set, defaults elsewhere; None when a problem was added.

    An option without effect is a problem, unless it is none of those that were `asked` for: what a
    recipe sets may lose its meaning by an override beside it.
    """
    before = len(problems)
    known = {field.name: field for field in fields(kind)}
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            problems.append(_unknown(name, list(known), where))
            continue
        try:
            given[name] = _convert(value, hints[name])
        except _WrongTypeError:
            allowed = describe(hints[name])
            problems.append(Problem(f"{where}.{name}", repr(value), allowed))
            continue
        problems += _out_of_range(f"{where}.{name}", given[name], known[name].metadata)
    if len(problems) > before:
        return None
    options = kind(**given)
    idle = options.idle()
    for name in given:
        if name in idle and (not asked or name in asked):
            problems.append(Problem(f"{where}.{name}", "given", f"no such option: {idle[name]}"))
    problems += [
        Problem(f"{where}.{problem.where}", problem.found, problem.allowed, problem.fix)
        for problem in options.problems()
    ]
    return options if len(problems) == before else None


def _unknown(name: str, known: list[str], where: str) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean {close[0]}?" if close else ""
    return Problem(f"{where}.{name}", "an unknown option", ", ".join(known), fix)


def _convert(value: Any, hint: Any) -> Any:
    """The value as the type says; raises _WrongTypeError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            if part is not type(None):
                try:
                    return _convert(value, part)
                except _WrongTypeError:
                    continue
        raise _WrongTypeError
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, typing.get_args(hint)[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        item = typing.get_args(hint)[1]
        return {str(key): _convert(inner, item) for key, inner in value.items()}
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is hint:
        return value
    raise _WrongTypeError


def describe(hint: Any) -> str:
    """A type in words."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"a list: {describe(arguments[0])} each"
    if origin is dict:
        return f"a table: name to {describe(arguments[1])}"
    return NAMES[hint]


def allowed_text(hint: Any, metadata: Mapping[str, Any]) -> str:
    """Type and range of an option in words."""
    if metadata["choices"]:
        return " or ".join(metadata["choices"])
    low, high = metadata["low"], metadata["high"]
    limits = "" if low is None and high is None else f", {_range_text(low, high)}"
    return describe(hint) + limits


def _out_of_range(where: str, value: Any, metadata: Mapping[str, Any]) -> list[Problem]:
    """One problem per number outside [low, high] or word that is none of the choices."""
    choices = metadata.get("choices") or ()
    low, high = metadata.get("low"), metadata.get("high")
    items = value if isinstance(value, tuple) else (value,)
    if isinstance(value, dict):
        items = tuple(value.values())
    found = []
    for item in items:
        number = isinstance(item, int | float) and not isinstance(item, bool)
        if isinstance(item, str) and choices and item not in choices:
            found.append(Problem(where, repr(item), " or ".join(choices)))
        elif number and not _inside(item, low, high):
            found.append(Problem(where, f"{item:g}", _range_text(low, high)))
    return found


def _inside(number: float, low: float | None, high: float | None) -> bool:
    return (low is None or low <= number) and (high is None or number <= high)


def _range_text(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low}..{high}"
