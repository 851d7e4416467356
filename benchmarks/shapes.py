"""Shapes of the benchmarks: built-in ones, and two that fill 4 MiB of weight memory."""

from __future__ import annotations

from dataclasses import replace

from toolchain.fit.shapes import load_shape
from toolchain.model.config import ModelConfig

FOUR_MIB = "4 MiB shape"
TWO_BLOCKS = "4 MiB shape of two blocks"


def shapes() -> dict[str, ModelConfig]:
    """By name, the small ones first.

    The shape of two blocks is one of `edgec fit --suggest --vocab 512 --group-size -1 --region
    tile_sram=32`: everything in the MRAM.
    """
    found = {name: load_shape(name).config for name in ("stories260k", "bundled")}
    base = replace(found["bundled"], max_position_embeddings=256)
    found[FOUR_MIB] = replace(
        base,
        hidden_size=224,
        intermediate_size=736,
        num_layers=7,
        num_heads=7,
        num_kv_heads=1,
        head_dim=32,
        vocab_size=4096,
    )
    found[TWO_BLOCKS] = replace(
        base,
        hidden_size=504,
        intermediate_size=1764,
        num_layers=2,
        num_heads=8,
        num_kv_heads=2,
        head_dim=60,
        vocab_size=512,
    )
    return found
