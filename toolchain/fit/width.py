"""What N:M storage saves, as JSON values: the bytes of the packer, sparse against dense."""

from __future__ import annotations

from typing import Any

from toolchain.fit.design import Design
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.names import EMBED
from toolchain.model.packing import WeightLayout, packing_for_bits
from toolchain.model.program import MatrixLayout, Program
from toolchain.model.quant_settings import required_pattern
from toolchain.model.sparse_packing import UNIT, SparseLayout

Json = dict[str, Any]


def width_report(design: Design, program: Program) -> list[Json]:
    """One entry per projection, pattern and dense packing; empty without patterns.

    A projection is stored dense when its pattern does not pay, and has an entry all the same: of
    the what-if, or of a pattern that a compile was told to require.
    """
    entries: dict[tuple[str, str, str], Json] = {}
    tables = {spec.name: spec.size for spec in program.tensors.values()}
    for spec in program.tensors.values():
        name = spec.name.removesuffix(".weight")
        layout = spec.layout
        if not isinstance(layout, MatrixLayout) or name == EMBED:
            continue
        on_engine = isinstance(layout, EngineLayout)
        is_sparse = isinstance(layout, SparseLayout)
        if not isinstance(layout, SparseLayout):
            asked = design.pattern_of(name) or required_pattern(design.quant, name)
            pattern = asked or design.found.get(name)
            if pattern is None:
                continue
            layout = sparse_layout(_for_cores(layout), pattern)
        role = name.partition(".")[2] or name
        reason = _reason(layout, on_engine) or design.storage.get(name, "")
        key = (role, str(layout.pattern), f"{layout.packing.value} {is_sparse} {reason}")
        entry = entries.setdefault(key, _empty_entry(role, layout, reason))
        entry["stored"] = "sparse" if is_sparse else "dense"
        stored = spec.size + tables.get(f"{name}.requant", 0)
        entry["matrices"] += 1
        entry["dense_bytes"] += layout.dense.size
        entry["sparse_bytes"] += layout.size
        entry["index_bytes"] += layout.records * layout.packing.rows * layout.index_size
        entry["stored_bytes"] += stored
        entry["saved_bytes"] += 0 if on_engine else layout.dense.size - stored
    return list(entries.values())


def _for_cores(layout: MatrixLayout) -> WeightLayout:
    """The dense matrix for the cores."""
    if isinstance(layout, WeightLayout):
        return layout
    packing = packing_for_bits(layout.bits)
    return WeightLayout(packing, layout.rows, layout.columns, layout.group_size)


def _empty_entry(role: str, layout: SparseLayout, reason: str) -> Json:
    pattern = layout.pattern
    return {
        "role": role,
        "pattern": str(pattern),
        "packing": layout.packing.value,
        "index": pattern.index_form.value,
        "index_bits_per_group": pattern.index_bits,
        "saved_bits_per_group": layout.saved_bits,
        "whole_tail_inputs": layout.columns % pattern.group,
        "pays": layout.pays,
        "stored": "",
        "reason": reason,
        "matrices": 0,
        "dense_bytes": 0,
        "sparse_bytes": 0,
        "index_bytes": 0,
        "stored_bytes": 0,
        "saved_bytes": 0,
    }


def _reason(layout: SparseLayout, on_engine: bool) -> str:
    """Why it cannot be stored sparse, or need not; empty when it can."""
    if layout.pays:
        return "the engine reads whole words, zeros included" if on_engine else ""
    if not layout.is_possible:
        return f"scale groups of {layout.group_size} inputs are no multiple of {UNIT}"
    return "its indices take what it saves"
