"""Writes a random tiny Llama as a Hugging Face directory, with numpy and tokenizers only.

The safetensors container is written by hand: it can then hold bfloat16, which numpy lacks, and
the broken-file tests can start from `pack_safetensors` and spoil one thing. The same arguments
give the same bytes. Weights have the variance of a usual initialisation (1 / fan-in), so that
activations and logits keep the size they have in a trained model.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.model.nm_weights import remove
from toolchain.model.names import op_id_of
from toolchain.model.nm_pattern import Pattern

NOTHING: Mapping[str, Pattern] = MappingProxyType({})
FloatArray = npt.NDArray[np.float32]

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2
_CHARACTERS = " etaoinshrdlucmfwygpbvkxqjz.,!?'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\n-:;\""
_DTYPE_NAMES = {"f32": ("F32", "float32"), "f16": ("F16", "float16"), "bf16": ("BF16", "bfloat16")}


def write_model(
    directory: Path,
    *,
    hidden_size: int = 16,
    intermediate_size: int = 24,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int | None = None,
    vocab_size: int = 97,
    context: int = 32,
    tied: bool = True,
    dtype: str = "f32",
    shards: int = 1,
    seed: int = 0,
    pruned: Mapping[str, Pattern] = NOTHING,
    **config_overrides: object,
) -> Path:
    """Write config.json, tokenizer.json and safetensors: one file, or `shards` with an index.

    `dtype` is "f32", "f16" or "bf16"; `vocab_size` is at least 4. `pruned`: N:M patterns of the
    matrices whose op ids match (fnmatch). `config_overrides` replace or add
    keys of config.json. Returns `directory`.
    """
    head = hidden_size // num_heads if head_dim is None else head_dim
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": _DTYPE_NAMES[dtype][1],
    }
    if head_dim is not None:
        config["head_dim"] = head_dim
    shapes = tensor_shapes(
        hidden=hidden_size,
        ffn=intermediate_size,
        layers=num_layers,
        q_rows=num_heads * head,
        kv_rows=num_kv_heads * head,
        vocab=vocab_size,
        tied=tied,
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config | config_overrides)
    weights = prune(random_weights(shapes, seed), pruned)
    write_weights(directory, weights, dtype=dtype, shards=shards)
    build_tokenizer(vocab_size).save(str(directory / "tokenizer.json"))
    return directory


def tensor_shapes(
    *, hidden: int, ffn: int, layers: int, q_rows: int, kv_rows: int, vocab: int, tied: bool
) -> dict[str, tuple[int, ...]]:
    """Hugging Face name to shape, (n_out, n_in) for the projections, in model order."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (q_rows, hidden),
            f"{prefix}.self_attn.k_proj.weight": (kv_rows, hidden),
            f"{prefix}.self_attn.v_proj.weight": (kv_rows, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, q_rows),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (ffn, hidden),
            f"{prefix}.mlp.up_proj.weight": (ffn, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, ffn),
        }
    shapes["model.norm.weight"] = (hidden,)
    return shapes if tied else shapes | {"lm_head.weight": (vocab, hidden)}


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, FloatArray]:
    """Matrices with standard deviation 1 / sqrt(n_in); norm weights around 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape)
        values = 1 + 0.1 * noise if len(shape) == 1 else noise / np.sqrt(shape[-1])
        weights[name] = values.astype(np.float32)
    return weights


def prune(
    weights: Mapping[str, FloatArray], patterns: Mapping[str, Pattern]
) -> dict[str, FloatArray]:
    """`weights` with random zeros in the matrices whose op ids match a key of `patterns`."""
    rng = np.random.default_rng(1)
    result = dict(weights)
    for name in weights:
        op_id = op_id_of(name)
        for match, pattern in patterns.items():
            if weights[name].ndim == 2 and fnmatchcase(op_id, match):
                result[name] = remove(result[name], pattern, rng)
    return result


def write_weights(
    directory: Path, weights: Mapping[str, FloatArray], *, dtype: str = "f32", shards: int = 1
) -> None:
    """One model.safetensors, or `shards` files and model.safetensors.index.json."""
    encoded = {name: encode_tensor(values, dtype) for name, values in weights.items()}
    if shards == 1:
        (directory / "model.safetensors").write_bytes(pack_safetensors(encoded))
        return
    names = list(encoded)
    weight_map: dict[str, str] = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: encoded[name] for name in names[index::shards]}
        (directory / file).write_bytes(pack_safetensors(part))
        weight_map |= dict.fromkeys(part, file)
    total = sum(len(data) for _, _, data in encoded.values())
    index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / "model.safetensors.index.json", index_json)


def encode_tensor(values: FloatArray, dtype: str) -> tuple[str, tuple[int, ...], bytes]:
    """(safetensors dtype name, shape, little-endian bytes); bf16 rounds half to even."""
    name = _DTYPE_NAMES[dtype][0]
    if dtype == "bf16":
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.uint64)
        data = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    else:
        data = values.astype("<f4" if dtype == "f32" else "<f2").tobytes()
    return name, values.shape, data


def pack_safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file: 8-byte header length, JSON header padded to 8 bytes, tensor data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        end = offset + len(data)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return join_safetensors(json.dumps(header), b"".join(data for _, _, data in tensors.values()))


def join_safetensors(header: str, data: bytes) -> bytes:
    """Header text and tensor data as one file."""
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def build_tokenizer(vocab_size: int) -> Tokenizer:
    """Exactly `vocab_size` tokens with <unk> <s> </s> first; encoding puts <s> in front.

    From 259 on it is a byte-level BPE (any text round-trips); below, one token per character and
    <unk> for the rest.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size {vocab_size} leaves no room beside {SPECIAL_TOKENS}")
    if vocab_size >= len(SPECIAL_TOKENS) + 256:
        tokenizer = _byte_level(vocab_size)
    else:
        tokenizer = _character_level(vocab_size)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _byte_level(vocab_size: int) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (not c.islower(), c))
    n_merges = vocab_size - len(SPECIAL_TOKENS) - len(alphabet)
    merges = list(itertools.islice(itertools.product(alphabet, alphabet), n_merges))
    tokens = [*SPECIAL_TOKENS, *alphabet, *(left + right for left, right in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _character_level(vocab_size: int) -> Tokenizer:
    more = (chr(code) for code in itertools.count(0x100) if chr(code) not in _CHARACTERS)
    tokens = itertools.chain(SPECIAL_TOKENS, _CHARACTERS, more)
    vocab = {token: index for index, token in enumerate(itertools.islice(tokens, vocab_size))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def write_json(path: Path, value: object) -> None:
    """UTF-8 JSON, indented."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
