"""config.json of a Hugging Face checkpoint -> ModelConfig.

Accepts LlamaForCausalLM, and MistralForCausalLM without a sliding window (then the same graph).
Reads the classic keys (rope_theta, rope_scaling) and `rope_parameters` of transformers 5. Refuses
everything that would change the graph, and every absurd number, all listed in one error. A key
that is absent takes the default of transformers, except that shape fields must be there and that
no token id is invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from toolchain.model.gptq_settings import CONFIG_KEY, parse_settings, read_settings
from toolchain.model.json_fields import FieldReader, ProblemLog, read_json_object, show

MAX_HIDDEN = 1 << 16
MAX_INTERMEDIATE = 1 << 18
MAX_LAYERS = 512
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_VOCAB = 1 << 20
MAX_CONTEXT = 1 << 24

_MODEL_TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
_REFUSED = {
    "Qwen2ForCausalLM": "its q, k and v projections have biases",
    "Qwen3ForCausalLM": "it normalises queries and keys per head (q_norm, k_norm)",
    "GemmaForCausalLM": "its RMSNorm adds 1 to the weight and its activation is GELU",
    "Gemma2ForCausalLM": "its norms are offset and its logits are soft-capped",
    "Gemma3ForCausalLM": "its norms are offset and its attention windows alternate",
    "MixtralForCausalLM": "it is a mixture of experts",
    "Phi3ForCausalLM": "its projections are stored fused",
    "SmolLM3ForCausalLM": "some of its layers have no rotary embedding",
}
_ROPE_KINDS = ("default", "linear", "llama3")
_ROPE_KEYS = {
    "type",
    "rope_type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base `theta` and the scaling of its frequencies (see rope.py)."""

    theta: float
    kind: str  # "default" | "linear" | "llama3"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0  # positions; used by "llama3" only


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape and constants of a Llama-style decoder; all sizes are counts of elements."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # divides num_heads
    head_dim: int  # even; num_heads * head_dim need not equal hidden_size
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def read_config(model_dir_or_json: Path) -> ModelConfig:
    """Read and validate config.json, given itself or the directory that holds it.

    Raises UnsupportedModelError with every unsupported item, or CheckpointError with every
    problem if any field is missing, ill-typed or contradictory.
    """
    path = model_dir_or_json
    log = ProblemLog()
    if path.is_dir():
        read_settings(path, log)
        path = path / "config.json"
        values = read_json_object(path) | {CONFIG_KEY: None}
    else:
        values = read_json_object(path)
    config = parse_config(values, log)
    log.raise_if_any(f"the model configuration {path}")
    return config


def parse_config(values: Mapping[str, object], log: ProblemLog) -> ModelConfig:
    """ModelConfig from parsed JSON; meaningless if `log` holds a problem afterwards."""
    fields = FieldReader(values, "", log)
    architecture = _read_architecture(fields)
    _refuse_variants(fields, log, architecture)
    hidden = fields.integer("hidden_size", 1, MAX_HIDDEN)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    kv_heads = fields.integer("num_key_value_heads", 1, MAX_HEADS, default=heads)
    vocab = fields.integer("vocab_size", 1, MAX_VOCAB)
    context = fields.integer("max_position_embeddings", 1, MAX_CONTEXT)
    if fields.good("num_attention_heads", "num_key_value_heads") and heads % kv_heads:
        allowed = f"a divisor of num_attention_heads ({heads})"
        fields.broken("num_key_value_heads", kv_heads, allowed)
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_INTERMEDIATE),
        num_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_read_head_dim(fields, hidden, heads),
        vocab_size=vocab,
        max_position_embeddings=context,
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope=_read_rope(fields, log),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        bos_token_id=_read_bos(fields, vocab),
        eos_token_ids=_read_eos(fields, vocab),
    )


def _read_architecture(fields: FieldReader) -> str:
    value = fields.raw("architectures")
    names = cast("list[object]", value) if isinstance(value, list) else []
    if len(names) != 1 or not isinstance(names[0], str):
        fields.broken("architectures", value, 'a list of one name, like ["LlamaForCausalLM"]')
        return ""
    name = names[0]
    if name not in _MODEL_TYPES:
        reason = _REFUSED.get(name, "its graph is unknown to edgec")
        fields.unsupported("architectures", name, " or ".join(_MODEL_TYPES), reason)
    elif fields.is_set("model_type") and fields.raw("model_type") != _MODEL_TYPES[name]:
        allowed = f'"{_MODEL_TYPES[name]}", the type of {name}'
        fields.broken("model_type", fields.raw("model_type"), allowed)
    return name


def _refuse_variants(fields: FieldReader, log: ProblemLog, architecture: str) -> None:
    """Note every option that would change the graph."""
    if fields.text("hidden_act", default="silu") != "silu" and fields.good("hidden_act"):
        fields.unsupported("hidden_act", fields.raw("hidden_act"), '"silu"')
    for key in ("attention_bias", "mlp_bias"):
        if fields.boolean(key, default=False):
            fields.unsupported(key, True, "false (projections without bias)")
    # transformers gives Mistral a window of 4096 when the key is absent, so null must be written.
    absent_window = 4096 if architecture == "MistralForCausalLM" else None
    window = fields.raw("sliding_window") if fields.has("sliding_window") else absent_window
    if window is not None:
        fields.unsupported("sliding_window", window, "null (attention over the whole context)")
    layer_types = fields.raw("layer_types")
    if layer_types is not None and not _all_full_attention(layer_types):
        fields.unsupported("layer_types", layer_types, 'null, or "full_attention" in every layer')
    _refuse_partial_rotary(fields)
    if fields.is_set(CONFIG_KEY):
        parse_settings(fields.raw(CONFIG_KEY), CONFIG_KEY, log)


def _refuse_partial_rotary(fields: FieldReader) -> None:
    key = "partial_rotary_factor"
    factor = fields.number(key, 0.0, 1.0, default=1.0)
    if fields.good(key) and factor != 1:
        fields.unsupported(key, factor, "1 (rotary embedding over the whole head)")


def _all_full_attention(value: object) -> bool:
    return isinstance(value, list) and all(item == "full_attention" for item in value)


def _read_head_dim(fields: FieldReader, hidden: int, heads: int) -> int:
    if fields.is_set("head_dim"):
        head_dim = fields.integer("head_dim", 2, MAX_HEAD_DIM)
    elif not fields.good("hidden_size", "num_attention_heads"):
        return 2
    elif hidden % heads:
        allowed = f"a multiple of num_attention_heads ({heads}), or an explicit head_dim"
        fields.broken("hidden_size", hidden, allowed)
        return 2
    else:
        head_dim = hidden // heads
    if fields.good("head_dim") and head_dim % 2:
        fields.broken("head_dim", head_dim, "an even number (rotary embedding turns pairs)")
    elif fields.good("head_dim") and head_dim > MAX_HEAD_DIM:
        fields.unsupported("head_dim", head_dim, f"at most {MAX_HEAD_DIM}")
    return head_dim


def _read_rope(fields: FieldReader, log: ProblemLog) -> RopeConfig:
    """The rotary embedding; transformers 5 writes `rope_parameters`, earlier ones two keys."""
    scaling, parameters = fields.raw("rope_scaling"), fields.raw("rope_parameters")
    if scaling is not None and parameters is not None and scaling != parameters:
        fields.broken("rope_parameters", parameters, f"the same as rope_scaling {show(scaling)}")
    key = "rope_parameters" if scaling is None else "rope_scaling"
    value = fields.raw(key)
    if value is not None and not isinstance(value, dict):
        fields.broken(key, value, "an object or null")
    rope_values = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    rope = FieldReader(rope_values, f"{key}.", log)
    for unknown in sorted(rope_values.keys() - _ROPE_KEYS):
        if rope.is_set(unknown):
            rope.unsupported(unknown, rope.raw(unknown), f"one of {', '.join(sorted(_ROPE_KEYS))}")
    _refuse_partial_rotary(rope)
    theta = _read_theta(fields, rope)
    kind = _read_rope_kind(rope)
    if kind == "linear":
        return RopeConfig(theta, kind, factor=rope.number("factor", 1.0, 1e6))
    if kind == "llama3":
        return _read_llama3(rope, theta)
    return RopeConfig(theta, kind)


def _read_theta(fields: FieldReader, rope: FieldReader) -> float:
    outer = fields.number("rope_theta", 1.0, 1e12, default=10000.0)
    if not rope.is_set("rope_theta"):
        return outer
    inner = rope.number("rope_theta", 1.0, 1e12)
    if fields.is_set("rope_theta") and inner != outer:
        rope.broken("rope_theta", inner, f"the same as the outer rope_theta ({outer:g})")
    return inner


def _read_rope_kind(rope: FieldReader) -> str:
    key = "rope_type" if rope.is_set("rope_type") else "type"
    kind = rope.text(key, default="default")
    if rope.is_set("type") and rope.raw("type") != rope.raw(key):
        rope.broken("type", rope.raw("type"), f"the same as rope_type ({show(kind)})")
    if rope.good(key) and kind not in _ROPE_KINDS:
        rope.unsupported(key, kind, " or ".join(f'"{name}"' for name in _ROPE_KINDS))
    return kind


def _read_llama3(rope: FieldReader, theta: float) -> RopeConfig:
    low = rope.number("low_freq_factor", 1e-6, 1e6)
    high = rope.number("high_freq_factor", 1e-6, 1e6)
    if rope.good("low_freq_factor", "high_freq_factor") and high <= low:
        rope.broken("high_freq_factor", high, f"more than low_freq_factor ({low:g})")
    return RopeConfig(
        theta,
        "llama3",
        factor=rope.number("factor", 1.0, 1e6),
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT),
    )


def _read_bos(fields: FieldReader, vocab: int) -> int | None:
    if not fields.is_set("bos_token_id"):
        return None
    ids = _token_ids(fields, "bos_token_id", [fields.raw("bos_token_id")], vocab)
    return ids[0] if ids else None


def _read_eos(fields: FieldReader, vocab: int) -> tuple[int, ...]:
    value = fields.raw("eos_token_id")
    if value is None:
        return ()
    return _token_ids(fields, "eos_token_id", value if isinstance(value, list) else [value], vocab)


def _token_ids(fields: FieldReader, key: str, values: list[object], vocab: int) -> tuple[int, ...]:
    """Valid ids; without a usable vocab_size only the type can be judged."""
    limit = vocab if fields.good("vocab_size") else MAX_VOCAB
    ids = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < limit]
    if len(ids) != len(values):
        fields.broken(key, fields.raw(key), f"token ids 0..{limit - 1} (below vocab_size)")
    return tuple(ids)
