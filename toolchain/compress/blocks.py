"""A Llama in torch, block by block: float32 forward passes that hold one block's weights.

The arithmetic is that of LlamaForCausalLM in transformers (RMSNorm, rotary embedding on halves,
grouped causal attention, SwiGLU); tests compare the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolchain.compress.checkpoint import Block, Source, Tensor
from toolchain.model.config import ModelConfig
from toolchain.model.names import EMBED, FINAL_NORM, hf_name_of
from toolchain.model.rope import rope_angles

Tap = Callable[[str, Tensor], None]  # suffix of a projection, its input (rows, n_in)


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """cos and sin, each (positions, head_dim // 2), float32."""

    cos: Tensor
    sin: Tensor


def rotary(config: ModelConfig, positions: int, device: str) -> Rotary:
    """Tables for positions 0..positions-1."""
    angles = torch.from_numpy(rope_angles(config.rope, config.head_dim, positions))
    cos, sin = angles.cos().float(), angles.sin().float()
    return Rotary(cos.to(device), sin.to(device))


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x ** 2) + eps) * gain over the last axis."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def rotate(x: Tensor, tables: Rotary) -> Tensor:
    """Turns (batch, heads, positions, head_dim); element i pairs with i + head_dim / 2."""
    one, two = x.chunk(2, dim=-1)
    cos, sin = tables.cos, tables.sin
    return torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class BlockRunner:
    """Runs blocks of one shape on states (batch, positions, hidden)."""

    config: ModelConfig
    tables: Rotary

    @staticmethod
    def make(config: ModelConfig, positions: int, device: str) -> BlockRunner:
        """With tables for `positions` positions."""
        return BlockRunner(config, rotary(config, positions, device))

    def __call__(self, x: Tensor, weights: Block, tap: Tap | None = None) -> Tensor:
        """The block's output; `tap` sees the input of every projection first."""
        x = x + self.attention(x, weights, tap)
        return x + self.mlp(x, weights, tap)

    def attention(self, x: Tensor, weights: Block, tap: Tap | None = None) -> Tensor:
        """What the attention module adds to the residual stream."""
        cfg, (batch, positions, _) = self.config, x.shape
        h = rms_norm(x, weights["attn.norm"], cfg.rms_norm_eps)

        def heads(suffix: str, count: int) -> Tensor:
            y = _linear(h, suffix, weights, tap)
            return y.view(batch, positions, count, cfg.head_dim).transpose(1, 2)

        q = rotate(heads("attn.q_proj", cfg.num_heads), self.tables)
        k = rotate(heads("attn.k_proj", cfg.num_kv_heads), self.tables)
        v = heads("attn.v_proj", cfg.num_kv_heads)
        shared = cfg.num_heads // cfg.num_kv_heads
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        with _repeatable_attention(x.device.type):
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, positions, cfg.num_heads * cfg.head_dim)
        return _linear(mixed, "attn.o_proj", weights, tap)

    def mlp(self, x: Tensor, weights: Block, tap: Tap | None = None) -> Tensor:
        """What the feed-forward module adds to the residual stream."""
        h = rms_norm(x, weights["mlp.norm"], self.config.rms_norm_eps)
        gate = _linear(h, "mlp.gate_proj", weights, tap)
        up = _linear(h, "mlp.up_proj", weights, tap)
        return _linear(functional.silu(gate) * up, "mlp.down_proj", weights, tap)


def _repeatable_attention(device: str) -> AbstractContextManager[None]:
    """On a GPU the fused kernels add up gradients in any order; the plain one does not."""
    return nullcontext() if device == "cpu" else sdpa_kernel(SDPBackend.MATH)


def _linear(x: Tensor, suffix: str, weights: Block, tap: Tap | None) -> Tensor:
    if tap is not None:
        tap(suffix, x.reshape(-1, x.shape[-1]))
    weight = weights[suffix]
    # A quantized projection may compute in its own way.
    return weight(x) if callable(weight) else functional.linear(x, weight)


def embed(source: Source, tokens: Tensor) -> Tensor:
    """States (batch, positions, hidden), float32, on the CPU, of token ids on the CPU."""
    table = source.stored(hf_name_of(EMBED))
    return functional.embedding(tokens, table).float()


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Final norm and logits matrix in float32 on a device."""

    gain: Tensor
    matrix: Tensor
    eps: float

    @staticmethod
    def load(source: Source, device: str) -> Head:
        """The head of a checkpoint."""
        gain = source.weight(hf_name_of(FINAL_NORM), device)
        matrix = source.weight(source.head_name(), device)
        return Head(gain, matrix, source.config.rms_norm_eps)

    def logits(self, x: Tensor) -> Tensor:
        """(batch, positions, vocabulary) of final states."""
        return functional.linear(rms_norm(x, self.gain, self.eps), self.matrix)

    def loss_sum(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Sum over predicted tokens of -ln p in nats; the first token of a window is given."""
        logits = self.logits(x[:, :-1])
        flat = logits.reshape(-1, logits.shape[-1])
        return functional.cross_entropy(flat, tokens[:, 1:].reshape(-1), reduction="sum")
