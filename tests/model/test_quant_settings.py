from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.tiny import write_model
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.errors import ConfigError
from toolchain.model.names import linear_ids
from toolchain.model.quantize import (
    Override,
    QuantConfig,
    QuantModel,
    QuantTensor,
    effective_settings,
    quantize_model,
)


@pytest.fixture
def tiny(tmp_path: Path) -> FloatModel:
    return load_model(write_model(tmp_path))


def changed(model: FloatModel, quant: QuantConfig) -> set[str]:
    """Op ids whose integers differ from those of the default settings."""

    def tensors(quantized: QuantModel) -> dict[str, QuantTensor]:
        return {"embed": quantized.embed, "lm_head": quantized.head, **quantized.linears}

    base, other = (tensors(quantize_model(model, q)) for q in (QuantConfig(), quant))
    return {
        op_id
        for op_id in base
        if base[op_id].multipliers.shape != other[op_id].multipliers.shape
        or not np.array_equal(base[op_id].values, other[op_id].values)
    }


@pytest.fixture
def untied(tmp_path: Path) -> FloatModel:
    return load_model(write_model(tmp_path, tied=False))


def test_every_setting_has_its_effect(untied: FloatModel) -> None:
    linears = set(linear_ids(untied.config))
    assert changed(untied, QuantConfig(bits=3)) == linears
    assert changed(untied, QuantConfig(group_size=8)) == linears
    assert changed(untied, QuantConfig(embed_bits=7)) == {"embed"}
    assert changed(untied, QuantConfig(head_bits=7)) == {"lm_head"}
    down = Override("*.down_proj", bits=8)
    assert changed(untied, QuantConfig(overrides=(down,))) == {
        "l00.mlp.down_proj",
        "l01.mlp.down_proj",
    }
    groups = Override("l01.attn.[qk]_proj", group_size=4)
    assert changed(untied, QuantConfig(overrides=(groups,))) == {
        "l01.attn.q_proj",
        "l01.attn.k_proj",
    }


def test_overrides_apply_in_order(tiny: FloatModel) -> None:
    overrides = (
        Override("l*.*", bits=6, group_size=16),
        Override("l00.*", bits=3),
        Override("l00.mlp.*", group_size=-1),
    )
    settings = effective_settings(tiny.config, QuantConfig(overrides=overrides))
    assert (settings["l01.mlp.up_proj"].bits, settings["l01.mlp.up_proj"].group_size) == (6, 16)
    assert (settings["l00.attn.q_proj"].bits, settings["l00.attn.q_proj"].group_size) == (3, 16)
    assert (settings["l00.mlp.up_proj"].bits, settings["l00.mlp.up_proj"].group_size) == (3, -1)
    assert "lm_head" not in settings


def test_tied_head_follows_the_embedding(tiny: FloatModel) -> None:
    settings = effective_settings(tiny.config, QuantConfig(embed_bits=6, head_bits=6))
    assert settings["embed"].bits == 6
    both = (Override("embed", bits=5), Override("lm_head", bits=5))
    assert effective_settings(tiny.config, QuantConfig(overrides=both))["embed"].bits == 5


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"bits": 1}, "bits"),
        ({"bits": 9}, "bits"),
        ({"bits": True}, "bits"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": -2}, "group_size"),
        ({"embed_bits": 16, "head_bits": 16}, "embed_bits"),
        ({"head_bits": 4}, "head_bits of a tied model"),
        ({"overrides": (Override("embed", bits=4),)}, "head_bits of a tied model"),
        ({"overrides": (Override("lm_head", bits=4),)}, "head_bits of a tied model"),
        ({"overrides": (Override("l02.*", bits=4),)}, "override"),
        ({"overrides": (Override("model.layers.0.*", bits=4),)}, "override"),
        ({"overrides": (Override("L00.*", bits=4),)}, "override"),
        ({"overrides": (Override("l00.*", bits=0),)}, "override 'l00.*': bits"),
        ({"overrides": (Override("l00.*", group_size=0),)}, "override 'l00.*': group_size"),
        ({"overrides": (Override("l00.*"),)}, "override 'l00.*'"),
        ({"overrides": (Override("embed", group_size=8),)}, "group size of embed"),
        ({"overrides": (Override("lm_head", group_size=8),)}, "group size of lm_head"),
        ({"overrides": (Override("*", group_size=8),)}, "group size of embed"),
    ],
)
def test_bad_settings(tiny: FloatModel, settings: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        quantize_model(tiny, QuantConfig(**settings))
    assert where in [problem.where for problem in caught.value.problems]


def test_bad_settings_are_listed_together(tiny: FloatModel) -> None:
    quant = QuantConfig(bits=1, group_size=0, overrides=(Override("x", bits=12),))
    with pytest.raises(ConfigError) as caught:
        quantize_model(tiny, quant)
    assert len(caught.value.problems) == 4
