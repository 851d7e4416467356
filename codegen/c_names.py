"""How names, types and places of a program are spelled in generated C and in its comments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memory_planner.plan import Placement
from toolchain.model.program import DType, Op, OpKind, TensorSpec

CTYPES = {
    DType.I8: "int8_t",
    DType.U8: "uint8_t",
    DType.I16: "int16_t",
    DType.U16: "uint16_t",
    DType.I32: "int32_t",
    DType.U32: "uint32_t",
}

BLOCK_ARRAYS = {OpKind.RMSNORM: "gamma", OpKind.GATHER: "order"}  # their second input


def identifier(name: str) -> str:
    """A C identifier from a tensor, role or region name."""
    return re.sub(r"\W", "_", name)


def mode_suffix(op: Op) -> str:
    """Element type of the op's quantized vector in kernel names, or empty."""
    if op.mode is None:
        return ""
    return {DType.I8: "s8", DType.I16: "s16"}[op.mode.dtype]


def block_array(op: Op) -> str:
    """Member of block_weights that says where the plain array of an op of a block lies."""
    return f"{identifier(op.role)}_{BLOCK_ARRAYS[op.kind]}"


def dimensions(shape: Sequence[int]) -> str:
    """`[rows][columns]`."""
    return "".join(f"[{n}]" for n in shape)


def place_text(placement: Placement) -> str:
    """`region+offset`, the offset counted from the region's base as in plan.json."""
    return f"{placement.region}+0x{placement.offset:x}"


def describe(spec: TensorSpec, placement: Placement) -> str:
    """Name, type, shape and place of a plain tensor."""
    kind = CTYPES[spec.dtype].removesuffix("_t")
    return f"{spec.name} {kind}{dimensions(spec.shape)} at {place_text(placement)}"
