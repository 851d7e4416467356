"""A flattened device tree for the RV32 simulator, which otherwise runs the `dtc` program.

Version 17 of the format of the Devicetree Specification (chapter 5): header, reserved-memory
block, structure block, strings; all words big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

MAGIC, VERSION, LAST_COMPATIBLE = 0xD00DFEED, 17, 16
BEGIN_NODE, END_NODE, PROPERTY, END = 1, 2, 3, 9
HEADER_SIZE = 40
RESERVATION_END = bytes(16)
TIMEBASE_HZ, CLOCK_HZ = 10_000_000, 1_000_000_000  # the simulator ignores both


def device_tree(isa: str, ram: tuple[int, int]) -> bytes:
    """A machine with one hart of `isa` (such as rv32imc) and RAM at (base, size)."""
    strings = _Strings()
    cpu = strings.node(
        "cpu@0",
        [
            ("device_type", _text("cpu")),
            ("reg", _words(0)),
            ("status", _text("okay")),
            ("compatible", _text("riscv")),
            ("riscv,isa", _text(isa)),
            ("riscv,pmpregions", _words(0)),
            ("clock-frequency", _words(CLOCK_HZ)),
        ],
    )
    cells = [("#address-cells", _words(1)), ("#size-cells", _words(0))]
    cpus = strings.node("cpus", [*cells, ("timebase-frequency", _words(TIMEBASE_HZ))], [cpu])
    base, size = ram
    region = [("device_type", _text("memory")), ("reg", _words(0, base, 0, size))]
    memory = strings.node(f"memory@{base:x}", region)
    wide = [("#address-cells", _words(2)), ("#size-cells", _words(2))]
    names = [("compatible", _text("edgec,runner")), ("model", _text("edgec runner"))]
    body = strings.node("", [*wide, *names], [cpus, memory]) + _words(END)
    structure = HEADER_SIZE + len(RESERVATION_END)
    text = strings.block()
    header = _words(
        MAGIC,
        structure + len(body) + len(text),
        structure,
        structure + len(body),
        HEADER_SIZE,
        VERSION,
        LAST_COMPATIBLE,
        0,  # boot hart
        len(text),
        len(body),
    )
    return header + RESERVATION_END + body + text


class _Strings:
    """Collects property names while nodes are encoded."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}
        self._size = 0

    def node(
        self, name: str, properties: Iterable[tuple[str, bytes]], children: Iterable[bytes] = ()
    ) -> bytes:
        """One encoded node."""
        body = b"".join(self._property(key, value) for key, value in properties)
        return (
            _words(BEGIN_NODE) + _padded(_text(name)) + body + b"".join(children) + _words(END_NODE)
        )

    def _property(self, name: str, value: bytes) -> bytes:
        if name not in self._offsets:
            self._offsets[name] = self._size
            self._size += len(name) + 1
        return _words(PROPERTY, len(value), self._offsets[name]) + _padded(value)

    def block(self) -> bytes:
        """The strings block."""
        return b"".join(_text(name) for name in self._offsets)


def _words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
