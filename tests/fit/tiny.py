"""Shapes small enough to count by hand."""

from __future__ import annotations

from toolchain.model.config import ModelConfig, RopeConfig


def tiny_config(
    *,
    hidden: int = 16,
    ffn: int = 24,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 4,
    vocab: int = 32,
    context: int = 16,
    tied: bool = True,
) -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=hidden,
        intermediate_size=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        rope=RopeConfig(10000.0, "default"),
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_ids=(),
    )
