from __future__ import annotations

import pytest

from toolchain.model.quantize import hf_name_of, op_id_of


@pytest.mark.parametrize(
    ("op_id", "hf_name"),
    [
        ("embed", "model.embed_tokens.weight"),
        ("lm_head", "lm_head.weight"),
        ("final.norm", "model.norm.weight"),
        ("l03.attn.q_proj", "model.layers.3.self_attn.q_proj.weight"),
        ("l03.attn.o_proj", "model.layers.3.self_attn.o_proj.weight"),
        ("l12.mlp.down_proj", "model.layers.12.mlp.down_proj.weight"),
        ("l00.attn.norm", "model.layers.0.input_layernorm.weight"),
        ("l00.mlp.norm", "model.layers.0.post_attention_layernorm.weight"),
        ("l105.mlp.norm", "model.layers.105.post_attention_layernorm.weight"),
    ],
)
def test_names(op_id: str, hf_name: str) -> None:
    assert hf_name_of(op_id) == hf_name
    assert op_id_of(hf_name) == op_id


@pytest.mark.parametrize("op_id", ["", "l3.attn.q_proj", "l005.attn.norm", "l00.attn.x", "norm"])
def test_unknown_op_id(op_id: str) -> None:
    with pytest.raises(ValueError, match="no weight"):
        hf_name_of(op_id)


@pytest.mark.parametrize(
    "name", ["", "model.layers.03.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias"]
)
def test_unknown_tensor_name(name: str) -> None:
    with pytest.raises(ValueError, match="no op id"):
        op_id_of(name)
