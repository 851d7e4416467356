"""Where the linears run, and why: one entry per role and decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_planner.engines import Decision

Json = dict[str, Any]


def engine_entries(decisions: Sequence[Decision]) -> list[Json]:
    """Equal decisions of blocks as one entry, in schedule order; none without an engine.

    Cycles are those of one linear by itself, by the cost model: on the engine and on the cores.
    """
    entries: dict[tuple[object, ...], Json] = {}
    for each in decisions:
        what = each.op.partition(".")[2] or each.op
        facts: Json = {
            "what": what,
            "engine": each.engine,
            "packing": each.packing,
            "arrangement": each.arrangement,
            "reason": each.reason,
            "engine_cycles": each.engine_cycles,
            "core_cycles": each.core_cycles,
        }
        entry = entries.setdefault(tuple(facts.values()), {**facts, "linears": 0})
        entry["linears"] += 1
    order = list(dict.fromkeys(entry["what"] for entry in entries.values()))
    return sorted(entries.values(), key=lambda entry: order.index(entry["what"]))
