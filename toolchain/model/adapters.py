"""Low-rank adapters in a program: two 8-bit linears beside a projection whose integers stay.

h = W x + B (A x) with A of shape (rank, n_in) and B of (n_out, rank), both in the byte packing with
one scale per output channel. A x is quantized like any input of a linear (numerics 2), and the
second product is added to the projection's output. EoRA (arXiv 2410.21271) makes such factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from toolchain.model.names import HEAD
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import DType, Kind, Op, OpKind, Program, TensorSpec

ADAPTER_MARK = ".eora_"  # in the ids of everything that belongs to an adapter
ADAPTER_BITS = 8


def role_of(op_id: str) -> str:
    """The role of a projection, or of the head, by op id."""
    return op_id.partition(".")[2] or op_id


def is_of_head(name: str) -> bool:
    """Whether a tensor or an op is part of the head's adapter, which always stays on the chip."""
    return name.startswith(f"{HEAD}{ADAPTER_MARK}")


def is_adapter_op(op: Op) -> bool:
    """Whether an op belongs to an adapter."""
    return ADAPTER_MARK in op.id


def with_adapters(program: Program, ranks: Mapping[str, int]) -> Program:
    """The program with an adapter at every projection whose role (like attn.q_proj) is in `ranks`.

    The role of the head is lm_head.

    Elements of linear.shift for A and B follow those of the other linears, in the order of the ops.
    """
    if not ranks:
        return program
    tensors, ops = dict(program.tensors), []
    shifts = tensors["linear.shift"]
    count = prod(shifts.shape)
    for op in program.ops:
        ops.append(op)
        if op.kind is OpKind.LINEAR and op.role in ranks:
            specs, added = _adapter(program, op, ranks[op.role], count)
            ops += added
            tensors |= {spec.name: spec for spec in specs}
            count += 2
    tensors["linear.shift"] = replace(shifts, shape=(count,))
    return replace(program, tensors=tensors, ops=tuple(ops))


def adapter_ranks(program: Program) -> dict[str, int]:
    """The inverse: rank by role of the projections that have an adapter."""
    found = {}
    for op in program.ops:
        if op.kind is OpKind.LINEAR and op.role.endswith(f"{ADAPTER_MARK}a"):
            role = op.role.removesuffix(f"{ADAPTER_MARK}a")
            low = next((program.tensors.get(name) for name in op.outputs), None)
            found[role] = prod(low.shape) if low else 0
    return found


def _adapter(
    program: Program, op: Op, rank: int, first_shift: int
) -> tuple[list[TensorSpec], list[Op]]:
    assert op.mode is not None
    matrix, base = program.weight_of(op), program.weight_of(op).name.removesuffix(".weight")
    rows, columns = matrix.shape
    output = op.outputs[0]
    down, up = f"{base}{ADAPTER_MARK}a.weight", f"{base}{ADAPTER_MARK}b.weight"
    low, total = f"{op.role}{ADAPTER_MARK}low", f"{op.role}{ADAPTER_MARK}sum"
    vector = (f"{low}.q", f"{low}.scale")
    specs = [
        _weight(down, rank, columns),
        _weight(up, rows, rank),
        TensorSpec(low, Kind.ACTIVATION, DType.I32, (rank,)),
        TensorSpec(vector[0], Kind.ACTIVATION, op.mode.dtype, (rank,)),
        TensorSpec(vector[1], Kind.ACTIVATION, DType.I32, (2,)),
        TensorSpec(total, Kind.ACTIVATION, DType.I32, (rows,)),
    ]

    def part(
        name: str,
        kind: OpKind,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        attrs: Mapping[str, int],
    ) -> Op:
        mode = None if kind is OpKind.RESIDUAL_ADD else op.mode
        own = f"{ADAPTER_MARK}{name}"
        return Op(op.id + own, op.role + own, op.layer, kind, inputs, outputs, mode, attrs)

    a, b = ({"shift_index": first_shift + index} for index in (0, 1))
    first, second = (*op.inputs[:2], down, "linear.shift"), (*vector, up, "linear.shift")
    return specs, [
        part("a", OpKind.LINEAR, first, (low,), a),
        part("low", OpKind.QUANTIZE, (low,), vector, {}),
        part("b", OpKind.LINEAR, second, (total,), b),
        part("add", OpKind.RESIDUAL_ADD, (output, total), (output,), {}),
    ]


def _weight(name: str, rows: int, columns: int) -> TensorSpec:
    layout = WeightLayout(Packing.BYTE, rows, columns, columns)
    return TensorSpec(name, Kind.WEIGHT, DType.U8, (rows, columns), layout)
