from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import (
    encode_tensor,
    join_safetensors,
    pack_safetensors,
    random_weights,
    tensor_shapes,
    write_json,
    write_model,
)
from tests.paths import STORIES, needs_shared
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.errors import CheckpointError, EdgecError, UnsupportedModelError

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Encoded = dict[str, tuple[str, tuple[int, ...], bytes]]


def weights_of(model: FloatModel, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """What write_model stored, before rounding to the stored dtype."""
    config = model.config
    shapes = tensor_shapes(
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        layers=config.num_layers,
        q_rows=config.num_heads * config.head_dim,
        kv_rows=config.num_kv_heads * config.head_dim,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
    )
    return dict(random_weights(shapes, seed))


def rewrite(directory: Path, change: Callable[[Encoded], None]) -> Path:
    """Write the tiny model again after `change` has edited its encoded tensors."""
    model = load_model(write_model(directory))
    encoded = {name: encode_tensor(w, "f32") for name, w in weights_of(model).items()}
    change(encoded)
    (directory / "model.safetensors").write_bytes(pack_safetensors(encoded))
    return directory


def edit_header(directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the header of the tiny model and leave its data."""
    path = write_model(directory) / "model.safetensors"
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    change(header)
    path.write_bytes(join_safetensors(json.dumps(header), blob[8 + size :]))
    return directory


def wheres(error: EdgecError) -> list[str]:
    return [problem.where for problem in error.problems]


@needs_shared
def test_trained_model_equals_the_library() -> None:
    model = load_model(STORIES)
    library = safetensors.numpy.load_file(STORIES / "model.safetensors")
    assert model.tensors.keys() == library.keys()
    for name, values in library.items():
        loaded = model.load(name)
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, values)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_f32_exactly(tmp_path: Path, shards: int, tied: bool) -> None:
    model = load_model(write_model(tmp_path, shards=shards, tied=tied, seed=5))
    expected = weights_of(model, seed=5)
    assert model.tensors.keys() == expected.keys()
    assert (HEAD in model.tensors) is not tied
    for name, values in expected.items():
        loaded = model.load(name)
        assert type(loaded) is np.ndarray
        assert loaded.dtype == np.float32
        assert loaded.flags.c_contiguous
        assert loaded.flags.writeable
        np.testing.assert_array_equal(loaded, values)


def test_f16_and_bf16_widen_exactly(tmp_path: Path) -> None:
    half = load_model(write_model(tmp_path / "f16", dtype="f16"))
    for name, values in weights_of(half).items():
        np.testing.assert_array_equal(half.load(name), values.astype(np.float16))
    brain = load_model(write_model(tmp_path / "bf16", dtype="bf16", shards=2))
    for name, values in weights_of(brain).items():
        loaded = brain.load(name)
        assert not (loaded.view(np.uint32) & 0xFFFF).any()
        np.testing.assert_allclose(loaded, values, rtol=2**-8)


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


def test_links_are_followed(tmp_path: Path) -> None:
    # The layout of the hub's download cache: a snapshot of links to blobs elsewhere.
    blobs, snapshot = write_model(tmp_path / "blobs", shards=2), tmp_path / "snapshot"
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert len(load_model(snapshot).tensors) == 20


def test_harmless_frequencies_are_ignored(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"

    def change(tensors: Encoded) -> None:
        tensors[name] = ("F32", (2,), bytes(8))

    assert name not in load_model(rewrite(tmp_path, change)).tensors


def test_tied_head_equal_to_the_embedding_is_dropped(tmp_path: Path) -> None:
    def change(tensors: Encoded) -> None:
        tensors[HEAD] = tensors[EMBED]

    assert HEAD not in load_model(rewrite(tmp_path, change)).tensors


@pytest.mark.parametrize("spoil", ["value", "dtype"])
def test_tied_but_different_head(tmp_path: Path, spoil: str) -> None:
    def change(tensors: Encoded) -> None:
        dtype, shape, data = tensors[EMBED]
        if spoil == "value":
            tensors[HEAD] = (dtype, shape, data[:-1] + bytes([data[-1] ^ 1]))
        else:
            tensors[HEAD] = ("F16", shape, data[: len(data) // 2])

    with pytest.raises(CheckpointError, match="tie_word_embeddings is true"):
        load_model(rewrite(tmp_path, change))


def test_all_tensor_problems_at_once(tmp_path: Path) -> None:
    def change(tensors: Encoded) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        dtype, shape, data = tensors[Q_PROJ]
        tensors[Q_PROJ] = (dtype, (shape[0] * 2, shape[1] // 2), data)
        tensors["model.layers.0.self_attn.q_proj.bias"] = ("F32", (16,), bytes(64))
        tensors["model.norm.weight"] = ("I32", (16,), bytes(64))

    with pytest.raises(CheckpointError) as caught:
        load_model(rewrite(tmp_path, change))
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "model.layers.1.mlp.up_proj.weight: found nothing, allowed shape [24, 16]" in text
    assert f"{Q_PROJ}: found shape [32, 8], allowed shape [16, 16]" in text
    assert "q_proj.bias" in text
    assert 'found dtype "I32", allowed one of F32, F16, BF16' in text


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.2.input_layernorm.weight",
        "model.layers.00.input_layernorm.weight",
        "extra",
    ],
)
def test_unknown_tensor_is_unsupported(tmp_path: Path, name: str) -> None:
    def change(tensors: Encoded) -> None:
        tensors[name] = ("F32", (16,), bytes(64))

    with pytest.raises(UnsupportedModelError) as caught:
        load_model(rewrite(tmp_path, change))
    assert wheres(caught.value) == [f'tensor "{name}"']


def test_untied_without_head(tmp_path: Path) -> None:
    write_model(tmp_path, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: found nothing"):
        load_model(tmp_path)


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


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..",
        ".",
        "",
        "a\0.safetensors",
        ".hidden.safetensors",
        "model.bin",
        "model.safetensors\n",
        7,
        None,
    ],
)
def test_path_tricks_in_the_index(tmp_path: Path, file: object) -> None:
    write_model(tmp_path / "m", shards=2)
    index = tmp_path / "m" / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"][Q_PROJ] = file
    write_json(index, values)
    # The file exists where the trick points: it must not be opened all the same.
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "m")
    assert "plain file name" in str(caught.value)
    assert not any(str(tmp_path / "model.safetensors") in where for where in wheres(caught.value))


@pytest.mark.parametrize("value", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": 1}])
def test_index_without_map(tmp_path: Path, value: object) -> None:
    write_json(write_model(tmp_path, shards=2) / "model.safetensors.index.json", value)
    with pytest.raises(CheckpointError, match="weight_map"):
        load_model(tmp_path)


def test_index_that_names_a_missing_shard_and_a_wrong_one(tmp_path: Path) -> None:
    write_model(tmp_path, shards=3)
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    assert values["weight_map"][EMBED] == "model-00001-of-00003.safetensors"
    values["weight_map"][EMBED] = "model-00002-of-00003.safetensors"
    write_json(index, values)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert wheres(caught.value) == [
        "model-00001-of-00003.safetensors",
        f'tensor "{EMBED}"',
        str(tmp_path / "model-00003-of-00003.safetensors"),
    ]


def test_no_directory_no_weights_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found nothing"):
        load_model(tmp_path / "absent")
    (write_model(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="found nothing"):
        load_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match="never unpickled; convert them to safetensors"):
        load_model(tmp_path)


def test_weights_that_are_a_directory(tmp_path: Path) -> None:
    (write_model(tmp_path) / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="not a file"):
        load_model(tmp_path)
