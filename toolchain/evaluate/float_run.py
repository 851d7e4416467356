"""The forward pass of a `Network` in NumPy, float32: the float run without torch.

Reference: the Llama decoder of transformers (RMSNorm, rotary embedding with split halves, grouped
query attention, SwiGLU). Everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from toolchain.evaluate.network import Network, dense
from toolchain.evaluate.scoring import F32
from toolchain.model.names import EMBED, FINAL_NORM, HEAD

Probe = Callable[[str, F32], None]  # op id of a projection, its input (T, n_in)


class FloatSession:
    """One sequence: weights, cached keys and values, position. `forward` appends tokens."""

    def __init__(self, network: Network, probe: Probe | None = None) -> None:
        self.shape = network.shape
        self.position = 0  # may be set to a smaller value: the tokens behind it are forgotten
        self.weights = {name: dense(matrix) for name, matrix in network.matrices.items()}
        if network.matrices[HEAD] is network.matrices[EMBED]:
            self.weights[HEAD] = self.weights[EMBED]
        self._norms = {name: gamma.astype(np.float32) for name, gamma in network.norms.items()}
        self._eps = np.float32(network.eps)
        self._cos = network.cos.astype(np.float32)
        self._sin = network.sin.astype(np.float32)
        self._probe = probe
        empty: F32 = np.empty((0, self.shape.kv_heads, self.shape.head_dim), np.float32)
        self._keys: list[F32] = [empty] * self.shape.layers
        self._values: list[F32] = [empty] * self.shape.layers

    @property
    def context(self) -> int:
        """Positions that a sequence may have."""
        return self.shape.context

    def forward(self, tokens: npt.ArrayLike) -> F32:
        """Logits (T, vocab) of `tokens` appended at the current position.

        Raises IndexError when they do not fit the context.
        """
        ids = np.asarray(tokens, np.int64)
        if self.position + len(ids) > self.shape.context:
            raise IndexError("the sequence is longer than the context of the model")
        x = self.weights[EMBED][ids]
        for layer in range(self.shape.layers):
            x = self.block(layer, x)
        self.position += len(ids)
        return self.head(x)

    def block(self, layer: int, x: F32) -> F32:
        """Residual stream (T, hidden) behind block `layer`."""
        name = f"l{layer:02d}"
        if f"{name}.attn.o_proj" in self.weights:  # a build goes without silent parts
            x = x + self._attention(layer, self._norm(f"{name}.attn.norm", x))
        if f"{name}.mlp.down_proj" not in self.weights:
            return x
        y = self._norm(f"{name}.mlp.norm", x)
        gate, up = (self._linear(f"{name}.mlp.{part}_proj", y) for part in ("gate", "up"))
        # tanh form of the sigmoid: it cannot overflow.
        hidden = gate * (np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * gate)) * up
        return x + self._linear(f"{name}.mlp.down_proj", hidden)

    def head(self, x: F32) -> F32:
        """Logits (T, vocab) of the residual stream behind the last block."""
        return self._linear(HEAD, self._norm(FINAL_NORM, x))

    def _linear(self, name: str, x: F32) -> F32:
        if self._probe is not None:
            self._probe(name, x)
        y: F32 = x @ self.weights[name].T
        return y

    def _norm(self, name: str, x: F32) -> F32:
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        y: F32 = x / np.sqrt(mean + self._eps) * self._norms[name]
        return y

    def _attention(self, layer: int, x: F32) -> F32:
        name, shape, start = f"l{layer:02d}.attn", self.shape, self.position
        heads = (len(x), -1, shape.head_dim)
        q, k, v = (self._linear(f"{name}.{p}_proj", x).reshape(heads) for p in "qkv")
        keys: F32 = np.concatenate([self._keys[layer][:start], self._rotate(k)])
        values: F32 = np.concatenate([self._values[layer][:start], v])
        self._keys[layer], self._values[layer] = keys, values
        rows = self._rotate(q).reshape(len(x), shape.kv_heads, -1, shape.head_dim)
        scores = rows.transpose(1, 2, 0, 3) @ keys.transpose(1, 2, 0)[:, None]  # (kv, h/kv, T, U)
        scores *= np.float32(shape.head_dim**-0.5)
        scores += np.triu(np.full((len(x), len(keys)), -np.inf, np.float32), k=start + 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        weights: F32 = scores / scores.sum(axis=-1, keepdims=True)
        mixed: F32 = weights @ values.transpose(1, 0, 2)[:, None]
        return self._linear(f"{name}.o_proj", mixed.transpose(2, 0, 1, 3).reshape(len(x), -1))

    def _rotate(self, x: F32) -> F32:
        rows = slice(self.position, self.position + len(x))
        cos, sin = self._cos[rows, None], self._sin[rows, None]
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
