"""Ops -> OpView: one generated function per op outside the blocks and per role inside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from math import prod

from codegen.c_names import (
    BLOCK_ARRAYS,
    block_array,
    describe,
    dimensions,
    identifier,
    mode_suffix,
)
from codegen.views import OpView, OutputView
from memory_planner.footprint import SCRATCH_PREFIX, TILE_PREFIX
from memory_planner.plan import Plan
from memory_planner.stream_slots import stream_points
from sim.prefill import parts_of
from toolchain.model.errors import InternalError
from toolchain.model.program import Kind, Op, OpKind, Program, TensorSpec
from toolchain.model.silent_parts import silent_in, whole_block

LINEAR_OPERANDS = 4  # vector, scale, weights, shift


def weight_table(op: Op) -> str:
    """The C object that tells where the weight of an op outside the blocks lies."""
    return "EMBEDDING" if op.role == "embed" else identifier(op.role).upper()


class OpViews:
    """The schedule in three parts: before the blocks, one block, after the blocks."""

    def __init__(self, program: Program, plan: Plan) -> None:
        self._program, self._plan = program, plan
        self._points = stream_points(program, plan.streams)
        ops = program.ops
        self._silent = bool(silent_in(program))
        parts = parts_of(program)
        first, block = len(parts.before), whole_block(program)
        end = first + len(parts.blocks)
        _check_blocks(parts.blocks, block)
        self.before = tuple(self._view(op, f"{i}U") for i, op in enumerate(ops[:first]))
        self.block = tuple(self._view(op, number) for op, number in self._numbered(block))
        self.after = tuple(self._view(op, f"{i}U") for i, op in enumerate(ops[end:], start=end))

    def _numbered(self, block: tuple[Op, ...]) -> Iterator[tuple[Op, str]]:
        """Ops of a block with their numbers in the schedule."""
        places: dict[str, int] = {}
        for index, op in enumerate(block):
            room = op.role.partition(".")[0]
            place = places[room] = places.get(room, -1) + 1
            whole = f"BLOCK_OP(layer, {index}U)"
            yield op, f"BLOCKS[layer].{room}.op + {place}U" if self._silent else whole

    def _view(self, op: Op, number: str) -> OpView:
        return OpView(
            title=("lNN." if op.layer >= 0 else "") + op.role,
            function=identifier(op.role),
            kind=op.kind.value,
            mode=mode_suffix(op),
            number=number,
            in_block=op.layer >= 0,
            comment=self._comment(op),
            reads=tuple(self._expression(op, name) for name in _operands(op)),
            writes=tuple(self._expression(op, name) for name in op.outputs),
            scratch=self._extra(SCRATCH_PREFIX + op.role, ""),
            tiles=self._extra(TILE_PREFIX + op.role, "NULL"),
            outputs=tuple(self._output(i, name) for i, name in enumerate(op.outputs)),
            eps=op.attrs.get("eps", 0),
            elements=self._elements(op),
            stream=self._stream(op),
            part=op.role.partition(".")[0] if self._silent and op.layer >= 0 else "",
        )

    def _elements(self, op: Op) -> str:
        if op.kind is OpKind.RESIDUAL_ADD and op.inputs[0] == "resid":
            return "HIDDEN"
        return f"{prod(self._program.tensors[op.inputs[0]].shape)}U"

    def _stream(self, op: Op) -> str:
        """The stream that an op waits for; a head that comes in several does so by itself."""
        streams = self._plan.streams
        index = self._points.get(op.id)
        if streams is None or index is None or (op.role == "lm_head" and streams.part_records):
            return ""
        if op.layer < 0:
            return f"{index}U"
        place = streams.cuts.index(op.role)
        if not self._silent:
            return f"layer * {len(streams.cuts)}U + {place}U"
        room = op.role.partition(".")[0]
        place -= next(i for i, role in enumerate(streams.cuts) if role.startswith(f"{room}."))
        return f"BLOCKS[layer].{room}.stream + {place}U"

    def _extra(self, name: str, absent: str) -> str:
        return f"s->{identifier(name)}" if name in self._plan.placements else absent

    def _expression(self, op: Op, name: str) -> str:
        spec = self._program.tensors[name]
        if spec.kind is Kind.WEIGHT:
            table = f"BLOCKS[layer].{identifier(op.role)}" if op.layer >= 0 else ""
            return f"&{table or weight_table(op)}"
        if _of_block(op, name):
            return f"{BLOCK_ARRAYS[op.kind]}_of(s, &BLOCKS[layer].{block_array(op)})"
        if spec.kind is Kind.STATE:
            return f"cache.{name.removeprefix('kv.')}"
        return f"s->{identifier(name)}"

    def _output(self, index: int, name: str) -> OutputView:
        spec = self._program.tensors[name]
        if spec.kind is not Kind.STATE:
            return OutputView(index, f"s->{identifier(name)}", spec.size)
        width = spec.shape[-1]
        row = f"cache.{name.removeprefix('kv.')} + s->position * {width}U"
        return OutputView(index, row, width * spec.dtype.itemsize)

    def _comment(self, op: Op) -> tuple[str, ...]:
        reads = [self._operand(op, name) for name in _operands(op)]
        writes = ["-> " + self._operand(op, name) for name in op.outputs]
        return (*reads, *writes)

    def _operand(self, op: Op, name: str) -> str:
        spec = self._program.tensors[name]
        pattern = re.sub(r"^l\d+\.", "lNN.", name)
        if _of_block(op, name):
            return f"{pattern} {_shape_text(spec)}, see BLOCKS"
        if spec.kind is Kind.WEIGHT:
            return f"{pattern} {_shape_text(spec)}, see {weight_table(op)}"
        return describe(spec, self._plan.placements[name])


def _operands(op: Op) -> tuple[str, ...]:
    """Inputs without the table of a linear on the engine: which linears have one is data."""
    return op.inputs[:LINEAR_OPERANDS] if op.kind is OpKind.LINEAR else op.inputs


def _of_block(op: Op, name: str) -> bool:
    return op.layer >= 0 and re.match(r"l\d+\.", name) is not None


def _shape_text(spec: TensorSpec) -> str:
    kind = "weights" if spec.layout else spec.dtype.value
    return f"{kind} {dimensions(spec.shape)}" if spec.layout else kind + dimensions(spec.shape)


def _check_blocks(ops: tuple[Op, ...], block: tuple[Op, ...]) -> None:
    """Every block must be the whole one again, with weights of its own, less silent parts."""
    roles = {op.role: index for index, op in enumerate(block)}
    before = -1, -1  # block, place in it
    for op in ops:
        first = block[roles[op.role]]
        if _comparable(op) != _comparable(first):
            raise InternalError(f"{op.id} differs from {first.id}; blocks must be alike")
        if (op.layer, roles[op.role]) <= before:
            raise InternalError(f"{op.id} is not in the order of a block")
        before = op.layer, roles[op.role]


def _comparable(op: Op) -> Op:
    inputs = tuple(re.sub(r"^l\d+\.", "", name) for name in _operands(op))
    attrs = {} if op.kind is OpKind.LINEAR else dict(op.attrs)
    return replace(op, id="", layer=0, inputs=inputs, attrs=attrs)
