"""Blocks that run more than once: one copy of their weights for all of their executions.

Every execution is a block of the program, with ops, ids and a KV cache of its own; only the names
of weights and norms are those of the block that is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from toolchain.model.program import OpKind, Program, TensorSpec

Layout = TypeVar("Layout")
_BLOCK = re.compile(r"l(\d+)\.")


def unrolled(layouts: Mapping[str, Layout], blocks: Sequence[int]) -> dict[str, Layout]:
    """Layouts by op id of the executed blocks; block i has the weights of block blocks[i]."""
    executed = {
        f"l{step:02d}.{name.partition('.')[2]}": layout
        for step, block in enumerate(blocks)
        for name, layout in layouts.items()
        if name.startswith(f"l{block:02d}.")
    }
    return executed | {name: layout for name, layout in layouts.items() if "." not in name}


def with_shared_blocks(program: Program, blocks: Sequence[int] | None) -> Program:
    """The program whose block i reads what is stored of block blocks[i]; None: as it is."""
    if blocks is None:
        return program
    prefixes = {f"l{step:02d}": f"l{block:02d}" for step, block in enumerate(blocks)}

    def stored(name: str) -> str:
        prefix, dot, rest = name.partition(".")
        return prefixes.get(prefix, prefix) + dot + rest

    tensors: dict[str, TensorSpec] = {}
    for spec in program.tensors.values():
        tensors[stored(spec.name)] = replace(spec, name=stored(spec.name))
    ops = tuple(replace(op, inputs=tuple(map(stored, op.inputs))) for op in program.ops)
    return replace(program, tensors=tensors, ops=ops)


def blocks_in(program: Program) -> tuple[int, ...] | None:
    """The inverse; None when every block reads its own weights."""
    found: dict[int, int] = {}
    for op in program.ops:
        if op.kind is OpKind.LINEAR and op.layer >= 0:
            match = _BLOCK.match(program.weight_of(op).name)
            found.setdefault(op.layer, int(match[1]) if match else op.layer)
    blocks = tuple(found.get(layer, layer) for layer in range(program.shape.layers))
    return None if blocks == tuple(range(len(blocks))) else blocks
