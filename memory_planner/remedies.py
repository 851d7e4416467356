"""What would make a program fit: each remedy is planned for real before it is proposed.

A variant is the same program with other shapes: fewer positions, narrower weights, larger scale
groups, a smaller vocabulary, fewer blocks. Only specs change; variants are for planning, they have
no constants and are never run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from memory_planner.explain import Shortfall
from toolchain.model.errors import DoesNotFitError
from toolchain.model.matrix_storage import smallest_layout
from toolchain.model.packing import Packing
from toolchain.model.program import Kind, OpKind, Program, TensorSpec
from toolchain.model.sparse_packing import SparseLayout

Fits = Callable[[Program], bool]
Change = Callable[[TensorSpec], TensorSpec]


class PlanDoesNotFitError(DoesNotFitError):
    """A region is too small; carries the shortfalls and the remedies as values."""

    def __init__(
        self, target: str, shortfalls: Sequence[Shortfall], remedies: Sequence[str]
    ) -> None:
        self.shortfalls = tuple(shortfalls)
        self.remedies = tuple(remedies)
        fix = (
            "each of these fits by itself: " + "; ".join(remedies)
            if remedies
            else "no single change of context, bits, groups, vocabulary or depth is enough"
        )
        problems = [shortfall.problem() for shortfall in shortfalls]
        super().__init__(f"the model does not fit {target}", problems, fix)

    def to_dict(self) -> dict[str, object]:
        """The facts of the text, as values."""
        return {
            **DoesNotFitError.to_dict(self),
            "shortfalls": [shortfall.to_dict() for shortfall in self.shortfalls],
            "remedies": list(self.remedies),
        }


def with_context(program: Program, context: int) -> Program:
    """The program with a KV cache and position tables for `context` positions."""
    old = program.shape.context
    tables = {name for op in program.ops if op.kind is OpKind.ROPE for name in op.inputs}

    def change(spec: TensorSpec) -> TensorSpec:
        if spec.kind is Kind.STATE:
            return replace(spec, shape=(spec.shape[0], context, *spec.shape[2:]))
        if spec.kind is Kind.CONST and spec.name in tables and spec.shape[0] == old:
            return replace(spec, shape=(context, *spec.shape[1:]))
        return spec

    return _with(replace(program, shape=replace(program.shape, context=context)), change)


def with_bits(program: Program, packing: Packing) -> Program:
    """The program with the weights of the blocks stored no wider than `packing`."""
    blocks = {
        program.weight_of(op).name
        for op in program.ops
        if op.kind is OpKind.LINEAR and op.layer >= 0
    }
    return _with(program, lambda spec: _narrowed(spec, packing) if spec.name in blocks else spec)


def with_vocabulary_bits(program: Program, packing: Packing) -> Program:
    """The program with embedding and head stored no wider than `packing`."""
    ends = {
        program.weight_of(op).name
        for op in program.ops
        if op.kind in (OpKind.LINEAR, OpKind.EMBED) and op.layer < 0
    }
    return _with(program, lambda spec: _narrowed(spec, packing) if spec.name in ends else spec)


def with_channel_scales(program: Program) -> Program:
    """The program with one scale per output channel instead of groups."""

    def change(spec: TensorSpec) -> TensorSpec:
        if spec.layout is None:
            return spec
        return replace(spec, layout=replace(spec.layout, group_size=spec.layout.columns))

    return _with(program, change)


def with_vocabulary(program: Program, vocab: int) -> Program:
    """The program with `vocab` tokens: rows of embedding and head, their scales, the logits."""
    rows = set()
    for op in program.ops:
        if op.kind is OpKind.EMBED:
            rows |= set(op.inputs)
        elif op.kind is OpKind.LINEAR and op.layer < 0:
            rows |= {program.weight_of(op).name, *op.outputs}

    def change(spec: TensorSpec) -> TensorSpec:
        if spec.name not in rows:
            return spec
        layout = replace(spec.layout, rows=vocab) if spec.layout else None
        return replace(spec, shape=(vocab, *spec.shape[1:]), layout=layout)

    return _with(replace(program, shape=replace(program.shape, vocab=vocab)), change)


def with_layers(program: Program, layers: int) -> Program:
    """The program with only its first `layers` blocks."""
    ops = tuple(op for op in program.ops if op.layer < layers)
    used = {name for op in ops for name in (*op.inputs, *op.outputs)}

    def change(spec: TensorSpec) -> TensorSpec:
        if spec.kind is Kind.STATE:
            return replace(spec, shape=(layers, *spec.shape[1:]))
        return spec

    tensors = {name: change(spec) for name, spec in program.tensors.items() if name in used}
    shape = replace(program.shape, layers=layers)
    return replace(program, shape=shape, tensors=tensors, ops=ops, constants={})


def find_remedies(program: Program, fits: Fits) -> list[str]:
    """One sentence per single change that makes `fits` true, the least drastic of its kind."""
    shape = program.shape
    remedies = []
    context = _largest(shape.context - 1, lambda n: fits(with_context(program, n)))
    if context:
        remedies.append(f"a context of at most {context} positions (now {shape.context})")
    for what, change in (("the blocks", with_bits), ("embedding and head", with_vocabulary_bits)):
        for packing in (Packing.NIBBLE, Packing.CRUMB):
            if fits(change(program, packing)):
                remedies.append(f"weights of {packing.field_bits} bits in {what}")
                break
    if fits(with_channel_scales(program)):
        remedies.append("one scale per channel instead of scale groups (group size -1)")
    vocab = _largest(shape.vocab - 1, lambda n: fits(with_vocabulary(program, n)))
    if vocab:
        remedies.append(f"a vocabulary of at most {vocab} tokens (now {shape.vocab})")
    layers = _largest(shape.layers - 1, lambda n: fits(with_layers(program, n)))
    if layers:
        remedies.append(f"at most {layers} blocks (now {shape.layers})")
    return remedies


def _with(program: Program, change: Change) -> Program:
    tensors = {name: change(spec) for name, spec in program.tensors.items()}
    return replace(program, tensors=tensors, constants={})


def _narrowed(spec: TensorSpec, packing: Packing) -> TensorSpec:
    if spec.layout is None or spec.layout.packing.field_bits <= packing.field_bits:
        return spec
    if isinstance(spec.layout, SparseLayout):  # at fewer bits its pattern may no longer pay
        dense = replace(spec.layout.dense, packing=packing)
        return replace(spec, layout=smallest_layout(dense, [spec.layout.pattern]))
    return replace(spec, layout=replace(spec.layout, packing=packing))


def _largest(top: int, fits: Callable[[int], bool]) -> int:
    """The largest n in 1..top that fits, by bisection, or 0; need grows with n."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
