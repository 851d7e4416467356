"""GPTQ checkpoints: integers unchanged, weights exact, everything else refused with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.gptq import Format, pack_bits, write_gptq
from tests.model.spoil import Encoded
from tests.model.tiny import write_json, write_model
from toolchain.model.checkpoint import load_float_model, load_model
from toolchain.model.coded_settings import code_settings, with_codes
from toolchain.model.config import read_config
from toolchain.model.errors import (
    CheckpointError,
    ConfigError,
    EdgecError,
    UnsupportedModelError,
)
from toolchain.model.gptq_codes import _awq_fields, unpack_fields
from toolchain.model.names import hf_name_of
from toolchain.model.quant_settings import Override, QuantConfig
from toolchain.model.quantize import quantize_model
from toolchain.model.scale_multipliers import fit_scales

Q = "model.layers.0.self_attn.q_proj"
FORMATS = [
    Format(),
    Format(group_size=-1, version="gptq_v2"),
    Format(bits=8, group_size=12, settings_file=True),
    Format(bits=3, group_size=8),
    Format(bits=2, group_size=16, version="gptq_v2", special={"l01.mlp.up_proj": 8}),
    Format(bits=4, version="gptq_v2", sym=False),
    Format(bits=3, version="gptq", sym=False, group_size=-1, head=True),
    Format(bits=2, version="gptq_v2", sym=False, group_size=5),
    Format(bits=4, group_size=8, desc_act="site"),
    Format(bits=4, group_size=8, version="awq", sym=False),
    Format(bits=3, version="gptq_v2", sym=False, group_size=5, head=True, desc_act="each"),
]


def test_fields_by_hand() -> None:
    # 3 bits: fields 0..10 fill bits 0..32, so field 10 lies across two words.
    words = np.array([[0b01 << 30 | 0o1234567654, 0b1]], np.uint32).view(np.int32)
    expected = [4, 5, 6, 7, 6, 5, 4, 3, 2, 1, 0b101]
    assert unpack_fields(words, 3, 11).tolist() == [expected]
    nibbles = np.array([[0x76543210], [-2]], np.int32)
    assert unpack_fields(nibbles, 4, 8).tolist() == [list(range(8)), [14] + [15] * 7]


@given(st.sampled_from((2, 3, 4, 8)), st.integers(1, 40), st.integers(0, 1 << 30))
def test_unpacking_inverts_packing(bits: int, count: int, seed: int) -> None:
    fields = np.random.default_rng(seed).integers(0, 1 << bits, (3, count))
    np.testing.assert_array_equal(unpack_fields(pack_bits(fields, bits), bits, count), fields)


@pytest.mark.parametrize("written", FORMATS, ids=str)
def test_integers_and_weights(tmp_path: Path, written: Format) -> None:
    coded = write_gptq(tmp_path, written, hidden_size=32, tied=not written.head)
    model = load_model(tmp_path)
    quant = quantize_model(model, QuantConfig())
    for op_id, expected in coded.items():
        tensor = quant.head if op_id == "lm_head" else quant.linears[op_id]
        np.testing.assert_array_equal(tensor.values, expected.integers[:, expected.order])
        np.testing.assert_allclose(tensor.dequantize(), expected.weights, rtol=0.05)
        np.testing.assert_array_equal(model.load(hf_name_of(op_id)), expected.weights)
        assert tensor.group_size == min(expected.group, tensor.values.shape[1])
        real = tensor.multipliers * tensor.scale[:, None]
        change = np.abs(real / expected.scales.astype(np.float64) - 1).max()
        assert change <= quant.scale_changes[op_id] + 1e-12
        if expected.scales.shape[1] == 1:
            assert change == 0
            assert quant.weight_snr_db[op_id] == 200
        else:
            assert quant.weight_snr_db[op_id] > 50
    assert quant.embed.bits == 8  # by our own rule


def test_awq_by_hand() -> None:
    word = np.array([[0x75316420, 0x0FEDCBA9]], np.int32)
    assert _awq_fields(word).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 9, 13, 10, 14, 11, 15, 12, 0]]


def test_bits_cover_the_zero_points(tmp_path: Path) -> None:
    write_gptq(tmp_path, Format(bits=4, version="gptq_v2", sym=False))
    settings = code_settings(load_model(tmp_path))
    assert {s.bits for s in settings.values()} == {5}
    write_gptq(tmp_path, Format(bits=3, version="gptq_v2", sym=False))
    assert {s.bits for s in code_settings(load_model(tmp_path)).values()} <= {3, 4}
    write_gptq(tmp_path, Format(bits=8, version="gptq_v2", sym=False))
    with pytest.raises(UnsupportedModelError, match=r"exceeds 8 bits.*sym=True") as error:
        load_model(tmp_path)
    assert len(error.value.problems) == 14


@given(st.integers(0, 1 << 30))
def test_scales_by_the_best_multipliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.01, 1, (3, 5)).astype(np.float16).astype(np.float64)
    energy = rng.integers(0, 50, (3, 5)).astype(np.float64)
    found = fit_scales(scales, energy)
    assert found.multipliers.min() >= 1
    assert (found.scale > 0).all()
    simple = np.clip(np.rint(scales / scales.max(axis=1, keepdims=True) * 255), 1, 255)
    step = scales.max(axis=1, keepdims=True) / 255
    error = (energy * (simple * step - scales) ** 2).sum()
    assert found.squared_error <= error * (1 + 1e-9) + 1e-15


def test_multiples_are_exact() -> None:
    multiples = np.array([[3.0, 255.0, 128.0], [0.0, 0.0, 0.0]])
    found = fit_scales(multiples * 2.0**-9, np.ones((2, 3)))
    assert found.multipliers.tolist()[0] == [3, 255, 128]
    assert found.scale.tolist() == [2.0**-9, 2.0**-9]
    assert found.largest_change == 0


def test_a_scale_of_zero_removes_its_weights(tmp_path: Path) -> None:
    def change(tensors: Encoded) -> None:
        dtype, shape, data = tensors[f"{Q}.scales"]
        tensors[f"{Q}.scales"] = (dtype, shape, bytes(2) + data[2:])

    coded = write_gptq(tmp_path, change=change)["l00.attn.q_proj"]
    values = quantize_model(load_model(tmp_path), QuantConfig()).linears["l00.attn.q_proj"].values
    assert not values[0, :8].any()
    np.testing.assert_array_equal(values[1:], coded.integers[1:])


def zeros_bias(tensors: Encoded) -> None:
    tensors[f"{Q}.bias"] = ("F16", (16,), bytes(32))


def real_bias(tensors: Encoded) -> None:
    tensors[f"{Q}.bias"] = ("F16", (16,), b"\x01" * 32)


def shuffled(tensors: Encoded) -> None:
    for part in ("self_attn.q_proj", "mlp.up_proj"):
        name = f"model.layers.0.{part}.g_idx"
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, data[-4:] + data[4:-4] + data[:4])


def uneven(tensors: Encoded) -> None:
    dtype, shape, data = tensors[f"{Q}.g_idx"]
    tensors[f"{Q}.g_idx"] = (dtype, shape, data[-4:] + data[4:])


def drop(part: str) -> object:
    def change(tensors: Encoded) -> None:
        del tensors[f"{Q}.{part}"]

    return change


def put(part: str, value: tuple[str, tuple[int, ...], bytes]) -> object:
    def change(tensors: Encoded) -> None:
        tensors[f"{Q}.{part}"] = value

    return change


def test_bias_of_zeros_and_no_order(tmp_path: Path) -> None:
    def change(tensors: Encoded) -> None:
        zeros_bias(tensors)
        drop("g_idx")(tensors)  # type: ignore[operator]

    write_gptq(tmp_path, change=change)
    assert len(load_model(tmp_path).codes) == 14


def test_one_group_in_any_order(tmp_path: Path) -> None:
    write_gptq(tmp_path, Format(group_size=-1), change=shuffled)
    assert len(load_model(tmp_path).codes) == 14


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (real_bias, UnsupportedModelError, "no bias"),
        (uneven, UnsupportedModelError, r"q_proj.g_idx.*8 inputs in each of the groups 0\.\.1"),
        (drop("scales"), CheckpointError, r"q_proj.scales: found nothing, allowed \[2, 16\]"),
        (drop("qweight"), CheckpointError, "q_proj.weight: found nothing"),
        (put("weight", ("F32", (16, 16), bytes(1024))), CheckpointError, "floats beside its codes"),
        (put("extra", ("F32", (1,), bytes(4))), UnsupportedModelError, "q_proj.extra"),
        (put("qzeros", ("I32", (2, 2), b"\xff" * 16)), UnsupportedModelError, "format gptq_v2"),
        (put("qweight", ("I32", (3, 16), bytes(192))), CheckpointError, "4 bits in groups of 8"),
        (put("qweight", ("F32", (2, 16), bytes(128))), CheckpointError, r"F32 \[2, 16\]"),
        (put("g_idx", ("I32", (15,), bytes(60))), CheckpointError, "q_proj.g_idx"),
    ],
)
def test_refused(tmp_path: Path, change: object, error: type[EdgecError], text: str) -> None:
    write_gptq(tmp_path, change=change)  # type: ignore[arg-type]
    with pytest.raises(error, match=text):
        load_model(tmp_path)


def test_broken_scales(tmp_path: Path) -> None:
    write_gptq(tmp_path, change=put("scales", ("F16", (2, 16), b"\xff" * 64)))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="32 negative, NaN or infinite"):
        quantize_model(load_model(tmp_path), QuantConfig())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bits": 5}, "one of 2, 3, 4, 8"),
        ({"group_size": 0}, "group_size"),
        (
            {"quant_method": "awq", "version": "gemv"},
            r"awq .*in 14 modules: model.*q_proj, .*and 2 more.*version gemm",
        ),
        ({"quant_method": "awq", "bits": 8}, "4 in format awq"),
        ({"quant_method": "awq", "modules_to_not_convert": 3}, "a list of names"),
        ({"quant_method": "awq", "modules_to_not_convert": ["lm_head", Q]}, "q_proj.qweight"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8 .*--bits 8"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}, "nf4 .*table"),
        ({"quant_method": "fp8"}, "8-bit floats"),
        ({"quant_method": "news"}, "unknown to edgec"),
        ({"checkpoint_format": "marlin"}, "permuted for GPU"),
        ({"checkpoint_format": "gptq_p"}, "planes of bits"),
        ({"pack_dtype": "int8"}, "int32"),
        ({"dynamic": {"+:(": {"bits": 3}}}, "a regular expression"),
        ({"dynamic": {f"-:{Q}": {}}}, "q_proj.qweight: found no settings"),
    ],
)
def test_settings(tmp_path: Path, settings: dict[str, object], text: str) -> None:
    write_gptq(tmp_path, settings=settings)
    with pytest.raises(EdgecError, match=text):
        load_model(tmp_path)


def test_both_places_must_agree(tmp_path: Path) -> None:
    write_gptq(tmp_path)
    other = {"bits": 4, "group_size": 16, "checkpoint_format": "gptq"}
    write_json(tmp_path / "quantize_config.json", other)
    with pytest.raises(CheckpointError, match="different settings"):
        read_config(tmp_path)
    write_json(tmp_path / "quantize_config.json", other | {"group_size": 8})
    assert read_config(tmp_path).num_layers == 2


def test_settings_without_codes(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    write_model(tmp_path, quantization_config=settings)
    with pytest.raises(CheckpointError, match="settings of gptq, and no codes"):
        load_model(tmp_path)


def test_options_against_the_codes(tmp_path: Path) -> None:
    write_gptq(tmp_path, Format(special={"l00.attn.q_proj": 2}))
    model = load_model(tmp_path)
    once = with_codes(model, QuantConfig(overrides=(Override("*.up_proj", 4),)))
    assert with_codes(model, once) == once
    with pytest.raises(ConfigError, match=r"--layer l00\*: found bits 4.*allowed 2 and 8"):
        with_codes(model, QuantConfig(overrides=(Override("l00*", 4),)))
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        load_float_model(tmp_path)


def test_gguf(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    for path in (tmp_path, file):
        with pytest.raises(UnsupportedModelError, match=r"gguf .*--bits 4"):
            load_model(path)
