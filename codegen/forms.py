"""Strict reading of the JSON files of a bundle: the form of a value is data, checked recursively.

A form is a type (exactly that type; integers of 64 bits), None, a tuple of alternatives, a list of
one form for every element, a dict of exactly these members ("name?" may be absent), `Each` for an
object with any names, or `Fixed` for an array with one form per place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from toolchain.model.errors import BundleError, Problem
from toolchain.model.json_fields import parse_json_object

Form = object
MAX_PROBLEMS = 10
REBUILD = "compile the model again"


@dataclass(frozen=True, slots=True)
class Each:
    """An object whose members all have one form."""

    form: Form


@dataclass(frozen=True, slots=True)
class Fixed:
    """An array of fixed length."""

    forms: tuple[Form, ...]


def parse_object(data: bytes, where: str, form: Form) -> dict[str, object]:
    """The JSON object in `data`; raises BundleError that names `where` unless it has `form`."""
    try:
        value = parse_json_object(data.decode("utf-8"))
    except ValueError as error:
        raise BundleError(f"{where} cannot be read: {error}", fix=REBUILD) from error
    problems = list(islice(_deviations(value, form, where), MAX_PROBLEMS))
    if problems:
        raise BundleError(f"{where} is not what edgec writes", problems, fix=REBUILD)
    return value


def _deviations(value: object, form: Form, where: str) -> Iterator[Problem]:
    if isinstance(form, tuple):
        found = [list(_deviations(value, option, where)) for option in form]
        if all(found):
            yield found[0][0]
    elif isinstance(form, dict):
        yield from _member_deviations(value, form, where)
    elif (elements := _elements(value, form)) is not None:
        for name, item, inner in elements:
            yield from _deviations(item, inner, where + name)
    elif not _has_type(value, form):
        yield Problem(where, _shown(value), _described(form))


def _elements(value: object, form: Form) -> Iterable[tuple[str, object, Form]] | None:
    """Place, value and form of what a homogeneous object or an array holds; None for others."""
    if isinstance(form, Each) and isinstance(value, dict):
        return [(f": {name[:60]!r}", item, form.form) for name, item in value.items()]
    if isinstance(form, list) and isinstance(value, list):
        return [(f"[{index}]", item, form[0]) for index, item in enumerate(value)]
    if isinstance(form, Fixed) and isinstance(value, list) and len(value) == len(form.forms):
        pairs = zip(value, form.forms, strict=True)
        return [(f"[{index}]", item, inner) for index, (item, inner) in enumerate(pairs)]
    return None


def _member_deviations(value: object, form: dict[str, Form], where: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem(where, _shown(value), "an object")
        return
    names = {name.removesuffix("?") for name in form}
    for name in sorted(value.keys() - names):
        yield Problem(f"{where}: {name[:60]!r}", "a member", "nothing")
    for key, inner in form.items():
        name = key.removesuffix("?")
        if name in value:
            yield from _deviations(value[name], inner, f"{where}: {name}")
        elif name == key:
            yield Problem(f"{where}: {name}", "nothing", _described(inner))


def _has_type(value: object, form: Form) -> bool:
    if form is None:
        return value is None
    if form is int:  # bool is a subclass; longer integers may be too long to print
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    return isinstance(form, type) and type(value) is form


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _described(form: Form) -> str:
    if isinstance(form, Fixed):
        return f"an array of {len(form.forms)}"
    if isinstance(form, dict | Each):
        return "an object"
    if isinstance(form, tuple):
        return " or ".join(_described(option) for option in form)
    if isinstance(form, list):
        return "an array"
    names = {int: "an integer of 64 bits", str: "a string", bool: "true or false"}
    others = {dict: "an object", list: "an array"}
    return (names | others).get(form, "null") if isinstance(form, type) else "null"


GOLDEN_FORM: Form = {
    "format": int,
    "graph_hash": str,
    "tokens": [int],
    "next_tokens": [int],
    "ops": [{"id": str, "outputs": [Fixed((str, str))]}],
    "records": [Fixed((int, int, int, int, str, (int, None)))],
}

MANIFEST_FORM: Form = {
    "format": int,
    "edgec": str,
    "prefix": str,
    "target": str,
    "model_hash": str,
    "graph_hash": str,
    "settings": dict,
    "weights": [dict],
    "files": Each(str),
    "digest": str,
}

SETTINGS_FORM: dict[str, Form] = {  # those that are needed to use a bundle
    "vocab_size": int,
    "bos_token_id": (int, None),
    "eos_token_ids": [int],
    "memory": {"regions": Each(int), "pins": [str]},
}


def deviations(value: object, form: Form, where: str) -> list[Problem]:
    """What in `value` differs from `form`, at most MAX_PROBLEMS."""
    return list(islice(_deviations(value, form, where), MAX_PROBLEMS))
