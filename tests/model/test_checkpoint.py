from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.model.spoil import EMBED, HEAD, Q_PROJ, Encoded, rewrite, weights_of, wheres
from tests.model.tiny import write_json, write_model
from tests.paths import STORIES, needs_shared
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import CheckpointError, UnsupportedModelError


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
