"""The two naming schemes of a Llama's tensors and the shapes that a ModelConfig implies.

Hugging Face names appear in checkpoints only; everything after the reader uses op ids, the same
in plan, C comment, golden file, trace and report.
"""

from __future__ import annotations

import re
from functools import cache

from toolchain.model.config import ModelConfig

# Order of execution within a block.
GATE = "mlp.gate_proj"
LINEAR_SUFFIXES = (
    "attn.q_proj",
    "attn.k_proj",
    "attn.v_proj",
    "attn.o_proj",
    GATE,
    "mlp.up_proj",
    "mlp.down_proj",
)
EMBED, HEAD, FINAL_NORM = "embed", "lm_head", "final.norm"

_HF_MODULE = {
    "attn.norm": "input_layernorm",
    "mlp.norm": "post_attention_layernorm",
} | {suffix: suffix.replace("attn.", "self_attn.") for suffix in LINEAR_SUFFIXES}
_OP_SUFFIX = {module: suffix for suffix, module in _HF_MODULE.items()}
_HF_GLOBAL = {
    EMBED: "model.embed_tokens.weight",
    HEAD: "lm_head.weight",
    FINAL_NORM: "model.norm.weight",
}
_OP_GLOBAL = {name: op_id for op_id, name in _HF_GLOBAL.items()}


def linear_ids(config: ModelConfig) -> tuple[str, ...]:
    """Op ids of the projections of all blocks, in order of execution."""
    layers = range(config.num_layers)
    return tuple(f"l{layer:02d}.{suffix}" for layer in layers for suffix in LINEAR_SUFFIXES)


def norm_ids(config: ModelConfig) -> tuple[str, ...]:
    """Op ids of the RMSNorms, in order of execution."""
    layers = range(config.num_layers)
    blocks = (f"l{layer:02d}.{room}.norm" for layer in layers for room in ("attn", "mlp"))
    return (*blocks, FINAL_NORM)


@cache  # one name per tensor, asked for again and again while designs are tried
def hf_name_of(op_id: str) -> str:
    """Name of the weight of op `op_id` in a checkpoint; ValueError if there is no such op."""
    if op_id in _HF_GLOBAL:
        return _HF_GLOBAL[op_id]
    match = re.fullmatch(r"l(\d\d|[1-9]\d\d+)\.(.+)", op_id)
    if match is None or match[2] not in _HF_MODULE:
        raise ValueError(f"no weight belongs to the op id {op_id!r}")
    return f"model.layers.{int(match[1])}.{_HF_MODULE[match[2]]}.weight"


def op_id_of(hf_name: str) -> str:
    """Op id of the weight `hf_name`; ValueError for a name outside the Llama scheme."""
    if hf_name in _OP_GLOBAL:
        return _OP_GLOBAL[hf_name]
    match = re.fullmatch(r"model\.layers\.(0|[1-9]\d*)\.(.+)\.weight", hf_name)
    if match is None or match[2] not in _OP_SUFFIX:
        raise ValueError(f"no op id belongs to the tensor {hf_name!r}")
    return f"l{int(match[1]):02d}.{_OP_SUFFIX[match[2]]}"


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Hugging Face name to shape of every weight; matrices are (n_out, n_in)."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    by_suffix = {
        "attn.q_proj": (q_rows, hidden),
        "attn.k_proj": (kv_rows, hidden),
        "attn.v_proj": (kv_rows, hidden),
        "attn.o_proj": (hidden, q_rows),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    shapes: dict[str, tuple[int, ...]] = {_HF_GLOBAL[EMBED]: (config.vocab_size, hidden)}
    shapes |= {
        hf_name_of(op_id): by_suffix[op_id[op_id.index(".") + 1 :]] for op_id in linear_ids(config)
    }
    shapes |= {hf_name_of(op_id): (hidden,) for op_id in norm_ids(config)}
    if not config.tie_word_embeddings:
        shapes[_HF_GLOBAL[HEAD]] = (config.vocab_size, hidden)
    return shapes
