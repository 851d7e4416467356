"""JSON text of bundles: the same value gives the same bytes, and a person can read it.

A value that fits a line stays on that line; longer objects and arrays open one line per member.
Object keys keep the order of the caller, who decides what reads well; `canonical` sorts them.
"""

from __future__ import annotations

import json

LINE_WIDTH = 100


def canonical(value: object) -> bytes:
    """The shortest text with sorted keys, for hashing; ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pretty(value: object) -> bytes:
    """Indented text that ends with a newline; UTF-8."""
    return (_format(value, 0, 0) + "\n").encode()


def _format(value: object, indent: int, column: int) -> str:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if column + len(line) < LINE_WIDTH or not isinstance(value, dict | list | tuple):
        return line
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        names = [json.dumps(key, ensure_ascii=False) for key in value]
        members = [
            f"{inner}{name}: {_format(item, indent + 1, indent + len(name) + 4)}"
            for name, item in zip(names, value.values(), strict=True)
        ]
        return "{\n" + ",\n".join(members) + "\n" + " " * indent + "}"
    members = [inner + _format(item, indent + 1, indent + 2) for item in value]
    return "[\n" + ",\n".join(members) + "\n" + " " * indent + "]"
