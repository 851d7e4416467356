"""Blobs: one example byte by byte, the inverse, and every way to be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import codegen.blob
from codegen.blob import build_blobs, check_blob, read_blob
from codegen.bundle import LoadedBundle
from codegen.serialize import graph_hash
from tests.codegen.example_blob import EXAMPLE_HASH, example_plan, example_program
from tests.paths import REPOSITORY
from toolchain.model.errors import BundleError, InternalError
from toolchain.model.packing import Packing


def crc32_bitwise(data: bytes) -> int:
    """IEEE 802.3 CRC, one bit at a time: independent of zlib."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def documented_blob() -> bytes:
    text = (REPOSITORY / "docs" / "packing.md").read_text(encoding="utf-8")
    block = re.search(r"```blob\n(.*?)```", text, re.DOTALL)
    assert block is not None
    rows = [line[4:51] for line in block.group(1).splitlines()]
    return bytes.fromhex(" ".join(rows))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(codegen.blob, "graph_hash", lambda *_: EXAMPLE_HASH)
    return build_blobs(example_program(), example_plan())["rom"]


def with_crcs(data: bytes) -> bytes:
    """The blob with both CRCs made right again, so that only the planted damage is left."""
    head = data[:36] + crc32_bitwise(data[96:]).to_bytes(4, "little") + data[40:92]
    return head + crc32_bitwise(head).to_bytes(4, "little") + data[96:]


def test_every_byte_is_as_documented(example: bytes) -> None:
    assert example == documented_blob()


def test_documented_crcs_are_those_of_an_independent_implementation() -> None:
    data = documented_blob()
    assert data == with_crcs(data)
    assert data[16:24] == b"".join(
        crc32_bitwise(name).to_bytes(4, "little") for name in (b"demo", b"rom")
    )
    assert data[96:100] == crc32_bitwise(b"lut").to_bytes(4, "little")
    assert data[112:116] == crc32_bitwise(b"w").to_bytes(4, "little")


def test_read_gives_back_what_was_written(example: bytes) -> None:
    blob = read_blob(example)
    assert blob.graph_hash == EXAMPLE_HASH
    assert blob.first_offset == 128
    assert [(entry.offset, entry.size, entry.packing) for entry in blob.entries] == [
        (128, 6, 0),
        (136, 8, Packing.NIBBLE.code),
    ]
    assert np.frombuffer(blob.tensor("lut"), "<i2").tolist() == [1, -2, 300]
    with pytest.raises(BundleError, match="no tensor lut2"):
        blob.tensor("lut2")
    program, plan = example_program(), example_plan()
    assert check_blob(blob, program, plan, plan.region("rom"), EXAMPLE_HASH) == []


def put(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + value + data[offset + len(value) :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "length: found 0 bytes"),
    "short": (lambda data: data[:95], "length: found 95 bytes"),
    "magic": (put(0, b"X"), "magic"),
    "version": (put(8, b"\x02"), "format version: found 2, allowed 1"),
    "header size": (lambda d: with_crcs(put(10, b"\x61")(d)), "header size"),
    "byte order": (lambda d: with_crcs(put(12, b"\x01\x02\x03\x04")(d)), "byte order mark"),
    "truncated": (lambda d: d[:-1], "length in the header"),
    "too long": (lambda d: d + b"\0", "length in the header"),
    "target bit": (put(16, b"\xa1"), "CRC-32 of the header"),
    "header crc": (put(92, b"\x00"), "CRC-32 of the header"),
    "payload": (put(143, b"\x89"), "CRC-32 of the payload"),
    "contents": (put(100, b"\x81"), "CRC-32 of the payload"),
    "reserved": (lambda d: with_crcs(put(88, b"\x01")(d)), "reserved bytes"),
    "entries": (lambda d: with_crcs(put(24, b"\x03")(d)), "offset of the first tensor"),
    "first offset": (lambda d: with_crcs(put(28, b"\xff")(d)), "offset of the first tensor"),
    "overlap": (lambda d: with_crcs(put(116, b"\x84")(d)), "tensor 1: found 132..140"),
    "outside": (lambda d: with_crcs(put(120, b"\x09")(d)), "tensor 1: found 136..145"),
    "in the header": (lambda d: with_crcs(put(100, b"\x7f")(d)), "tensor 0: found 127..133"),
    "twice": (lambda d: with_crcs(put(112, d[96:100])(d)), "names: found one of them twice"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_read_names_what_is_wrong(example: bytes, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    with pytest.raises(BundleError, match=re.escape(message)):
        read_blob(spoil(example), "weights/rom.bin")


def test_every_flipped_bit_is_noticed(example: bytes) -> None:
    for position in range(len(example)):
        for bit in range(8):
            flipped = bytearray(example)
            flipped[position] ^= 1 << bit
            with pytest.raises(BundleError):
                read_blob(bytes(flipped))


@pytest.mark.parametrize(
    ("offset", "what"), [(16, "target"), (20, "region"), (40, "graph hash"), (108, "table")]
)
def test_a_sound_blob_of_something_else_is_refused(example: bytes, offset: int, what: str) -> None:
    blob = read_blob(with_crcs(put(offset, b"\x55")(example)))
    program, plan = example_program(), example_plan()
    problems = check_blob(blob, program, plan, plan.region("rom"), EXAMPLE_HASH)
    assert [what in problem.where for problem in problems] == [True]


def test_a_header_larger_than_planned_is_a_defect() -> None:
    plan = example_plan()
    assert isinstance(plan.blob_headers, dict)
    plan.blob_headers["rom"] = 112
    with pytest.raises(InternalError, match="header of blob rom"):
        build_blobs(example_program(), plan)


def test_blobs_of_a_bundle_hold_every_constant_once(tiny_bundle: LoadedBundle) -> None:
    program, plan = tiny_bundle.program, tiny_bundle.plan
    stored = [entry for data in tiny_bundle.blobs.values() for entry in read_blob(data).entries]
    constants = [spec for spec in program.tensors.values() if spec.name in plan.placements]
    constants = [spec for spec in constants if spec.kind in {"weight", "const"}]
    assert len(stored) == len(constants)
    assert sum(entry.size for entry in stored) == sum(spec.size for spec in constants)
    for region, data in tiny_bundle.blobs.items():
        assert len(data) == plan.region(region).blob_size
        assert read_blob(data).graph_hash == graph_hash(program, plan)
