from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.model.tiny import write_model
from tests.paths import STORIES, needs_shared
from toolchain.model.config import ModelConfig, RopeConfig, read_config
from toolchain.model.errors import CheckpointError, EdgecError, UnsupportedModelError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MISTRAL: dict[str, Any] = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


def config_of(directory: Path, *, drop: tuple[str, ...] = (), **changes: Any) -> ModelConfig:
    """Read a valid config with these keys changed or dropped."""
    path = write_model(directory) / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in drop}))
    return read_config(path)


def problems_of(error: EdgecError) -> dict[str, str]:
    return {problem.where: str(problem) for problem in error.problems}


@needs_shared
def test_trained_model() -> None:
    config = read_config(STORIES)
    assert config == ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=64,
        intermediate_size=172,
        num_layers=5,
        num_heads=8,
        num_kv_heads=4,
        head_dim=8,
        vocab_size=512,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope=RopeConfig(10000.0, "default"),
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(2,),
    )


def test_directory_and_file_are_alike(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert read_config(tmp_path) == read_config(tmp_path / "config.json")


def test_absent_keys_take_the_defaults_of_transformers(tmp_path: Path) -> None:
    optional = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act", "attention_bias")
    ids = ("tie_word_embeddings", "mlp_bias", "bos_token_id", "eos_token_id", "model_type")
    config = config_of(tmp_path, drop=optional + ids)
    assert (config.num_kv_heads, config.rms_norm_eps) == (4, 1e-6)
    assert config.rope == RopeConfig(10000.0, "default")
    assert not config.tie_word_embeddings
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())


def test_explicit_head_dim_need_not_divide(tmp_path: Path) -> None:
    config = config_of(tmp_path, num_attention_heads=3, num_key_value_heads=1, head_dim=6)
    assert (config.hidden_size, config.num_heads, config.head_dim) == (16, 3, 6)


def test_null_means_default(tmp_path: Path) -> None:
    config = config_of(tmp_path, head_dim=None, num_key_value_heads=None, rope_scaling=None)
    assert (config.head_dim, config.num_kv_heads) == (4, 4)


def test_list_of_end_tokens(tmp_path: Path) -> None:
    assert config_of(tmp_path, eos_token_id=[2, 5, 9]).eos_token_ids == (2, 5, 9)


def test_mistral_without_window(tmp_path: Path) -> None:
    config = config_of(tmp_path, **MISTRAL, sliding_window=None)
    assert config.architecture == "MistralForCausalLM"


@pytest.mark.parametrize("window", [{"sliding_window": 4096}, {}])
def test_mistral_with_window_is_refused(tmp_path: Path, window: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        config_of(tmp_path, **MISTRAL, **window)
    assert "found 4096" in problems_of(caught.value)["sliding_window"]


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        ({"rope_theta": 500000.0}, RopeConfig(500000.0, "default")),
        ({"rope_theta": 500000}, RopeConfig(500000.0, "default")),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, RopeConfig(1e4, "linear", 2.0)),
        ({"rope_scaling": LLAMA3}, RopeConfig(1e4, "llama3", 8.0, 1.0, 4.0, 16)),
        ({"rope_scaling": {**LLAMA3, "type": "llama3"}}, RopeConfig(1e4, "llama3", 8.0, 1, 4, 16)),
        ({"rope_parameters": {"rope_type": "default"}}, RopeConfig(1e4, "default")),
        ({"rope_scaling": {"type": "default", "mscale": None}}, RopeConfig(1e4, "default")),
    ],
)
def test_rope(tmp_path: Path, changes: dict[str, Any], rope: RopeConfig) -> None:
    assert config_of(tmp_path, **changes).rope == rope


def test_rope_parameters_hold_theta(tmp_path: Path) -> None:
    parameters = {"rope_type": "linear", "rope_theta": 25000.0, "factor": 4.0}
    config = config_of(tmp_path, drop=("rope_theta",), rope_parameters=parameters)
    assert config.rope == RopeConfig(25000.0, "linear", 4.0)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "architectures"),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, "architectures"),
        ({"architectures": ["BertModel"]}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"sliding_window": 1024}, "sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.type"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling.rope_type"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type"),
        ({"rope_parameters": {"rope_type": "new"}}, "rope_parameters.rope_type"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.25}},
            "rope_parameters.partial_rotary_factor",
        ),
        ({"vocab_size": 1 << 30}, "vocab_size"),
        ({"num_hidden_layers": 513}, "num_hidden_layers"),
        ({"hidden_size": 1 << 17}, "hidden_size"),
        ({"intermediate_size": 10**30}, "intermediate_size"),
        ({"head_dim": 2048}, "head_dim"),
    ],
)
def test_unsupported(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        config_of(tmp_path, **changes)
    assert list(problems_of(caught.value)) == [where]


def test_refused_architecture_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Qwen2ForCausalLM.*biases"):
        config_of(tmp_path, architectures=["Qwen2ForCausalLM"])
    with pytest.raises(UnsupportedModelError, match=r"Qwen3ForCausalLM.*q_norm"):
        config_of(tmp_path, architectures=["Qwen3ForCausalLM"])


@pytest.mark.parametrize("value", [0, -4, True, "64", 64.0, None, [64], {}])
@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_absurd_sizes(tmp_path: Path, key: str, value: object) -> None:
    changes: dict[str, Any] = {key: value}
    with pytest.raises(CheckpointError) as caught:
        config_of(tmp_path, **changes)
    assert key in problems_of(caught.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"architectures": []}, "architectures"),
        ({"architectures": ["LlamaForCausalLM", "X"]}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"architectures": [None]}, "architectures"),
        ({"model_type": "gemma"}, "model_type"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 8}, "num_key_value_heads"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "hidden_size"),
        ({"hidden_size": 12}, "head_dim"),
        ({"head_dim": 5}, "head_dim"),
        ({"head_dim": 0}, "head_dim"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
        ({"rms_norm_eps": 2}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"rms_norm_eps": True}, "rms_norm_eps"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling.type"),
        ({"rope_scaling": {**LLAMA3, "type": "linear"}}, "rope_scaling.type"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters.rope_theta"),
        ({"rope_scaling": LLAMA3, "rope_parameters": {}}, "rope_parameters"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"attention_bias": 0}, "attention_bias"),
        ({"bos_token_id": 97}, "bos_token_id"),
        ({"bos_token_id": -1}, "bos_token_id"),
        ({"eos_token_id": [2, 97]}, "eos_token_id"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
        ({"hidden_act": 5}, "hidden_act"),
    ],
)
def test_broken(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_of(tmp_path, **changes)
    assert list(problems_of(caught.value)) == [where]


def test_all_problems_at_once_and_broken_wins(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_of(
            tmp_path,
            drop=("intermediate_size",),
            hidden_size="big",
            num_key_value_heads=3,
            hidden_act="relu",
            rope_scaling={"type": "yarn"},
            eos_token_id=-1,
        )
    assert problems_of(caught.value).keys() == {
        "intermediate_size",
        "hidden_size",
        "num_key_value_heads",
        "hidden_act",
        "rope_scaling.type",
        "eos_token_id",
    }
    assert "found nothing" in problems_of(caught.value)["intermediate_size"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe{}",
        b'{"hidden_size": 16, "hidden_size": 32}',
        b'{"rms_norm_eps": NaN}',
        b'{"rms_norm_eps": Infinity}',
        b'{"rms_norm_eps": 1e999}',
        b'{"hidden_size": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_invalid_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_missing_and_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found nothing"):
        read_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="not a file"):
        read_config(tmp_path)


def test_oversized_file_is_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match="1099511627776 bytes"):
        read_config(tmp_path)
