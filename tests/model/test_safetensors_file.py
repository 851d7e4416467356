from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.spoil import Q_PROJ, Encoded, edit_header, rewrite, weights_of
from tests.model.tiny import join_safetensors, write_model
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import CheckpointError, EdgecError, UnsupportedModelError


def test_bf16_by_hand(tmp_path: Path) -> None:
    # 0x3F80 = 1, 0xC049 = -3.140625, 0x0001 = 2^-133 (denormal), 0x8000 = -0.
    bits = struct.pack("<16H", 0x3F80, 0xC049, 0x0001, 0x8000, *[0] * 12)

    def change(tensors: Encoded) -> None:
        tensors["model.norm.weight"] = ("BF16", (16,), bits)

    loaded = load_model(rewrite(tmp_path, change)).load("model.norm.weight")
    assert loaded[:4].tolist() == [1.0, -3.140625, 2.0**-133, 0.0]
    assert np.signbit(loaded[3])


def test_odd_alignment_of_the_data(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    path.write_bytes(struct.pack("<Q", size + 3) + blob[8 : 8 + size] + b"   " + blob[8 + size :])
    model = load_model(tmp_path)
    for name, values in weights_of(model).items():
        np.testing.assert_array_equal(model.load(name), values)


@pytest.mark.parametrize(
    ("bits", "count"), [(0x7FC00000, 1), (0x7F800000, 1), (0xFF800000, 2), (0x7F800001, 3)]
)
def test_not_a_number(tmp_path: Path, bits: int, count: int) -> None:
    def change(tensors: Encoded) -> None:
        dtype, shape, data = tensors[Q_PROJ]
        spoiled = struct.pack("<I", bits) * count
        tensors[Q_PROJ] = (dtype, shape, data[:72] + spoiled + data[72 + len(spoiled) :])

    model = load_model(rewrite(tmp_path, change))
    allowed = f"{Q_PROJ}: found {count} NaN or infinite values, the first at index \\(1, 2\\)"
    with pytest.raises(CheckpointError, match=allowed):
        model.load(Q_PROJ)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e: e.update(dtype="F99"), "F99"),
        (lambda e: e.update(dtype=32), "dtype, shape and data_offsets"),
        (lambda e: e.update(shape=[16, -16]), "dtype, shape and data_offsets"),
        (lambda e: e.update(shape=[True, 16]), "dtype, shape and data_offsets"),
        (lambda e: e.update(shape=[16.0, 16]), "dtype, shape and data_offsets"),
        (lambda e: e.update(shape="16"), "dtype, shape and data_offsets"),
        (lambda e: e.pop("shape"), "dtype, shape and data_offsets"),
        (lambda e: e.update(data_offsets=[0]), "dtype, shape and data_offsets"),
        (lambda e: e.update(data_offsets=[8, 0]), "begin not after end"),
        (lambda e: e.update(shape=[16, 17]), "found 1024 bytes, allowed 1088 bytes"),
        (lambda e: e.update(shape=[1 << 62, 1 << 62]), "found 1024 bytes"),
        (lambda e: e["data_offsets"].__setitem__(1, 1 << 62), "truncated"),
        (lambda e: e.update(data_offsets=[0, 1024]), "an overlap"),
        (lambda e: e.update(data_offsets=[x + 4 for x in e["data_offsets"]]), "a gap"),
    ],
)
def test_malformed_entry(tmp_path: Path, change: Callable[[Any], None], text: str) -> None:
    with pytest.raises(EdgecError) as caught:
        load_model(edit_header(tmp_path, lambda header: change(header[Q_PROJ])))
    assert text in str(caught.value)
    assert f"{Q_PROJ}: found nothing" not in str(caught.value)


def test_entry_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found 7, allowed dtype, shape and data_offsets"):
        load_model(edit_header(tmp_path, lambda header: header.update({Q_PROJ: 7})))


def test_duplicate_names(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    header = blob[8 : 8 + size].decode().rstrip()
    twice = '{"model.norm.weight": {}, ' + header[1:]
    path.write_bytes(join_safetensors(twice, blob[8 + size :]))
    with pytest.raises(CheckpointError, match=r'duplicate key "model\.norm\.weight"'):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"", "0 bytes, too few"),
        (b"\x08\0\0", "3 bytes, too few"),
        (struct.pack("<Q", 1 << 63) + b"{}", "says 9223372036854775808 bytes"),
        (struct.pack("<Q", 3) + b"{}", "says 3 bytes, the file has 10"),
        (struct.pack("<Q", 0), "bad header"),
        (struct.pack("<Q", 2) + b"[]", "top level"),
        (struct.pack("<Q", 4) + b"{\xff\xff}", "bad header"),
        (struct.pack("<Q", 4) + b"null", "top level"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "nested too deeply"),
    ],
)
def test_bad_header(tmp_path: Path, blob: bytes, text: str) -> None:
    (write_model(tmp_path) / "model.safetensors").write_bytes(blob)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert text in str(caught.value)
    assert len(caught.value.problems) == 1


def test_oversized_header_is_not_read(tmp_path: Path) -> None:
    with (write_model(tmp_path) / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 39))
        file.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match="says 549755813888 bytes, more than"):
        load_model(tmp_path)


@pytest.mark.parametrize(("change", "text"), [(-4, "truncated"), (5, "trailing bytes")])
def test_wrong_file_size(tmp_path: Path, change: int, text: str) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    blob = path.read_bytes()
    path.write_bytes(blob[:change] if change < 0 else blob + bytes(change))
    with pytest.raises(CheckpointError, match=text):
        load_model(tmp_path)


def test_file_that_shrinks_after_the_check(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(CheckpointError, match="changed while it was read"):
        model.load("model.norm.weight")


@given(st.data())
def test_any_flipped_header_byte_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    path = write_model(directory, num_layers=1) / "model.safetensors"
    blob = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", blob[:8])
    blob[data.draw(st.integers(0, 7 + size))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(blob)
    try:
        model = load_model(directory)
        for name in model.tensors:
            model.load(name)
    except (CheckpointError, UnsupportedModelError):
        pass
