"""Tiny models with one thing spoiled, for the tests of the reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.model.tiny import (
    encode_tensor,
    join_safetensors,
    pack_safetensors,
    random_weights,
    tensor_shapes,
    write_model,
)
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.errors import EdgecError

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
    """The places that an error names."""
    return [problem.where for problem in error.problems]
