"""What N:M storage saves, as JSON values: the bytes of the packer, sparse against dense."""

from __future__ import annotations

from typing import Any

from toolchain.fit.design import Design
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.names import EMBED
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Program
from toolchain.model.quant_settings import required_pattern
from toolchain.model.sparse_packing import UNIT, SparseLayout

Json = dict[str, Any]


def width_report(design: Design, program: Program) -> list[Json]:
    """One entry per projection, pattern and dense packing; empty without patterns.

    A projection is stored dense when its pattern does not pay, and has an entry all the same: of
    the what-if, or of a pattern that a compile was told to require.
    """
    entries: dict[tuple[str, str, str], Json] = {}
    for spec in program.tensors.values():
        name = spec.name.removesuffix(".weight")
        layout = spec.layout
        if not isinstance(layout, WeightLayout) or name == EMBED:
            continue
        if not isinstance(layout, SparseLayout):
            pattern = design.pattern_of(name) or required_pattern(design.quant, name)
            if pattern is None:
                continue
            layout = sparse_layout(layout, pattern)
        role = name.partition(".")[2] or name
        key = (role, str(layout.pattern), layout.packing.value)
        entry = entries.setdefault(key, _empty_entry(role, layout))
        entry["matrices"] += 1
        entry["dense_bytes"] += layout.dense.size
        entry["sparse_bytes"] += layout.size
        entry["index_bytes"] += layout.records * layout.packing.rows * layout.index_size
        entry["stored_bytes"] += spec.size
        entry["saved_bytes"] = entry["dense_bytes"] - entry["stored_bytes"]
    return list(entries.values())


def _empty_entry(role: str, layout: SparseLayout) -> Json:
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
        "reason": _reason(layout),
        "matrices": 0,
        "dense_bytes": 0,
        "sparse_bytes": 0,
        "index_bytes": 0,
        "stored_bytes": 0,
        "saved_bytes": 0,
    }


def _reason(layout: SparseLayout) -> str:
    """Why it is stored dense; empty when it is not."""
    if layout.pays:
        return ""
    if not layout.is_possible:
        return f"scale groups of {layout.group_size} inputs are no multiple of {UNIT}"
    return "its indices take what it saves"
