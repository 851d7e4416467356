"""The same program with some of its linears on the engine: other layouts, the same integers.

A linear on the engine keeps its op, its inputs and its output. Its matrix becomes the engine's
words, and `<op>.requant` holds what the cores need to finish it: the fifth input of the op. A
head that is tied with the embedding becomes a matrix of its own, because the embedding reads rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from toolchain.model.engine_packing import EngineLayout
from toolchain.model.lazy_numpy import np
from toolchain.model.names import EMBED, HEAD
from toolchain.model.packing import WeightInts, WeightLayout
from toolchain.model.program import DType, Kind, Op, OpKind, Program, TensorSpec
from toolchain.model.requant_table import requant_layout

if TYPE_CHECKING:
    import numpy.typing as npt

    Constant = WeightInts | npt.NDArray[np.generic]


def table_name(weight: str) -> str:
    """Name of the requantization table that goes with the words called `weight`."""
    return weight.removesuffix(".weight") + ".requant"


def is_tied(program: Program) -> bool:
    """Whether the head reads the embedding's matrix."""
    return f"{HEAD}.weight" not in program.tensors


def with_engine(program: Program, layouts: Mapping[str, EngineLayout]) -> Program:
    """`program`, all of whose linears run on the cores, with those of `layouts` on the engine.

    `layouts` are by op id; their shapes are those of the matrices that they replace. Linears that
    read the same matrix must all be there, with the same layout.
    """
    if not layouts:
        return program
    if HEAD in layouts and is_tied(program):
        program = _untied(program)
    weights = {program.weight_of(op).name: op for op in program.ops if op.id in layouts}
    tensors: dict[str, TensorSpec] = {}
    for name, spec in program.tensors.items():
        op = weights.get(name)
        tensors[name] = replace(spec, layout=layouts[op.id]) if op else spec
    constants: dict[str, Constant] = dict(program.constants)
    for weight, op in weights.items():
        table, name = requant_layout(layouts[op.id]), table_name(weight)
        shape = (table.records, table.record_size)
        tensors[name] = TensorSpec(name, Kind.CONST, DType.U8, shape, table)
        if weight in constants:
            constants[name] = constants[weight]
    ops = tuple(_on_engine(program, op) if op.id in layouts else op for op in program.ops)
    return replace(program, tensors=tensors, ops=ops, constants=constants)


def _on_engine(program: Program, op: Op) -> Op:
    return replace(op, inputs=(*op.inputs, table_name(program.weight_of(op).name)))


def _untied(program: Program) -> Program:
    """The head with a matrix of its own; the embedding's one loses the requantization words."""
    embed, head = f"{EMBED}.weight", f"{HEAD}.weight"
    spec = program.tensors[embed]
    assert isinstance(spec.layout, WeightLayout)
    tensors: dict[str, TensorSpec] = {}
    plain_layout = replace(spec.layout, requant=False)
    for name, other in program.tensors.items():
        if name == embed:
            tensors[head] = replace(spec, name=head)
        tensors[name] = replace(spec, layout=plain_layout) if name == embed else other
    constants: dict[str, Constant] = dict(program.constants)
    weights = constants.get(embed)
    if isinstance(weights, WeightInts):
        constants[head] = weights
        plain = np.zeros_like(weights.requant)
        constants[embed] = WeightInts(weights.values, weights.multipliers, plain)
    ops = tuple(_with_own_matrix(op, embed, head) for op in program.ops)
    return replace(program, tensors=tensors, ops=ops, constants=constants)


def _with_own_matrix(op: Op, embed: str, head: str) -> Op:
    if op.kind is not OpKind.LINEAR or embed not in op.inputs:
        return op
    return replace(op, inputs=tuple(head if name == embed else name for name in op.inputs))
