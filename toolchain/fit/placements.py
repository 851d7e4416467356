"""Where the weights are, what a token reads of them there, and why they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memory_planner.blobs import bytes_read
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from toolchain.model.program import Kind, Program, TensorSpec
from toolchain.model.requant_table import RequantLayout

Json = dict[str, Any]


def weight_placements(program: Program, plan: Plan, target: TargetSpec) -> list[Json]:
    """One entry per projection, region and reason, in order of first use.

    `bytes` are stored, `bytes_per_token` are those of them that one token reads.
    """
    read, layers = bytes_read(program), _first_layers(program)
    entries: dict[tuple[str, str, str], Json] = {}
    for name, layer in layers.items():
        spec, region = program.tensors[name], plan.placements[name].region
        what = name.removesuffix(".weight")
        if isinstance(spec.layout, RequantLayout):
            what = "engine tables"
        elif layer >= 0:
            what = what.partition(".")[2]
        why = _reason(spec, plan, target, read[name], layer)
        empty: Json = {"what": what, "region": region, "tensors": 0, "bytes": 0}
        entry = entries.setdefault(
            (what, region, why), empty | {"bytes_per_token": 0, "reason": why}
        )
        entry["tensors"] += 1
        entry["bytes"] += spec.size
        entry["bytes_per_token"] += read[name]
    names = list(dict.fromkeys(entry["what"] for entry in entries.values()))
    return sorted(entries.values(), key=lambda entry: names.index(entry["what"]))


def _first_layers(program: Program) -> Mapping[str, int]:
    """The block that reads each packed tensor first, -1 outside the blocks; in order of use."""
    found: dict[str, int] = {}
    for op in program.ops:
        for name in op.inputs:
            if program.tensors[name].layout is not None:
                found.setdefault(name, op.layer)
    return found


def _reason(spec: TensorSpec, plan: Plan, target: TargetSpec, read: int, layer: int) -> str:
    region = plan.placements[spec.name].region
    if target.pinned(spec.name):
        return "pinned"
    if plan.region(region).free < 0:
        return "no region has room"
    if target.off_chip and region == target.off_chip.region:
        if layer >= 0:
            return "no room on chip: streamed per block"
        rows = "one row per token" if read < spec.size else "tile by tile"
        return f"no room on chip: {rows}"
    often = "one row per token" if read < spec.size else "read every token"
    group = "weights" if spec.kind is Kind.WEIGHT else "constants"
    allowed = target.placement[group]
    if region == allowed[0] or region not in allowed:  # what is left of the cores' own memory
        return f"{often}, nearest with room"
    return f"{often}, no room in {allowed[0]}"
