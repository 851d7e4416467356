"""Is a program that was read back one that this edgec would build? Its hashes cannot tell.

What the program is free in (dimensions, widths, packings, constants of single ops) is taken out of
it and checked for range; ops and tensors built anew from that must be those of the file.
"""

from __future__ import annotations

from dataclasses import astuple

from toolchain.model.adapters import ADAPTER_MARK, adapter_ranks, role_of
from toolchain.model.config import MAX_LAYERS
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.engine_program import with_engine
from toolchain.model.errors import Problem
from toolchain.model.input_order import gathers_in
from toolchain.model.outline import MAX_EPS, LowerConfig, WeightFacts, with_facts
from toolchain.model.program import (
    ActMode,
    Kind,
    MatrixLayout,
    Op,
    OpKind,
    Program,
    ProgramShape,
    is_prompt_words,
)
from toolchain.model.prompt_words import with_prompt_words
from toolchain.model.schedule import build_schedule, build_tensors
from toolchain.model.shared_blocks import blocks_in
from toolchain.model.silent_parts import part_of, silent_in
from toolchain.model.sparse_packing import SparseLayout

WEIGHT = ".weight"
ADAPTER_PARTS = (f"{ADAPTER_MARK}a", f"{ADAPTER_MARK}b")
SITE_OF_ROLE = {
    "attn.norm": "attn_in",
    "attn.merge": "o_in",
    "mlp.norm": "mlp_in",
    "mlp.swiglu": "down_in",
    "final.norm": "head_in",
}
ATTENTION_RANGES = {"score_multiplier": 65535, "score_exponent": 127, "exp_bits": 15}


def check_program(program: Program) -> list[Problem]:
    """What in `program` no compile can have written; empty for a good one. Never raises."""
    problems = _check_shape(program)
    if problems:
        return problems
    problems = _check_names(program)
    if problems:
        return problems
    first = {op.role: op for op in reversed(program.ops)}
    modes = {site: first[role].mode for role, site in SITE_OF_ROLE.items() if role in first}
    norm, attention = first.get("final.norm"), first.get("attn.attention")
    widths = {site: mode for site, mode in modes.items() if mode is not None}
    if norm is None or attention is None or len(widths) != len(SITE_OF_ROLE):
        return [Problem("program: ops", "ops without norms, attention or widths", "a Llama block")]
    layouts = {
        name.removesuffix(WEIGHT): tensor.layout
        for name, tensor in program.tensors.items()
        if isinstance(tensor.layout, MatrixLayout) and not is_prompt_words(tensor)
    }
    facts = WeightFacts(
        adapter_ranks(program), gathers_in(program), blocks_in(program), silent_in(program)
    )
    blocks = facts.blocks or ()
    if any(block > step or blocks[block] != block for step, block in enumerate(blocks)):
        allowed = "for each block itself, or an earlier one that is stored"
        return [Problem("program: blocks", str(blocks), allowed)]
    problems = _check_attrs(norm, attention) + _check_layouts(program.shape, layouts, facts)
    if problems:
        return problems
    return _check_structure(program, (widths, facts), layouts, (norm, attention))


def _check_names(program: Program) -> list[Problem]:
    """Ops read and write tensors that exist, and linears read a matrix."""
    problems = []
    for op in program.ops:
        unknown = sorted({*op.inputs, *op.outputs} - set(program.tensors))
        if unknown:
            problems.append(Problem(f"program: {op.id}", ", ".join(unknown), "names of tensors"))
        elif op.kind in (OpKind.LINEAR, OpKind.EMBED) and not any(
            program.tensors[name].kind is Kind.WEIGHT for name in op.inputs
        ):
            problems.append(Problem(f"program: {op.id}", "no weights", "a packed matrix"))
    return problems


def _check_shape(program: Program) -> list[Problem]:
    shape = program.shape
    problems = []
    if min(astuple(shape)) < 1 or shape.layers > max(MAX_LAYERS, len(program.ops)):
        problems.append(Problem("program: shape", str(shape), "dimensions that fit the ops"))
    elif shape.heads % shape.kv_heads or shape.head_dim % 2:
        allowed = "query heads in equal groups, of even size"
        problems.append(Problem("program: shape", str(shape), allowed))
    if not 0 <= program.residual_bits <= 16:
        problems.append(Problem("program: residual_bits", str(program.residual_bits), "0..16"))
    return problems


def _check_attrs(norm: Op, attention: Op) -> list[Problem]:
    problems = []
    if norm.attrs.keys() != {"eps"} or not 0 <= norm.attrs["eps"] < MAX_EPS:
        problems.append(Problem(f"{norm.id}: attrs", str(norm.attrs), f"eps in 0..{MAX_EPS - 1}"))
    attrs = attention.attrs
    if attrs.keys() != ATTENTION_RANGES.keys() or any(
        not 0 <= attrs[name] <= limit for name, limit in ATTENTION_RANGES.items()
    ):
        allowed = ", ".join(f"{name} in 0..{most}" for name, most in ATTENTION_RANGES.items())
        problems.append(Problem(f"{attention.id}: attrs", str(attrs), allowed))
    return problems


def _check_layouts(
    shape: ProgramShape, layouts: dict[str, MatrixLayout], facts: WeightFacts
) -> list[Problem]:
    """Each matrix of the program, once, with rows and columns of its role."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    block = {
        "attn.q_proj": (queries, shape.hidden),
        "attn.k_proj": (keys, shape.hidden),
        "attn.v_proj": (keys, shape.hidden),
        "attn.o_proj": (shape.hidden, queries),
        "mlp.gate_proj": (shape.ffn, shape.hidden),
        "mlp.up_proj": (shape.ffn, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.ffn),
    }
    expected = {
        f"l{stored:02d}.{role}": size
        for layer, stored in enumerate(facts.blocks or range(shape.layers))
        for role, size in block.items()
        if part_of(f"l{layer:02d}.{role}") not in facts.silent
    }
    expected |= dict.fromkeys(("embed", "lm_head"), (shape.vocab, shape.hidden))
    for name in [name for name in layouts if name.endswith(ADAPTER_PARTS)]:
        base, _, part = name.rpartition(ADAPTER_MARK)
        rows, columns = expected.get(base, (0, 0))
        rank = facts.ranks.get(role_of(base), 0)
        expected[name] = (rank, columns) if part == "a" else (rows, rank)
    missing = expected.keys() - layouts.keys() - {"lm_head"}
    problems = [Problem(name + WEIGHT, "nothing", "a matrix") for name in sorted(missing)]
    for name, layout in layouts.items():
        rows, columns = expected.get(name, (0, 0))
        requant = name != "embed" or "lm_head" not in layouts
        if isinstance(layout, EngineLayout):  # the embedding's rows are read by cores
            is_possible = name != "embed"
        else:
            is_possible = layout.requant == requant
        if (layout.rows, layout.columns) != (rows, columns) or not is_possible:
            allowed = f"{rows} x {columns}, requant {requant}" if rows else "no such matrix"
            problems.append(Problem(name + WEIGHT, str(layout), allowed))
        elif not 1 <= layout.group_size <= columns:
            found = f"groups of {layout.group_size}"
            problems.append(Problem(name + WEIGHT, found, f"1..{columns} columns"))
        elif isinstance(layout, SparseLayout) and (name == "embed" or not layout.pays):
            allowed = "dense storage: rows are looked up, or it takes fewer bytes"
            problems.append(Problem(name + WEIGHT, str(layout.pattern), allowed))
    return problems


def _check_structure(
    program: Program,
    found: tuple[dict[str, ActMode], WeightFacts],
    layouts: dict[str, MatrixLayout],
    sources: tuple[Op, Op],  # of the constants: a norm, an attention
) -> list[Problem]:
    shape, (widths, facts) = program.shape, found
    norm, attention = sources
    config = LowerConfig(shape.context, widths, program.residual_bits, program.arithmetic)
    tied = "lm_head" not in layouts
    ops = build_schedule(shape, config, norm.attrs["eps"], attention.attrs, tied)
    dense = {name: layout for name, layout in layouts.items() if ADAPTER_MARK not in name}
    tensors = build_tensors(shape, config, dense)
    built = with_facts(Program(shape, program.residual_bits, tensors, ops, {}), facts)
    linears = (op for op in program.ops if op.kind is OpKind.LINEAR)
    laid_out = with_engine(
        built, {op.id: words for op in linears if (words := program.engine_layout_of(op))}
    )
    if any(map(is_prompt_words, program.tensors.values())):
        laid_out = with_prompt_words(laid_out)
    ops, tensors = laid_out.ops, dict(laid_out.tensors)
    problems = [
        Problem(f"program: {name}", str(program.tensors.get(name)), str(tensors.get(name)))
        for name in sorted(tensors.keys() | program.tensors.keys())
        if tensors.get(name) != program.tensors.get(name)
    ]
    if len(ops) != len(program.ops):
        problems.append(Problem("program: ops", str(len(program.ops)), f"{len(ops)} ops"))
    problems += [
        Problem(f"program: {want.id}", str(got), str(want))
        for got, want in zip(program.ops, ops, strict=False)
        if got != want
    ]
    return problems[:10]
