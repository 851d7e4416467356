"""Strict reading of the JSON files of a bundle: the form of a value is data, checked recursively.

A form is a type (exactly that type; integers of 64 bits), None, a tuple of alternatives, a list of
one form for every element, a dict of exactly these members ("name?" may be absent), `Each` for an
object with any names, or `Fixed` for an array with one form per place.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    elif isinstance(form, Each) and isinstance(value, dict):
        for name, item in value.items():
            yield from _deviations(item, form.form, f"{where}: {name[:60]!r}")
    elif isinstance(form, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _deviations(item, form[0], f"{where}[{index}]")
    elif isinstance(form, Fixed) and isinstance(value, list) and len(value) == len(form.forms):
        for index, (item, inner) in enumerate(zip(value, form.forms, strict=True)):
            yield from _deviations(item, inner, f"{where}[{index}]")
    elif not _has_type(value, form):
        yield Problem(where, _shown(value), _described(form))


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
    names = {int: "an integer of 64 bits", str: "a string", dict: "an object", list: "an array"}
    return names[form] if isinstance(form, type) else "null"


_NAMES = [str]
_LAYOUT = {"packing": str, "rows": int, "columns": int, "group_size": int, "requant": bool}
_OP = {
    "id": str,
    "role": str,
    "layer": int,
    "kind": str,
    "inputs": _NAMES,
    "outputs": _NAMES,
    "mode?": str,
    "attrs?": Each(int),
}
_SHAPE = ("hidden", "ffn", "layers", "heads", "kv_heads", "head_dim", "vocab", "context")
_REGION = ("capacity", "reserved", "blob_base", "blob_size", "arena_base", "arena_size", "peak")
_LINEAR = {
    "op": str,
    "weight": str,
    "records_per_tile": int,
    "tile_buffer": (str, None),
    "slot_size": int,
    "transfers": [Fixed((int,) * 5)],
}

PLAN_FORM: Form = {
    "format": int,
    "program": {
        "shape": dict.fromkeys(_SHAPE, int),
        "residual_bits": int,
        "tensors": [
            {"name": str, "kind": str, "dtype": str, "shape": [int], "layout?": _LAYOUT},
        ],
        "ops": [_OP],
    },
    "plan": {
        "target": str,
        "cores": int,
        "roles": _NAMES,
        "regions": [{"name": str, **dict.fromkeys(_REGION, int)}],
        "blob_headers": Each(int),
        "placements": [
            {"name": str, "region": str, **dict.fromkeys(("offset", "size", "first", "last"), int)}
        ],
        "linears": [_LINEAR],
        "attention": {"positions_per_chunk": int, "tile_buffer": (str, None), "slot_size": int},
        "rows": [{"region": str, "category": str, "size": int}],
    },
}

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

SETTINGS_FORM: Form = {"vocab_size": int, "bos_token_id": (int, None), "eos_token_ids": [int]}


def deviations(value: object, form: Form, where: str) -> list[Problem]:
    """What in `value` differs from `form`, at most MAX_PROBLEMS."""
    return list(islice(_deviations(value, form, where), MAX_PROBLEMS))
