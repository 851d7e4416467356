"""Parts of blocks that add nothing: their ops and tensors leave the program.

The part of a block between two values of the residual stream, attention or feed-forward, ends with
a projection. Where that is 0, all of its integers are, every accumulator is 0, and so are its
outputs (docs/numerics.md 2); adding them changes no bit. Such a part needs no weights, no rows of
the KV cache and no time. Structured pruning makes them (toolchain/compress/structured.py).

A part is named by block and room, like l03.attn. Blocks keep their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from toolchain.model.names import hf_name_of
from toolchain.model.program import Kind, Op, OpKind, Program

if TYPE_CHECKING:
    from toolchain.model.checkpoint import FloatModel

LAST_OF = {"attn": "attn.o_proj", "mlp": "mlp.down_proj"}  # a part and the projection that ends it


def part_of(op_id: str) -> str:
    """The part that an op or a projection of a block belongs to."""
    return ".".join(op_id.split(".")[:2])


def find_silent(model: FloatModel) -> frozenset[str]:
    """The parts of a checkpoint whose last projection is 0, with all adapters and masks.

    Of a kind of part that is silent in all blocks, the first one counts as speaking: the program
    has no other form for it.
    """
    blocks = range(model.config.num_layers)
    lasts = (f"l{i:02d}.{last}" for i in blocks for last in LAST_OF.values())
    return silent_among({part_of(last) for last in lasts if _is_zero(model, last)}, blocks)


def silent_among(silent: Set[str], blocks: Sequence[int]) -> frozenset[str]:
    """The silent parts of a program whose block i has the weights of block blocks[i]."""
    found: set[str] = set()
    for room in LAST_OF:
        steps = [i for i, block in enumerate(blocks) if f"l{block:02d}.{room}" in silent]
        if len(steps) == len(blocks):
            steps = steps[1:]
        found |= {f"l{step:02d}.{room}" for step in steps}
    return frozenset(found)


def _is_zero(model: FloatModel, op_id: str) -> bool:
    name = hf_name_of(op_id)
    if name in model.codes:
        factors = model.factors.get(name)
        beside = factors is not None and factors.down.any() and factors.up.any()
        return not beside and model.codes[name].is_zero()
    if model.tensors[name].any():
        return False
    return name not in model.factors or not model.load(name).any()


def with_silent(program: Program, silent: Set[str]) -> Program:
    """The program without the ops of `silent`, and without the tensors that only they touch.

    The KV cache has rows for the blocks that still attend, in order.
    """
    if not silent:
        return program
    ops = tuple(op for op in program.ops if op.layer < 0 or part_of(op.id) not in silent)
    touched = {name for op in ops for name in (*op.inputs, *op.outputs)}
    tensors = {name: spec for name, spec in program.tensors.items() if name in touched}
    rows = sum(op.kind is OpKind.KV_APPEND for op in ops)
    for name, spec in tensors.items():
        if spec.kind is Kind.STATE:
            tensors[name] = replace(spec, shape=(rows, *spec.shape[1:]))
    return replace(program, ops=ops, tensors=tensors)


def silent_in(program: Program) -> frozenset[str]:
    """The inverse: the parts that the program does not have."""
    speaking = {part_of(op.id) for op in program.ops if op.layer >= 0}
    every = {f"l{i:02d}.{room}" for i in range(program.shape.layers) for room in LAST_OF}
    return frozenset(every - speaking)


def cache_slots(program: Program) -> dict[int, int]:
    """Place in the KV cache by block, of those that attend."""
    layers = [op.layer for op in program.ops if op.kind is OpKind.KV_APPEND]
    return {layer: slot for slot, layer in enumerate(layers)}


def first_whole(program: Program) -> int:
    """The first of the blocks with the most parts."""
    silent = [int(part[1:].partition(".")[0]) for part in silent_in(program)]
    return min(range(program.shape.layers), key=lambda layer: (silent.count(layer), layer))


def whole_block(program: Program) -> tuple[Op, ...]:
    """The ops of a block with all of its parts; each part is that of the first block with it."""
    first: dict[str, str] = {}
    for op in program.ops:
        if op.layer >= 0:
            first.setdefault(part_of(op.id).partition(".")[2], part_of(op.id))
    parts = [first[room] for room in LAST_OF if room in first]
    return tuple(op for part in parts for op in program.ops if part_of(op.id) == part)
