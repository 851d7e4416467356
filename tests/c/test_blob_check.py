"""CRC-32 against zlib, and every kind of damage to a blob against its status code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_uint32
from zlib import crc32

import numpy as np
import pytest

from tests.c.runtime import STATUS, BlobExpect, Runtime, pointer

TARGET, REGION = crc32(b"siracusa"), crc32(b"mram")
GRAPH = bytes(range(32))
LENGTH = 96 + 64
ALIGNMENT = 16


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def make_blob() -> bytearray:
    """A blob as edgec_blob.h describes it, written here byte by byte."""
    payload = bytes(i * 37 % 256 for i in range(LENGTH - 96))
    head = b"EDGECBLB" + b"\x01\x00" + b"\x60\x00" + b"\x04\x03\x02\x01"
    head += word(TARGET) + word(REGION) + word(1) + word(128) + word(LENGTH) + word(crc32(payload))
    head += GRAPH + bytes(range(100, 116)) + bytes(4)
    assert len(head) == 92
    return bytearray(head + word(crc32(head)) + payload)


def seal(blob: bytearray) -> None:
    """Make the header's CRC right again."""
    blob[92:96] = word(crc32(blob[:92]))


def put(blob: bytearray, offset: int, data: bytes, *, sealed: bool) -> None:
    blob[offset : offset + len(data)] = data
    if sealed:
        seal(blob)


def check(
    runtime: Runtime, blob: bytes | bytearray, payload: bool = True, shift: int = 0, **expect: int
) -> str:
    room = np.zeros(len(blob) + 2 * ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT + shift
    room[start : start + len(blob)] = np.frombuffer(bytes(blob), np.uint8)
    graph = np.frombuffer(GRAPH, np.uint8).copy()
    fields = {"target": TARGET, "region": REGION, "length": LENGTH, "alignment": ALIGNMENT}
    expected = BlobExpect(**fields | expect, graph_hash=pointer(graph))
    status = runtime.library.edgec_blob_check(
        pointer(room[start:]), ctypes.byref(expected), int(payload)
    )
    return STATUS[status]


@pytest.mark.parametrize("data", [b"", b"123456789", bytes(range(256)) * 3])
def test_crc32_is_that_of_zlib(runtime: Runtime, data: bytes) -> None:
    array = np.frombuffer(data + b"\0", np.uint8).copy()
    crc = runtime.library.edgec_crc32(c_uint32(0), pointer(array), c_uint32(len(data)))
    assert crc == crc32(data)
    half = len(data) // 2
    first = runtime.library.edgec_crc32(c_uint32(0), pointer(array), c_uint32(half))
    rest = runtime.library.edgec_crc32(
        c_uint32(first), pointer(array[half:]), c_uint32(len(data) - half)
    )
    assert rest == crc32(data)


def test_crc32_check_value(runtime: Runtime) -> None:
    array = np.frombuffer(b"123456789", np.uint8).copy()
    crc = runtime.library.edgec_crc32(c_uint32(0), pointer(array), c_uint32(9))
    assert crc == 0xCBF43926


def test_good_blob(runtime: Runtime) -> None:
    assert check(runtime, make_blob()) == "OK"


Damage = Callable[[bytearray], None]
DAMAGES: dict[str, tuple[str, Damage]] = {
    "magic": ("BAD_MAGIC", lambda b: put(b, 0, b"EDGECBLA", sealed=True)),
    "byte order": ("BAD_BYTE_ORDER", lambda b: put(b, 12, b"\x01\x02\x03\x04", sealed=True)),
    "version": ("BAD_VERSION", lambda b: put(b, 8, b"\x02\x00", sealed=True)),
    "header size": ("BAD_VERSION", lambda b: put(b, 10, b"\x64\x00", sealed=True)),
    "target": ("BAD_TARGET", lambda b: put(b, 16, word(TARGET ^ 1), sealed=True)),
    "region": ("BAD_TARGET", lambda b: put(b, 20, word(REGION ^ 1), sealed=True)),
    "graph": ("BAD_GRAPH", lambda b: put(b, 71, b"\x00", sealed=True)),
    "length": ("BAD_LENGTH", lambda b: put(b, 32, word(LENGTH + 16), sealed=True)),
    "unsealed target": ("BAD_HEADER_CRC", lambda b: put(b, 16, b"\x00", sealed=False)),
    "header crc": ("BAD_HEADER_CRC", lambda b: put(b, 92, b"\x00\x00", sealed=False)),
    "reserved bytes": ("BAD_HEADER_CRC", lambda b: put(b, 91, b"\x01", sealed=False)),
    "payload crc": ("BAD_PAYLOAD_CRC", lambda b: put(b, 36, word(0), sealed=True)),
    "table of contents": ("BAD_PAYLOAD_CRC", lambda b: put(b, 97, b"\xff", sealed=False)),
    "last weight": ("BAD_PAYLOAD_CRC", lambda b: put(b, LENGTH - 1, b"\xff", sealed=False)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_has_its_code(runtime: Runtime, name: str) -> None:
    code, damage = DAMAGES[name]
    blob = make_blob()
    damage(blob)
    assert check(runtime, blob) == code


def test_every_flipped_bit_is_caught(runtime: Runtime) -> None:
    for bit in range(8 * LENGTH):
        blob = make_blob()
        blob[bit // 8] ^= 1 << bit % 8
        assert check(runtime, blob) != "OK", bit


def test_payload_is_checked_on_request_only(runtime: Runtime) -> None:
    blob = make_blob()
    blob[-1] ^= 1
    assert check(runtime, blob, payload=False) == "OK"


def test_what_the_code_was_built_for(runtime: Runtime) -> None:
    blob = make_blob()
    assert check(runtime, blob, target=TARGET + 1) == "BAD_TARGET"
    assert check(runtime, blob, region=REGION + 1) == "BAD_TARGET"
    assert check(runtime, blob, length=LENGTH - 4) == "BAD_LENGTH"
    assert check(runtime, blob, shift=4) == "MISALIGNED"
    assert check(runtime, blob, shift=4, alignment=4) == "OK"
    assert check(runtime, blob, length=95) == "BAD_ARGUMENT"
    assert check(runtime, blob, alignment=0) == "BAD_ARGUMENT"


def test_blobs_of_one_build_carry_one_id(runtime: Runtime) -> None:
    first = np.frombuffer(bytes(make_blob()), np.uint8).copy()
    for byte in range(96):
        second = first.copy()
        second[byte] ^= 0x80
        same = runtime.library.edgec_blob_same_build(pointer(first), pointer(second))
        assert bool(same) == (not 72 <= byte < 88), byte


def test_null_pointers(runtime: Runtime) -> None:
    function = runtime.library.edgec_blob_check
    blob = np.frombuffer(bytes(make_blob()), np.uint8).copy()
    expect = BlobExpect(TARGET, REGION, LENGTH, 1, None)
    assert STATUS[function(None, ctypes.byref(expect), 1)] == "BAD_ARGUMENT"
    assert STATUS[function(pointer(blob), None, 1)] == "BAD_ARGUMENT"
    assert STATUS[function(pointer(blob), ctypes.byref(expect), 1)] == "BAD_ARGUMENT"
