"""The network of the bundled model: a small Llama, its checkpoint and its text.

Parameter names and arithmetic are those of Hugging Face's ``LlamaForCausalLM``, which loads the
saved directory and gives the same logits; writing it out makes training on a CPU faster.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from austen_text import BOS, BOS_ID, EOS, EOS_ID


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; matrix inputs just below 252, outputs in multiples of 32."""

    vocab: int = 1024
    hidden: int = 224
    ffn: int = 448
    layers: int = 4
    heads: int = 7
    head_dim: int = 32
    context: int = 256
    theta: float = 10000.0
    eps: float = 1e-5


class Block(nn.Module):
    """One decoder layer with one key/value head; parameter names as in Hugging Face's Llama."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        d, width, kv = shape.hidden, shape.heads * shape.head_dim, shape.head_dim
        self.shape, self.dropout = shape, dropout
        self.input_layernorm = nn.RMSNorm(d, shape.eps)
        self.post_attention_layernorm = nn.RMSNorm(d, shape.eps)
        linear = {"q_proj": (d, width), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (width, d)}
        self.self_attn = nn.ModuleDict({k: nn.Linear(*v, bias=False) for k, v in linear.items()})
        ffn = {"gate_proj": (d, shape.ffn), "up_proj": (d, shape.ffn), "down_proj": (shape.ffn, d)}
        self.mlp = nn.ModuleDict({k: nn.Linear(*v, bias=False) for k, v in ffn.items()})

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + functional.dropout(self.attend(x, cos, sin), self.dropout, self.training)
        h = self.post_attention_layernorm(x)
        h = functional.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h)
        h = self.mlp["down_proj"](h)
        return x + functional.dropout(h, self.dropout, self.training)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[name](h).view(b, t, -1, self.shape.head_dim).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin).expand_as(q)
        y = functional.scaled_dot_product_attention(q, k, v.expand_as(q), is_causal=True)
        out: Tensor = self.self_attn["o_proj"](y.transpose(1, 2).reshape(b, t, -1))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding with the halves of the head paired, as Hugging Face's Llama."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)


class Llama(nn.Module):
    """Decoder with tied embeddings; logits float32 [batch, time, vocab]."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.eps)
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.outer(torch.arange(shape.context).float(), shape.theta**-steps)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 if out or "embed" in name else 0.05)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def generate(
    model: Llama, tokenizer: Tokenizer, prompt: str, length: int, temperature: float
) -> str:
    """Continue ``prompt`` by up to ``length`` tokens; temperature 0 takes the largest logit."""
    rng = torch.Generator().manual_seed(0)
    ids = tokenizer.encode(prompt).ids
    for _ in range(min(length, model.shape.context - len(ids))):
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        if temperature > 0:
            chances = functional.softmax(logits / temperature, dim=0)
            ids.append(int(torch.multinomial(chances, 1, generator=rng)))
        else:
            ids.append(int(logits.argmax()))
        if ids[-1] == EOS_ID:
            break
    text: str = tokenizer.decode(ids)
    return text


def save(model: Llama, out: Path) -> None:
    """Write ``model.safetensors`` (float16) under the names of Hugging Face's Llama."""
    tensors = {f"model.{k}": v.detach().half() for k, v in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def write_configs(shape: Shape, out: Path) -> None:
    """Write the three JSON files beside the weights and the tokenizer."""
    tokens = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": 1,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.theta},
        "rms_norm_eps": shape.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "dtype": "float16",
        **tokens,
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": False,
    }
    files = {"config": config, "generation_config": tokens, "tokenizer_config": tokenizer}
    for name, content in files.items():
        (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
