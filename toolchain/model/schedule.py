"""The ops of one decode step in execution order, and the tensors that they connect.

Activation tensors carry no layer in their name: equal blocks share buffers. The order of LINEAR
ops is the order of `linear.shift`: blocks first, lm_head last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from toolchain.model.packing import WeightLayout
from toolchain.model.program import (
    ActMode,
    Arithmetic,
    DType,
    Kind,
    MatrixLayout,
    Op,
    OpKind,
    ProgramShape,
    TensorSpec,
)

KV_TENSORS = ("kv.k", "kv.k_scale", "kv.v", "kv.v_scale")
LINEARS_PER_BLOCK = 7
Names = tuple[str, ...]
Mode = ActMode | None
Layouts = Mapping[str, WeightLayout] | Mapping[str, MatrixLayout]


# The table of SwiGLU and its entries, and those of lut.exp2.
GATE_TABLES = {
    Arithmetic.PRECISE: ("lut.sigmoid", 257),
    Arithmetic.FAST: ("lut.silu", 1024),
}
POWERS = {Arithmetic.PRECISE: 256, Arithmetic.FAST: 2049}


class Modes(Protocol):
    """The activation width of each site, and the arithmetic."""

    @property
    def arithmetic(self) -> Arithmetic:
        """That of the program."""
        ...

    def mode(self, site: str) -> ActMode:
        """A8 or A16."""
        ...


def build_schedule(
    shape: ProgramShape, modes: Modes, eps: int, attention: Mapping[str, int], tied: bool
) -> tuple[Op, ...]:
    """All ops of a step; `eps` and `attention` are the integer constants of numerics 4 and 6."""
    ops = [Op("embed", "embed", -1, OpKind.EMBED, ("embed.weight", "embed.requant"), ("resid",))]
    for layer in range(shape.layers):
        ops += _block(layer, modes, eps, attention)
    head = "embed.weight" if tied else "lm_head.weight"
    ops.append(_norm("final.norm", "final.norm", -1, modes.mode("head_in"), eps))
    ops.append(
        Op(
            "lm_head",
            "lm_head",
            -1,
            OpKind.LINEAR,
            ("final.norm.q", "final.norm.scale", head, "linear.shift"),
            ("logits",),
            modes.mode("head_in"),
            {"shift_index": LINEARS_PER_BLOCK * shape.layers},
        )
    )
    ops.append(Op("argmax", "argmax", -1, OpKind.ARGMAX, ("logits",), ("next",)))
    return tuple(ops)


def _norm(name: str, role: str, layer: int, mode: ActMode, eps: int) -> Op:
    inputs = ("resid", f"{name}.gamma")
    outputs = (f"{role}.q", f"{role}.scale")
    return Op(name, role, layer, OpKind.RMSNORM, inputs, outputs, mode, {"eps": eps})


def _block(layer: int, modes: Modes, eps: int, attention: Mapping[str, int]) -> list[Op]:
    prefix = f"l{layer:02d}."
    first_shift = LINEARS_PER_BLOCK * layer
    linears = iter(range(first_shift, first_shift + LINEARS_PER_BLOCK))

    def linear(role: str, source: str, output: str, site: str) -> Op:
        inputs = (f"{source}.q", f"{source}.scale", f"{prefix}{role}.weight", "linear.shift")
        attrs = {"shift_index": next(linears)}
        mode = modes.mode(site)
        return Op(prefix + role, role, layer, OpKind.LINEAR, inputs, (output,), mode, attrs)

    def op(role: str, kind: OpKind, inputs: Names, outputs: Names, mode: Mode = None) -> Op:
        return Op(prefix + role, role, layer, kind, inputs, outputs, mode)

    roped = ("attn.rope.q", "attn.rope.scale")
    merged = ("attn.merge.q", "attn.merge.scale")
    hidden = ("mlp.swiglu.q", "mlp.swiglu.scale")
    sums = ("attn.acc", "attn.stats")
    return [
        _norm(f"{prefix}attn.norm", "attn.norm", layer, modes.mode("attn_in"), eps),
        linear("attn.q_proj", "attn.norm", "attn.q", "attn_in"),
        linear("attn.k_proj", "attn.norm", "attn.k", "attn_in"),
        linear("attn.v_proj", "attn.norm", "attn.v", "attn_in"),
        op("attn.rope", OpKind.ROPE, ("attn.q", "rope.table"), roped),
        op("attn.kv_append", OpKind.KV_APPEND, ("attn.k", "attn.v", "rope.table"), KV_TENSORS),
        replace(
            op("attn.attention", OpKind.ATTENTION, (*roped, *KV_TENSORS, "lut.exp2"), sums),
            attrs=attention,
        ),
        op("attn.merge", OpKind.ATTENTION_MERGE, sums, merged, modes.mode("o_in")),
        linear("attn.o_proj", "attn.merge", "attn.o", "o_in"),
        op("attn.residual", OpKind.RESIDUAL_ADD, ("resid", "attn.o"), ("resid",)),
        _norm(f"{prefix}mlp.norm", "mlp.norm", layer, modes.mode("mlp_in"), eps),
        linear("mlp.gate_proj", "mlp.norm", "mlp.gate", "mlp_in"),
        linear("mlp.up_proj", "mlp.norm", "mlp.up", "mlp_in"),
        op(
            "mlp.swiglu",
            OpKind.SWIGLU,
            ("mlp.gate", "mlp.up", GATE_TABLES[modes.arithmetic][0]),
            hidden,
            modes.mode("down_in"),
        ),
        linear("mlp.down_proj", "mlp.swiglu", "mlp.down", "down_in"),
        op("mlp.residual", OpKind.RESIDUAL_ADD, ("resid", "mlp.down"), ("resid",)),
    ]


def build_tensors(shape: ProgramShape, modes: Modes, layouts: Layouts) -> dict[str, TensorSpec]:
    """Specs of all tensors; `layouts` by linear id, with "embed" for the embedding."""
    specs = [
        *_constant_specs(shape, modes.arithmetic),
        *_state_specs(shape),
        *_activation_specs(shape),
        *_quantized_specs(shape, modes),
    ]
    for name, layout in layouts.items():
        shape2 = (layout.rows, layout.columns)
        specs.append(TensorSpec(f"{name}.weight", Kind.WEIGHT, DType.U8, shape2, layout))
    return {spec.name: spec for spec in specs}


def _constant_specs(shape: ProgramShape, arithmetic: Arithmetic) -> list[TensorSpec]:
    gate_table, entries = GATE_TABLES[arithmetic]
    linears = LINEARS_PER_BLOCK * shape.layers + 1
    norms = [f"l{i:02d}.{part}.norm" for i in range(shape.layers) for part in ("attn", "mlp")]
    return [
        TensorSpec("embed.requant", Kind.CONST, DType.U32, (shape.vocab,)),
        TensorSpec("linear.shift", Kind.CONST, DType.U32, (linears,)),
        TensorSpec("rope.table", Kind.CONST, DType.I16, (shape.context, shape.head_dim)),
        TensorSpec("lut.exp2", Kind.CONST, DType.U16, (POWERS[arithmetic],)),
        TensorSpec(gate_table, Kind.CONST, DType.U16, (entries,)),
        *(
            TensorSpec(f"{name}.gamma", Kind.CONST, DType.I16, (shape.hidden,))
            for name in [*norms, "final.norm"]
        ),
    ]


def _state_specs(shape: ProgramShape) -> list[TensorSpec]:
    rows = (shape.layers, shape.cache_rows, shape.kv_heads * shape.head_dim)
    scales = (shape.layers, shape.cache_rows, shape.kv_heads)
    return [
        TensorSpec("kv.k", Kind.STATE, DType.I8, rows),
        TensorSpec("kv.k_scale", Kind.STATE, DType.I32, scales),
        TensorSpec("kv.v", Kind.STATE, DType.I8, rows),
        TensorSpec("kv.v_scale", Kind.STATE, DType.I32, scales),
    ]


def _activation_specs(shape: ProgramShape) -> list[TensorSpec]:
    def vector(name: str, *dims: int, dtype: DType = DType.I32) -> TensorSpec:
        return TensorSpec(name, Kind.ACTIVATION, dtype, dims)

    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        vector("resid", shape.hidden),
        vector("attn.q", queries),
        vector("attn.k", keys),
        vector("attn.v", keys),
        vector("attn.rope.q", shape.heads, shape.head_dim, dtype=DType.I8),
        vector("attn.rope.scale", shape.heads, 2),
        vector("attn.acc", shape.heads, shape.head_dim),
        vector("attn.stats", shape.heads, 3),
        vector("attn.o", shape.hidden),
        vector("mlp.gate", shape.ffn),
        vector("mlp.up", shape.ffn),
        vector("mlp.down", shape.hidden),
        vector("logits", shape.vocab),
        vector("next", 1),
    ]


def _quantized_specs(shape: ProgramShape, modes: Modes) -> list[TensorSpec]:
    sites = [
        ("attn.norm", "attn_in", shape.hidden),
        ("attn.merge", "o_in", shape.heads * shape.head_dim),
        ("mlp.norm", "mlp_in", shape.hidden),
        ("mlp.swiglu", "down_in", shape.ffn),
        ("final.norm", "head_in", shape.hidden),
    ]
    specs = []
    for name, site, size in sites:
        dtype = modes.mode(site).dtype
        specs.append(TensorSpec(f"{name}.q", Kind.ACTIVATION, dtype, (size,)))
        specs.append(TensorSpec(f"{name}.scale", Kind.ACTIVATION, DType.I32, (2,)))
    return specs
