"""Dumps and their exact comparison."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest

from sim.compare import compare_records
from sim.dump import (
    END_OF_STEP,
    FILL,
    STEP_RESULT,
    Dump,
    DumpRecord,
    StepResult,
    read_dump,
    write_record,
)
from sim.golden import Expected, OpSpec, OutputSpec
from sim.memory import PATTERN
from toolchain.model.errors import BundleError

OPS = (
    OpSpec("first", (OutputSpec("a", "int32"),)),
    OpSpec("second", (OutputSpec("b", "int16"), OutputSpec("c", "int8"))),
)
VALUES = {
    (0, 0, 0): np.array([1, -2, 3], "<i4").tobytes(),
    (0, 1, 0): np.array([7, 8], "<i2").tobytes(),
    (0, 1, 1): np.array([-1, 5], "<i1").tobytes(),
    (1, 0, 0): np.array([0, 0, 9], "<i4").tobytes(),
}


def expected(hashed: bool = False) -> list[Expected]:
    return [
        Expected(*key, len(data), crc32(data), None if hashed else data)
        for key, data in VALUES.items()
    ]


def dump(changes: dict[tuple[int, int, int], bytes] | None = None) -> Dump:
    values = VALUES | (changes or {})
    return Dump(tuple(DumpRecord(*key, data) for key, data in values.items()), ())


def test_equal() -> None:
    result = compare_records(dump(), OPS, expected())
    assert (result.ops_compared, result.ops_equal) == (3, 3)
    assert result.first_divergence is None
    assert result.complete


def test_first_divergence_in_schedule_order() -> None:
    """A later op of the dump comes first in the file: order is that of the expectation."""
    changes = {
        (1, 0, 0): np.array([5, 5, 5], "<i4").tobytes(),
        (0, 1, 1): np.array([-1, 6], "<i1").tobytes(),
    }
    spoiled = dump(changes)
    result = compare_records(Dump(spoiled.records[::-1], ()), OPS, expected())
    found = result.first_divergence
    assert found is not None
    assert (found.step, found.op, found.tensor) == (0, "second", "c")
    assert (found.index, found.got, found.want) == (1, 6, 5)
    assert (found.count, found.elements) == (1, 2)
    assert not found.never_written
    assert (result.ops_compared, result.ops_equal) == (3, 1)
    assert str(found) == (
        "step 0, op second, tensor c: element 1 is 6, expected 5; 1 of 2 elements differ"
    )


def test_never_written_needs_the_pattern_in_every_wrong_byte() -> None:
    assert FILL == PATTERN
    fill = bytes([FILL]) * 4
    unwritten = VALUES[0, 0, 0][:4] + fill + fill
    found = compare_records(dump({(0, 0, 0): unwritten}), OPS, expected()).first_divergence
    assert found is not None
    assert found.never_written
    assert (found.index, found.count) == (1, 2)
    assert "never written" in str(found)
    partly = VALUES[0, 0, 0][:4] + fill + b"\1\0\0\0"
    found = compare_records(dump({(0, 0, 0): partly}), OPS, expected()).first_divergence
    assert found is not None
    assert not found.never_written


def test_a_hash_tells_that_and_not_where() -> None:
    wrong = bytes([FILL]) * 12
    found = compare_records(dump({(0, 0, 0): wrong}), OPS, expected(True)).first_divergence
    assert found is not None
    assert found.index is None
    assert found.elements == 3
    assert found.never_written
    assert f"CRC-32 {crc32(wrong):08x}, expected {crc32(VALUES[0, 0, 0]):08x}" in found.reason


def test_another_size_is_a_divergence() -> None:
    found = compare_records(dump({(0, 1, 0): b"\0\0"}), OPS, expected()).first_divergence
    assert found is not None
    assert found.reason == "2 bytes, expected 4"


def test_missing_and_unexpected_records_are_counted() -> None:
    records = (*dump().records[1:], DumpRecord(5, 0, 0, b""))
    result = compare_records(Dump(records, ()), OPS, expected())
    assert (result.missing, result.unexpected) == (1, 1)
    assert not result.complete
    assert result.first_divergence is None
    assert result.ops_compared == 2


def test_dump_bytes_by_hand() -> None:
    record = bytes.fromhex("45445243 01000000 02000000 00000000 03000000 aabbcc")
    end = bytes.fromhex("45445243 01000000 ffffffff 00000000 10000000")
    end += bytes.fromhex("00000000 fdffffff 0100000002000000")
    parsed = read_dump(record + end)
    assert parsed.records == (DumpRecord(1, 2, 0, b"\xaa\xbb\xcc"),)
    assert parsed.steps == (StepResult(1, 0, -3, 0x2_0000_0001),)
    assert write_record(parsed.records[0]) == record
    result = STEP_RESULT.pack(0, -3, 0x2_0000_0001)
    assert write_record(DumpRecord(1, END_OF_STEP, 0, result)) == end


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello, this is no dump", "byte 0: found b'hell'"),
        (write_record(DumpRecord(0, 0, 0, b"abc"))[:-1], "byte 20: found 2 bytes left"),
        (write_record(DumpRecord(0, 0, 0, b"abc")) + b"EDRC", "byte 23"),
        (write_record(DumpRecord(0, END_OF_STEP, 0, b"abc")), "byte 20: found 3 bytes"),
    ],
)
def test_what_is_no_dump_is_refused_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_dump(data, "x.dump")
