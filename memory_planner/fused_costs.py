"""The `[costs.fused]` section of a target file: ops that run as one, in cycles of one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import ActMode, Arithmetic

# Work by what it is counted in; sim/fused_cycles.py says how often.
WORK = {
    "norm": "element",  # scaling, squares, largest magnitude
    "stage_a8": "element",  # quantizing into the engine's input
    "stage_a16": "element",
    "row_a8": "row",  # requantizing a sum of one group without tail
    "row_a16": "row",
    "summed_row": "row",  # the same of several groups or with a tail, and per accumulator
    "sum": "accumulator",
    "tail": "column",  # a product of the tail
    "query": "element",  # rotating and quantizing a head
    "query_head": "head",
    "cache": "element",  # rotating, quantizing and storing a head of k or v
    "cache_head": "head",
    "merge": "element",
    "merge_head": "head",
    "silu": "element",  # in the pass of gate's rows
    "product": "element",
    "residual": "element",  # in the pass of rows of o and down
}
# Once, whatever the size: calls, operands, and code that the instruction cache had lost.
FIXED = {
    "norm": "op",
    "scale": "op",  # of the norm, beside the engine's first job
    "stage": "chain",
    "wait": "wait",
    "rows": "linear",
    "append": "op",
    "attention": "op",  # whose scores are priced as those of a single op
    "merge": "op",
    "return": "op",  # code of rows that single ops or a moved cache have pushed out
    "product": "op",
    "token": "token",  # in front of the blocks
}
# Less with fast arithmetic: the section `fast`, which may be left out.
FAST = {"row": "row", "silu": "element", "score": "score"}
FAST_ROWS = ("row_a8", "row_a16", "summed_row")  # work that takes `row` less


@dataclass(frozen=True, slots=True)
class FusedCosts:
    """Cycles of one core per unit of work, and per phase."""

    work: Mapping[str, float]
    fixed: Mapping[str, float]
    fast: Mapping[str, float] = field(default_factory=dict)  # what fast arithmetic saves

    def unit(self, arithmetic: Arithmetic) -> dict[str, float]:
        """`work` in an arithmetic."""
        unit = dict(self.work)
        if arithmetic is Arithmetic.FAST and self.fast:
            unit["silu"] -= self.fast["silu"]
            for key in FAST_ROWS:
                unit[key] -= self.fast["row"]
        return unit

    def score_saving(self, arithmetic: Arithmetic) -> float:
        """Cycles per score that an arithmetic saves."""
        return self.fast.get("score", 0.0) if arithmetic is Arithmetic.FAST else 0.0


def row_cycles(
    unit: Mapping[str, float], layout: EngineLayout, mode: ActMode, windows: int, extra: float
) -> float:
    """Cycles of a row of a linear out of its sums, by the work of an arithmetic; `extra` on top of
    a load from its table.
    """
    row, operands = unit[f"row_{mode.value}"], 1 + layout.tail
    if layout.groups > 1 or layout.tail:
        row = unit["summed_row"] + windows * layout.groups * unit["sum"]
        row += windows * layout.tail * unit["tail"]
    operands += layout.groups if layout.groups > 1 else 0
    return row + operands * extra
