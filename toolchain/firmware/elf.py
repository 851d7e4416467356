"""Sections and function symbols of a 32-bit little-endian ELF file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from toolchain.model.errors import Problem, ToolError

HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
SECTION = struct.Struct("<10I")
SYMBOL = struct.Struct("<IIIBBH")
TYPE_SYMBOLS, TYPE_NOBITS, FLAG_ALLOCATED, FUNCTION = 2, 8, 2, 2


@dataclass(frozen=True, slots=True)
class Section:
    """One section that has addresses."""

    name: str
    address: int
    size: int  # bytes
    content: bool  # False: only reserved


@dataclass(frozen=True, slots=True)
class Image:
    """What a linked program occupies."""

    sections: tuple[Section, ...]
    functions: frozenset[str]


def read_image(path: Path) -> Image:
    """Read a linked program; raises ToolError when it is no 32-bit little-endian ELF file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x01\x01" or len(data) < HEADER.size:
        problem = Problem(str(path.name), repr(data[:6]), "a 32-bit little-endian ELF file")
        raise ToolError("the linker wrote something else than a program", [problem])
    head = HEADER.unpack_from(data)
    offset, count, names = head[6], head[12], head[13]
    rows = [SECTION.unpack_from(data, offset + i * SECTION.size) for i in range(count)]
    texts = rows[names][4]
    sections = tuple(
        Section(_text(data, texts + row[0]), row[3], row[5], row[1] != TYPE_NOBITS)
        for row in rows
        if row[2] & FLAG_ALLOCATED and row[5]
    )
    functions: set[str] = set()
    for row in rows:
        if row[1] == TYPE_SYMBOLS:
            functions |= _functions(data, row, rows[row[6]][4])
    return Image(sections, frozenset(functions))


def _functions(data: bytes, table: tuple[int, ...], texts: int) -> set[str]:
    begin, size = table[4], table[5]
    symbols = SYMBOL.iter_unpack(data[begin : begin + size])
    return {_text(data, texts + symbol[0]) for symbol in symbols if symbol[3] & 15 == FUNCTION}


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
