"""The integer program: one decode step as ops in execution order, and every integer constant.

A `Program` knows shapes, types and constants, and no address. Ops of equal blocks share their
*role* ("attn.q_proj"), their code and the names of their activation buffers; their *id*
("l03.attn.q_proj") is unique and is the same in plans, C comments, golden files and reports.
The arithmetic of every op kind is docs/numerics.md, executed by sim/ops.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import WeightInts, WeightLayout
from toolchain.model.requant_table import TABLE_ROWS, RequantLayout

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MatrixLayout = WeightLayout | EngineLayout
Layout = MatrixLayout | RequantLayout

# The shift is the lower part of an element of `linear.shift`, see linear_scaling.py.
SHIFT_WIDTH = 4
SHIFT_BITS = (1 << SHIFT_WIDTH) - 1
HEADROOM_AT, HEADROOM_BITS = SHIFT_WIDTH, 15
NARROW_AT, NARROW_BITS = 24, 3
# Fast arithmetic: rs(acc, drop) has 18 bits and as many more as the factor lacks of 12.
FAST_SUM_BITS, FAST_FACTOR_BITS = 18, 12
PROMPT = ".prompt"  # ends the name of the second copy of a linear's words
_OF_A_BLOCK = re.compile(r"l\d+\.")


class DType(StrEnum):
    """Element types of tensors; all little-endian in memory."""

    I8 = "int8"
    U8 = "uint8"
    I16 = "int16"
    U16 = "uint16"
    I32 = "int32"
    U32 = "uint32"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.value.lstrip("uint")) // 8


class Kind(StrEnum):
    """What a tensor is, which decides where it may live."""

    WEIGHT = "weight"  # packed matrix, read-only
    CONST = "const"  # plain read-only array
    STATE = "state"  # KV cache, survives a step
    ACTIVATION = "activation"  # lives between ops of one step


class ActMode(StrEnum):
    """Width of quantized activations (docs/numerics.md 1)."""

    A8 = "a8"
    A16 = "a16"

    @property
    def dtype(self) -> DType:
        """Element type of the quantized vector."""
        return DType.I8 if self is ActMode.A8 else DType.I16


class Arithmetic(StrEnum):
    """How products are rounded (docs/numerics.md 11): a choice for the whole program."""

    PRECISE = "precise"
    FAST = "fast"


def fast_drop(scaling: int) -> int:
    """Bits that fast arithmetic rounds from accumulators, by their element of linear.shift."""
    spare = (scaling >> HEADROOM_AT & HEADROOM_BITS) + (scaling >> NARROW_AT & NARROW_BITS)
    return max(31 - FAST_SUM_BITS - spare, 0)


def prompt_name(weight: str) -> str:
    """Name of the second copy, for prompts, of the words called `weight`."""
    return weight.removesuffix(".weight") + PROMPT


def is_prompt_words(spec: TensorSpec) -> bool:
    """Whether a tensor is the second copy of a linear's words."""
    return spec.kind is Kind.WEIGHT and spec.name.endswith(PROMPT)


class OpKind(StrEnum):
    """The ops; one function of sim/ops.py and one public C kernel each."""

    EMBED = "embed"
    RMSNORM = "rmsnorm"
    LINEAR = "linear"
    ROPE = "rope"
    KV_APPEND = "kv_append"
    ATTENTION = "attention"
    ATTENTION_MERGE = "attention_merge"
    RESIDUAL_ADD = "residual_add"
    SWIGLU = "swiglu"
    ARGMAX = "argmax"
    QUANTIZE = "quantize_vector"
    GATHER = "gather"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type and shape of a tensor; `layout` is set for packed tensors only.

    Weights of a linear on the engine are two tensors: its words, a WEIGHT, and the table that the
    cores read, a CONST. A second copy of the words, for prompts, is a WEIGHT that no op reads.
    """

    name: str
    kind: Kind
    dtype: DType
    shape: tuple[int, ...]
    layout: Layout | None = None

    @property
    def size(self) -> int:
        """Stored bytes, asked of the packer for weights."""
        return self.layout.size if self.layout else prod(self.shape) * self.dtype.itemsize

    @property
    def in_blocks(self) -> bool:
        """Whether it belongs to a block, or to all of them as the KV cache does."""
        return self.kind is Kind.STATE or _OF_A_BLOCK.match(self.name) is not None

    @property
    def scale_size(self) -> int:
        """The part of `size` that holds requantization words and multipliers."""
        if isinstance(self.layout, RequantLayout):
            return self.layout.size - self.layout.records * TABLE_ROWS * self.layout.tail
        return self.layout.scale_size if isinstance(self.layout, WeightLayout) else 0


@dataclass(frozen=True, slots=True)
class Op:
    """One step of the schedule. `attrs` are the integer constants compiled into the code."""

    id: str
    role: str
    layer: int  # -1 outside the blocks
    kind: OpKind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    mode: ActMode | None = None  # of the quantized vector that the op writes (or a linear reads)
    attrs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProgramShape:
    """The dimensions that the generated code needs."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int

    @property
    def cache_rows(self) -> int:
        """Rows of one block's KV cache: sums over values are over four positions at a time."""
        return (self.context + 3) // 4 * 4


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Tensors by name, ops in order, and the constants' values.

    `constants` maps a WEIGHT name to its `WeightInts` and a CONST name to its array; it is empty
    in a program that was read back from a bundle, whose constants are the blobs' bytes.
    """

    shape: ProgramShape
    residual_bits: int  # fraction bits of the residual stream (FR)
    tensors: Mapping[str, TensorSpec]
    ops: tuple[Op, ...]
    constants: Mapping[str, WeightInts | npt.NDArray[np.generic]]
    arithmetic: Arithmetic = Arithmetic.PRECISE

    def weight_of(self, op: Op) -> TensorSpec:
        """The packed matrix that a LINEAR or EMBED op reads."""
        specs = (self.tensors[name] for name in op.inputs)
        return next(spec for spec in specs if spec.kind is Kind.WEIGHT)

    def layout_of(self, op: Op) -> WeightLayout:
        """The layout of the packed matrix that the cores read in a LINEAR or EMBED op."""
        layout = self.weight_of(op).layout
        assert isinstance(layout, WeightLayout), f"{op.id} is not a matrix for the cores"
        return layout

    def engine_layout_of(self, op: Op) -> EngineLayout | None:
        """The words of a LINEAR op that the engine computes; None when the cores do."""
        layout = self.weight_of(op).layout if op.kind is OpKind.LINEAR else None
        return layout if isinstance(layout, EngineLayout) else None

    def prompt_words_of(self, op: Op) -> TensorSpec | None:
        """The second copy of the words of a LINEAR op, which only prompts read."""
        return self.tensors.get(prompt_name(self.weight_of(op).name))

    def words_of(self, op: Op, layout: EngineLayout) -> TensorSpec:
        """The words of a LINEAR op in one of the layouts that it has."""
        copy = self.prompt_words_of(op)
        return copy if copy and copy.layout == layout else self.weight_of(op)
