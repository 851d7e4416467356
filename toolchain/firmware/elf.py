"""Sections and function symbols of a 32-bit little-endian ELF file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.model.errors import Problem, ToolError

HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
SECTION = struct.Struct("<10I")
SYMBOL = struct.Struct("<IIIBBH")
TYPE_SYMBOLS, TYPE_NOBITS, FLAG_ALLOCATED, FUNCTION, SOURCE = 2, 8, 2, 2, 4


@dataclass(frozen=True, slots=True)
class Section:
    """One section that has addresses."""

    name: str
    address: int
    size: int  # bytes
    content: bool  # False: only reserved


@dataclass(frozen=True, slots=True)
class Function:
    """Where a function lies."""

    address: int  # in its section, where nothing is linked yet
    size: int  # bytes
    section: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a linked program occupies."""

    sections: tuple[Section, ...]
    code: Mapping[tuple[str, str], Function]  # by source file (empty: global) and name

    @property
    def functions(self) -> frozenset[str]:
        """Names of all functions."""
        return frozenset(name for _, name in self.code)


def read_image(path: Path) -> Image:
    """Read a linked program; raises ToolError when it is no 32-bit little-endian ELF file."""
    data, rows, names = _tables(path)
    sections = tuple(
        Section(name, row[3], row[5], row[1] != TYPE_NOBITS)
        for row, name in zip(rows, names, strict=True)
        if row[2] & FLAG_ALLOCATED and row[5]
    )
    return Image(sections, _code(data, rows, names))


def read_functions(path: Path) -> Mapping[tuple[str, str], Function]:
    """The functions of an object or a program, as in Image.code; raises as read_image does."""
    return _code(*_tables(path))


def _tables(path: Path) -> tuple[bytes, list[tuple[int, ...]], list[str]]:
    """Content, section headers and names of sections."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x01\x01" or len(data) < HEADER.size:
        problem = Problem(str(path.name), repr(data[:6]), "a 32-bit little-endian ELF file")
        raise ToolError("the linker wrote something else than a program", [problem])
    head = HEADER.unpack_from(data)
    offset, count, names = head[6], head[12], head[13]
    rows = [SECTION.unpack_from(data, offset + i * SECTION.size) for i in range(count)]
    texts = rows[names][4]
    return data, rows, [_text(data, texts + row[0]) for row in rows]


def _code(
    data: bytes, rows: list[tuple[int, ...]], names: list[str]
) -> Mapping[tuple[str, str], Function]:
    code: dict[tuple[str, str], Function] = {}
    for row in rows:
        if row[1] == TYPE_SYMBOLS:
            code |= _functions(data, row, rows[row[6]][4], names)
    return code


def _functions(
    data: bytes, table: tuple[int, ...], texts: int, names: list[str]
) -> Iterator[tuple[tuple[str, str], Function]]:
    """Local symbols stand behind the symbol of their source file, global ones at the end."""
    begin, end = table[4], table[4] + table[5]
    source = ""
    for name, address, size, info, _, section in SYMBOL.iter_unpack(data[begin:end]):
        text = _text(data, texts + name)
        if info & 15 == SOURCE:
            source = text
        elif info & 15 == FUNCTION and 0 < section < len(names):
            key = ("" if info >> 4 else source, text)
            yield key, Function(address, size, names[section])


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
