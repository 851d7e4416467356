"""Matrices whose columns are stored in another order: their inputs are brought into that order.

GPTQ with desc_act puts inputs of like activations into one group of scales. The kernels read groups
of consecutive columns, so columns are stored group by group, and the vector is permuted: the same
products in another order, the same integers.

The order of down_proj costs nothing: gate_proj and up_proj make its input, and their rows are
permuted instead. Every other order is an op `gather` in front of the first linear that reads it,
one for all linears that read the same vector in the same orders, since blocks share code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from toolchain.model.lazy_numpy import np
from toolchain.model.program import DType, Kind, Op, OpKind, Program, TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

GATHER = ".gather"  # ends the id and the role of the op
MAX_INPUTS = 1 << 16  # positions are stored in 16 bits
# Linears that read one vector, in order of execution; down_proj's order is folded away.
_READERS = (
    ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    ("attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("lm_head",),
)

T = TypeVar("T", bound="np.generic")
Order: TypeAlias = "npt.NDArray[np.int64]"  # column j is input order[j]
Gathers = Mapping[str, str]  # role of a linear to the role in front of which its input is permuted


def folds(module: str) -> bool:
    """Whether the order of a linear's inputs is folded away, by its name."""
    return module.endswith(".mlp.down_proj")


def order_name(op_id: str) -> str:
    """Name of the table of the gather in front of a linear."""
    return f"{op_id}.order"


def column_order(groups: npt.NDArray[np.integer]) -> Order | None:
    """The stable order of inputs by group; None when they are in order."""
    if bool((np.diff(groups) >= 0).all()):
        return None
    return np.argsort(groups, kind="stable").astype(np.int64)


def original_order(columns: npt.NDArray[T], order: Order | None) -> npt.NDArray[T]:
    """The columns of a matrix by input, out of those that are stored."""
    if order is None:
        return columns
    result = np.empty_like(columns)
    result[:, order] = columns
    return result


def gathers_of(orders: Mapping[str, Order], layers: int) -> dict[str, str]:
    """What must be permuted, from the orders by op id; those that are missing are in order."""
    found: dict[str, str] = {}
    for roles in _READERS:
        leaders: dict[tuple[bytes, ...], str] = {}
        for role in roles:
            ids = _ids(role, layers)
            if any(op_id in orders for op_id in ids):
                key = tuple(orders[i].tobytes() if i in orders else b"" for i in ids)
                found[role] = leaders.setdefault(key, role)
    return found


def order_tables(
    orders: Mapping[str, Order], gathers: Gathers, columns: Mapping[str, int], layers: int
) -> dict[str, npt.NDArray[np.generic]]:
    """The tables of all gathers, uint16 (n_in,); `columns` are n_in by op id."""
    return {
        order_name(op_id): orders.get(op_id, np.arange(columns[op_id])).astype(np.uint16)
        for role in dict.fromkeys(gathers.values())
        for op_id in _ids(role, layers)
    }


def with_gathers(program: Program, gathers: Gathers) -> Program:
    """The program with a gather in front of each leader, whose result the linears of its role read.

    Of roles that read another vector than their leader nothing changes.
    """
    if not gathers:
        return program
    tensors, ops = dict(program.tensors), []
    sources = {op.role: op.inputs[0] for op in program.ops if op.kind is OpKind.LINEAR}
    for op in program.ops:
        leader = gathers.get(op.role) if op.kind is OpKind.LINEAR else None
        if leader is None or sources.get(leader) != op.inputs[0]:
            ops.append(op)
            continue
        vector = tensors[op.inputs[0]]
        base = program.weight_of(op).name.removesuffix(".weight")
        permuted, table = f"{leader}{GATHER}.q", order_name(base)
        if leader == op.role:
            tensors[permuted] = replace(vector, name=permuted)
            tensors[table] = TensorSpec(table, Kind.CONST, DType.U16, (prod(vector.shape),))
            name, role = op.id + GATHER, op.role + GATHER
            inputs, outputs = (op.inputs[0], table), (permuted,)
            ops.append(Op(name, role, op.layer, OpKind.GATHER, inputs, outputs, op.mode))
        ops.append(replace(op, inputs=(permuted, *op.inputs[1:])))
    return replace(program, tensors=tensors, ops=tuple(ops))


def gathers_in(program: Program) -> dict[str, str]:
    """The inverse, of the linears of the model itself."""
    roles = {role for group in _READERS for role in group}
    return {
        op.role: op.inputs[0].removesuffix(f"{GATHER}.q")
        for op in program.ops
        if op.kind is OpKind.LINEAR and op.role in roles and op.inputs[0].endswith(f"{GATHER}.q")
    }


def table_of(program: Program, op: Op) -> str | None:
    """The table by which the input of a linear was permuted."""
    vector = op.inputs[0]
    for other in program.ops:
        if other.kind is OpKind.GATHER and other.layer == op.layer and vector in other.outputs:
            return other.inputs[1]
    return None


def _ids(role: str, layers: int) -> list[str]:
    return [f"l{i:02d}.{role}" for i in range(layers)] if "." in role else [role]
