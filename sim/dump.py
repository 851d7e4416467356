"""Dump files: what a traced run of the generated C writes, one record per tensor of an op.

A record is a header of five little-endian 32-bit words and its payload, without padding:

    magic "EDRC" | step | op index | output index | payload size in bytes | payload

A line feed may follow the last record. Ops are numbered in schedule order and outputs as the op
lists them, as in golden.json. The op index 0xFFFFFFFF marks the end of a step; its payload is
status (u32), next token (i32) and the ticks of the port's clock (u64) that the step took:
instructions on rv32, cycles on Siracusa, nanoseconds on a PC.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from toolchain.model.errors import BundleError, Problem

MAGIC = b"EDRC"
END_OF_STEP = 0xFFFFFFFF
HEADER = struct.Struct("<4s4I")
STEP_RESULT = struct.Struct("<IiQ")
FILL = 0xA5  # what the runners fill arenas with, to recognise bytes that no op wrote


@dataclass(frozen=True, slots=True)
class DumpRecord:
    """The bytes of one output of one op in one step."""

    step: int
    op: int
    output: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended."""

    step: int
    status: int  # 0: ok, else a status code of the generated header
    next: int  # token id that the step proposes
    ticks: int  # of the port's clock: instructions on rv32, nanoseconds on a PC


@dataclass(frozen=True, slots=True)
class Dump:
    """A parsed dump file."""

    records: tuple[DumpRecord, ...]
    steps: tuple[StepResult, ...]


def write_record(record: DumpRecord) -> bytes:
    """The bytes of one record."""
    head = HEADER.pack(MAGIC, record.step, record.op, record.output, len(record.data))
    return head + record.data


def read_dump(data: bytes, where: str = "dump") -> Dump:
    """Parse a dump; raises BundleError with the byte offset where it stops making sense."""
    records, steps = [], []
    for record in _records(data, where):
        if record.op == END_OF_STEP:
            steps.append(StepResult(record.step, *STEP_RESULT.unpack(record.data)))
        else:
            records.append(record)
    return Dump(tuple(records), tuple(steps))


def _records(data: bytes, where: str) -> Iterator[DumpRecord]:
    position = 0
    while position < len(data):
        head = data[position : position + HEADER.size]
        if head == b"\n":  # a console that writes whole lines ends the last one
            return
        if len(head) < HEADER.size or head[:4] != MAGIC:
            raise _damaged(where, position, repr(head[:4]), f"a record that begins with {MAGIC!r}")
        _, step, op, output, size = HEADER.unpack(head)
        start = position + HEADER.size
        position = start + size
        if position > len(data):
            left = f"{len(data) - start} bytes left"
            raise _damaged(where, start, left, f"a payload of {size} bytes")
        if op == END_OF_STEP and size != STEP_RESULT.size:
            raise _damaged(where, start, f"{size} bytes", f"a step result of {STEP_RESULT.size}")
        yield DumpRecord(step, op, output, data[start:position])


def _damaged(where: str, offset: int, found: str, allowed: str) -> BundleError:
    problem = Problem(f"byte {offset}", found, allowed)
    return BundleError(
        f"{where} is truncated or not a dump",
        [problem],
        fix="dump again; text printed into the same file spoils it",
    )
