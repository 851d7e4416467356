"""Executes the ops of a program on a `Store`, whatever stands behind it.

The byte-true machine (sim/machine.py) and the fast vectorised session (sim/session.py) differ in
where values live, not in what ops mean: both run through `run_op`. Values have a leading token
axis; a step of the machine has one token, a prefill of the session many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from sim import fast_arithmetic, ops
from sim.ops import AttentionConstants, Ints, KVCache
from toolchain.model.program import ActMode, Arithmetic, Op, OpKind, Program


class Store(Protocol):
    """Where tensors live. Axes: T tokens, then the tensor's shape."""

    def read(self, name: str) -> Ints:
        """An activation (T, ...)."""
        ...

    def constant(self, name: str) -> Ints:
        """A CONST tensor."""
        ...

    def write(self, op: Op, name: str, value: Ints) -> None:
        """Store an output of `op`."""
        ...

    def clobber(self, op: Op) -> None:
        """Spoil the scratch buffers that the kernel of `op` uses."""
        ...

    def embedding_rows(self, op: Op, tokens: Ints) -> Ints:
        """Rows (T, hidden) of the packed embedding."""
        ...

    def linear(self, op: Op, q: Ints, scale: Ints, scaling: int) -> Ints:
        """The product with the packed matrix of `op`: (T, n_out); scaling: numerics 2."""
        ...

    def scales_before(self, op: Op) -> tuple[Ints, Ints] | None:
        """Scale words (KV,) of k and v of the last cached position; None when there is none."""
        ...

    def append_rows(self, op: Op, rows: KVCache) -> None:
        """Write the T newest rows of the KV cache of `op.layer`."""
        ...

    def cache_rows(self, op: Op, length: int) -> KVCache:
        """Rows 0..length-1 of the KV cache of `op.layer`."""
        ...


@dataclass(frozen=True, slots=True)
class _Step:
    op: Op
    program: Program
    store: Store
    tokens: Ints
    position: int

    @property
    def mode(self) -> ActMode:
        assert self.op.mode is not None, f"{self.op.id} has no activation mode"
        return self.op.mode

    def input(self, index: int) -> Ints:
        return self.store.read(self.op.inputs[index])

    def heads(self, index: int) -> Ints:
        x = self.input(index)
        return x.reshape(x.shape[0], -1, self.program.shape.head_dim)

    def rope_rows(self) -> Ints:
        table = self.store.constant(self.op.inputs[-1])
        return table[self.position : self.position + len(self.tokens)]

    def output(self, *values: Ints) -> None:
        for name, value in zip(self.op.outputs, values, strict=True):
            self.store.write(self.op, name, value)


@dataclass(frozen=True, slots=True)
class Steps:
    """What the arithmetic of a program decides."""

    rows: ops.Rows
    scores: ops.Scores
    power_of_two: Callable[[Ints, Ints, int], Ints]
    silu: ops.Gate


_STEPS = {
    Arithmetic.PRECISE: Steps(ops.requantize_rows, ops.log2_scores, ops.power_of_two, ops.silu),
    Arithmetic.FAST: Steps(
        fast_arithmetic.requantize_rows,
        fast_arithmetic.log2_scores,
        fast_arithmetic.power_of_two,
        fast_arithmetic.silu,
    ),
}


def steps_of(arithmetic: Arithmetic) -> Steps:
    """What it decides."""
    return _STEPS[arithmetic]


def run_op(op: Op, program: Program, store: Store, tokens: Ints, position: int) -> None:
    """Execute one op for `tokens` (T,) at positions position .. position + T - 1."""
    store.clobber(op)
    _HANDLERS[op.kind](_Step(op, program, store, tokens, position))


def _embed(step: _Step) -> None:
    requant = step.store.constant(step.op.inputs[1])[step.tokens]
    step.output(ops.embed(step.store.embedding_rows(step.op, step.tokens), requant))


def _rms_norm(step: _Step) -> None:
    gamma = step.store.constant(step.op.inputs[1])
    step.output(*ops.rms_norm(step.input(0), gamma, step.op.attrs["eps"], step.mode))


def _linear(step: _Step) -> None:
    scaling = int(step.store.constant(step.op.inputs[3])[step.op.attrs["shift_index"]])
    step.output(step.store.linear(step.op, step.input(0), step.input(1), scaling))


def _rope(step: _Step) -> None:
    step.output(*ops.rope(step.heads(0), step.rope_rows()))


def _kv_append(step: _Step) -> None:
    k, k_scale = ops.rope(step.heads(0), step.rope_rows())
    v, v_scale = ops.quantize_heads(step.heads(1))
    of_k, of_v = step.store.scales_before(step.op) or (None, None)
    rows = KVCache(k, ops.pack_scale(k_scale, of_k), v, ops.pack_scale(v_scale, of_v))
    step.store.append_rows(step.op, rows)


def _attention(step: _Step) -> None:
    constants = AttentionConstants(**step.op.attrs)
    cache = step.store.cache_rows(step.op, step.position + len(step.tokens))
    steps = steps_of(step.program.arithmetic)
    power = partial(steps.power_of_two, step.store.constant(step.op.inputs[-1]))
    queries = step.input(0), step.input(1)
    step.output(*ops.attention(queries, cache, power, constants, steps.scores))


def _merge(step: _Step) -> None:
    step.output(*ops.attention_merge(step.input(0), step.input(1), step.mode))


def _residual(step: _Step) -> None:
    step.output(ops.residual_add(step.input(0), step.input(1)))


def _swiglu(step: _Step) -> None:
    table = step.store.constant(step.op.inputs[-1])
    gate, up = step.input(0), step.input(1)
    step.output(*ops.swiglu(gate, up, table, step.mode, steps_of(step.program.arithmetic).silu))


def _quantize(step: _Step) -> None:
    step.output(*ops.quantize_vector(step.input(0), step.mode))


def _gather(step: _Step) -> None:
    order = step.store.constant(step.op.inputs[1])
    step.output(ops.gather(step.input(0), order))


def _argmax(step: _Step) -> None:
    step.output(ops.argmax(step.input(0))[:, np.newaxis])


_HANDLERS: dict[OpKind, Callable[[_Step], None]] = {
    OpKind.EMBED: _embed,
    OpKind.RMSNORM: _rms_norm,
    OpKind.LINEAR: _linear,
    OpKind.ROPE: _rope,
    OpKind.KV_APPEND: _kv_append,
    OpKind.ATTENTION: _attention,
    OpKind.ATTENTION_MERGE: _merge,
    OpKind.RESIDUAL_ADD: _residual,
    OpKind.SWIGLU: _swiglu,
    OpKind.ARGMAX: _argmax,
    OpKind.QUANTIZE: _quantize,
    OpKind.GATHER: _gather,
}
