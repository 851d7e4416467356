"""EoRA adapters as an estimate: two 8-bit linears beside each projection of the blocks.

h = W x + B (A x) with A of shape (rank, n_in) and B of (n_out, rank), both in the byte packing with
one scale per output channel; the products are added to the projection's output.
"""

from __future__ import annotations

from dataclasses import replace

from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import DType, Kind, Op, OpKind, Program, TensorSpec

ADAPTER_MARK = ".eora_"  # in the names of adapter weights


def with_adapters(program: Program, rank: int) -> Program:
    """The program with an adapter of `rank` at every projection of the blocks."""
    tensors, ops = dict(program.tensors), []
    for op in program.ops:
        ops.append(op)
        if op.kind is OpKind.LINEAR and op.layer >= 0:
            specs, added = _adapter(program, op, rank)
            ops += added
            tensors |= {spec.name: spec for spec in specs}
    shifts = tensors["linear.shift"]
    linears = sum(op.kind is OpKind.LINEAR for op in ops)
    tensors["linear.shift"] = replace(shifts, shape=(linears,))
    return replace(program, tensors=tensors, ops=tuple(ops))


def _adapter(program: Program, op: Op, rank: int) -> tuple[list[TensorSpec], list[Op]]:
    layout, base = program.layout_of(op), program.weight_of(op).name.removesuffix(".weight")
    output = op.outputs[0]
    down, up = f"{base}.eora_a.weight", f"{base}.eora_b.weight"
    low, sum_ = "eora.low", f"{output}.eora"
    specs = [
        _weight(down, rank, layout.columns),
        _weight(up, layout.rows, rank),
        TensorSpec(low, Kind.ACTIVATION, DType.I32, (rank,)),
        TensorSpec(sum_, Kind.ACTIVATION, DType.I32, (layout.rows,)),
    ]

    def linear(part: str, inputs: tuple[str, ...], result: str) -> Op:
        name, role = f"{op.id}.eora_{part}", f"{op.role}.eora_{part}"
        names = (*inputs, "linear.shift")
        return Op(name, role, op.layer, OpKind.LINEAR, names, (result,), op.mode)

    return specs, [
        linear("a", (*op.inputs[:2], down), low),
        linear("b", (low, up), sum_),
        Op(
            f"{op.id}.eora_add",
            f"{op.role}.eora_add",
            op.layer,
            OpKind.RESIDUAL_ADD,
            (output, sum_),
            (output,),
        ),
    ]


def _weight(name: str, rows: int, columns: int) -> TensorSpec:
    layout = WeightLayout(Packing.BYTE, rows, columns, columns)
    return TensorSpec(name, Kind.WEIGHT, DType.U8, (rows, columns), layout)
