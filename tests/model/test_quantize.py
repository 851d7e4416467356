from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.model.tiny import write_model, write_weights
from tests.paths import STORIES, needs_shared
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.errors import CheckpointError
from toolchain.model.names import linear_ids, norm_ids
from toolchain.model.quantize import (
    MAX_SNR_DB,
    Override,
    QuantConfig,
    QuantTensor,
    hf_name_of,
    quantize_model,
)


@pytest.fixture
def tiny(tmp_path: Path) -> FloatModel:
    return load_model(write_model(tmp_path))


@pytest.fixture
def untied(tmp_path: Path) -> FloatModel:
    return load_model(write_model(tmp_path, tied=False))


def test_dequantize_by_hand() -> None:
    values = np.array([[1, -2, 3, -4, 5]], dtype=np.int8)
    multipliers = np.array([[2, 10, 255]], dtype=np.uint8)
    tensor = QuantTensor("x", values, 4, 2, multipliers, np.array([0.25]))
    np.testing.assert_array_equal(tensor.dequantize(), [[0.5, -1, 7.5, -10, 318.75]])


@needs_shared
def test_speed_and_quality_on_a_trained_model() -> None:
    model = load_model(STORIES)
    start = time.process_time()
    quantized = quantize_model(model, QuantConfig())
    assert time.process_time() - start < 1.0  # 0.06 s measured on one core
    assert quantized.head is quantized.embed
    assert quantized.linears["l00.mlp.down_proj"].multipliers.shape == (64, 6)  # 172 = 5 * 32 + 12
    assert min(quantized.weight_snr_db.values()) > 19
    assert quantized.weight_snr_db["embed"] > 44


def check_tensor(tensor: QuantTensor, model: FloatModel, snr_db: float) -> None:
    weights = model.load(hf_name_of(tensor.name)).astype(np.float64)
    assert tensor.values.shape == weights.shape
    assert tensor.multipliers.shape[1] == -(-weights.shape[1] // tensor.group_size)
    noise = ((tensor.dequantize() - weights) ** 2).sum()
    assert snr_db == pytest.approx(10 * np.log10((weights**2).sum() / noise))
    for array in (tensor.values, tensor.multipliers, tensor.scale):
        assert not array.flags.writeable


def test_model_tied(tiny: FloatModel) -> None:
    seen: list[str] = []
    quantized = quantize_model(tiny, QuantConfig(group_size=10), seen.append)
    assert quantized.head is quantized.embed
    assert list(quantized.linears) == list(linear_ids(tiny.config))
    assert seen == ["embed", *linear_ids(tiny.config)] == list(quantized.weight_snr_db)
    assert list(quantized.norms) == list(norm_ids(tiny.config))
    for op_id, norm in quantized.norms.items():
        assert norm.dtype == np.float64
        np.testing.assert_array_equal(norm, tiny.load(hf_name_of(op_id)))
    for op_id, tensor in {"embed": quantized.embed, **quantized.linears}.items():
        assert tensor.name == op_id
        check_tensor(tensor, tiny, quantized.weight_snr_db[op_id])
    assert (quantized.embed.bits, quantized.embed.group_size) == (8, 16)
    assert {(t.bits, t.group_size) for t in quantized.linears.values()} == {(4, 10)}


def test_model_untied(untied: FloatModel) -> None:
    overrides = (Override("lm_head", bits=4, group_size=8),)
    quantized = quantize_model(untied, QuantConfig(embed_bits=6, overrides=overrides))
    assert (quantized.embed.name, quantized.embed.bits) == ("embed", 6)
    assert (quantized.head.name, quantized.head.bits) == ("lm_head", 4)
    assert quantized.head.multipliers.shape == (97, 2)
    check_tensor(quantized.head, untied, quantized.weight_snr_db["lm_head"])


def test_same_input_same_bits(tiny: FloatModel) -> None:
    first, second = (quantize_model(tiny, QuantConfig()) for _ in range(2))
    for op_id, tensor in first.linears.items():
        np.testing.assert_array_equal(tensor.values, second.linears[op_id].values)
        np.testing.assert_array_equal(tensor.scale, second.linears[op_id].scale)
    assert first.weight_snr_db == second.weight_snr_db


def test_exact_tensor_has_a_finite_snr(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    model = load_model(directory)
    weights = {name: model.load(name) for name in model.tensors}
    weights[hf_name_of("l00.attn.q_proj")][:] = 0
    write_weights(directory, weights)
    quantized = quantize_model(load_model(directory), QuantConfig())
    assert quantized.weight_snr_db["l00.attn.q_proj"] == MAX_SNR_DB
    assert not quantized.linears["l00.attn.q_proj"].dequantize().any()


def test_nan_weights(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")  # the last norm weight
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: found 1 NaN"):
        quantize_model(load_model(tmp_path), QuantConfig())
