"""The `[costs]` section of a target file: cycles of one core per unit of work."""

from __future__ import annotations

from collections.abc import Callable

from memory_planner.fused_costs import FAST, FAST_ROWS, FIXED, WORK, FusedCosts
from memory_planner.target import BatchCosts, Costs, SparseCosts
from memory_planner.toml_table import Table
from toolchain.model.packing import CORE_PACKINGS
from toolchain.model.program import OpKind

# Groups of kernels that are about equally fast: index form and stored bits.
SPARSE_KERNELS = (
    "kept_crumb",
    "kept_nibble",
    "kept_byte",
    "removed_nibble",
    "removed_byte",
    "bitmask_nibble",
    "bitmask_byte",
)


def read_costs(table: Table) -> Costs:
    """Costs in cycles of one core: counted instructions times cycles per instruction.

    The extra cycle of a multiplication is part of what was measured in cycles.
    """
    per_instruction = table.number("instruction", "cycles/instruction", positive=True)
    multiply = table.number("multiply_extra", "cycles/MAC")
    contention = table.number("contention", "cycles/cycle", positive=True)

    def cost(source: Table, key: str, unit: str, extra: float = 0.0) -> float:
        units = (f"cycles/{unit}", f"instructions/{unit}")
        value, found = source.number_in(key, units)
        counted = found.startswith("instructions")
        return contention * (value * per_instruction + extra if counted else value)

    def optional(key: str, unit: str) -> float:
        return cost(table, key, unit) if table.has(key) else 0.0

    mac = table.table("mac")
    macs = {packing.value: cost(mac, packing.value, "MAC", multiply) for packing in CORE_PACKINGS}
    mac.finish()
    sparse = table.table("sparse")
    kept = {key: cost(sparse, key, "MAC", multiply) for key in SPARSE_KERNELS}
    sparse_costs = SparseCosts(
        kept=kept,
        tail=cost(sparse, "tail", "MAC", multiply),
        row=cost(sparse, "row", "row"),
        group=cost(sparse, "group", "group"),
    )
    sparse.finish()
    fixed, score = _fixed(table), cost(table, "attention_score", "score")
    costs = Costs(
        mac=macs,
        linear_row=cost(table, "linear_row", "row"),
        linear_group=cost(table, "linear_group", "group"),
        linear_call=optional("linear_call", "call"),
        linear_column=optional("linear_column", "column"),
        embed=cost(table, "embed", "element"),
        quantize=cost(table, "quantize", "element"),
        rmsnorm=cost(table, "rmsnorm", "element"),
        rope=cost(table, "rope", "element"),
        kv_append=cost(table, "kv_append", "element"),
        attention_mac=cost(table, "attention_mac", "MAC"),
        attention_score=score,
        attention_head=optional("attention_head", "head"),
        attention_chunk=optional("attention_chunk", "chunk"),
        attention_left=optional("attention_left", "MAC"),
        attention_merge=cost(table, "attention_merge", "element"),
        residual_add=cost(table, "residual_add", "element"),
        gather=cost(table, "gather", "element"),
        swiglu=cost(table, "swiglu", "element"),
        argmax=cost(table, "argmax", "element"),
        reduction=cost(table, "reduction", "op"),
        barrier=cost(table, "barrier", "barrier"),
        cold_code=table.number("cold_code", "cycles/op"),
        sparse=sparse_costs,
        fixed=fixed,
        batch=_batch(table),
        fused=_fused(table, cost, score),
    )
    table.finish()
    return costs


def _batch(table: Table) -> BatchCosts | None:
    """The optional `[costs.batch]`; without it prompts run token by token."""
    if not table.has("batch"):
        return None
    batch = table.table("batch")
    refetched = batch.number("refetched", "cycles/cycle")
    batch.limit("refetched", refetched, 1, "cycles/cycle")
    select_token = batch.number("select_token", "cycles/token")
    found = BatchCosts(refetched, select_token, batch.number("piece", "cycles/piece"))
    batch.finish()
    return found


def _fixed(table: Table) -> dict[str, float]:
    """The optional `[costs.fixed]`: cycles of every op of a kind, whatever its size."""
    if not table.has("fixed"):
        return {}
    fixed = table.table("fixed")
    found = {k.value: fixed.number(k.value, "cycles/op") for k in OpKind if fixed.has(k.value)}
    fixed.finish()
    return found


def _fused(
    table: Table, cost: Callable[[Table, str, str], float], score: float
) -> FusedCosts | None:
    """The optional `[costs.fused]`; without it ops are priced one by one. score: cycles of one."""
    if not table.has("fused"):
        return None
    fused = table.table("fused")
    work = {key: cost(fused, key, unit) for key, unit in WORK.items()}
    once = fused.table("fixed")
    fixed = {key: once.number(key, f"cycles/{unit}") for key, unit in FIXED.items()}
    once.finish()
    fast = {}
    if fused.has("fast"):
        less = fused.table("fast")
        fast = {key: cost(less, key, unit) for key, unit in FAST.items()}
        rows = min(work[key] for key in FAST_ROWS)
        for key, most in (("row", rows), ("silu", work["silu"]), ("score", score)):
            less.limit(key, fast[key], most, f"cycles/{FAST[key]}, all that it is to save from")
        less.finish()
    fused.finish()
    return FusedCosts(work, fixed, fast)
