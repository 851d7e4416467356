"""What projections take at every width, asked of edgec's packer, and what a budget leaves them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from memory_planner.footprint import blob_header_size
from memory_planner.target import MemoryRegion, TargetSpec, align_up
from toolchain.fit.design import Design, build_program
from toolchain.model.errors import Problem
from toolchain.model.names import linear_ids
from toolchain.model.program import Kind
from toolchain.options import SIZE_SHIFTS

SIZE_FORM = "bytes, or a size like 512 KiB or 4 MiB"


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes for the projections, `fixed` bytes of other weights already taken off."""

    capacity: int
    fixed: int


def parse_size(text: str | int) -> int | None:
    """Bytes of "4 MiB", "4MiB" or a number; None for what is none."""
    match = re.fullmatch(r"(\d{1,12}) *(B|KiB|MiB|GiB)?", str(text))
    return int(match[1]) << SIZE_SHIFTS[match[2] or "B"] if match else None


def budget_problem(target: TargetSpec, budget: Mapping[str, str | int]) -> Problem | None:
    """What is wrong with a budget: it is of regions that hold weights, and no larger than they are.

    Off-chip memory holds weights that are streamed.
    """
    outside = (target.off_chip.region,) if target.off_chip else ()
    regions = {name: target.region(name) for name in (*target.placement["weights"], *outside)}
    if not budget or not set(budget) <= set(regions):
        found = ", ".join(budget) or "nothing"
        return Problem("budget", found, f"some of {', '.join(regions)}, which hold weights")
    for name, text in budget.items():
        size = parse_size(text)
        if size is None:
            return Problem(f"budget.{name}", repr(text), SIZE_FORM)
        if not 0 < size <= regions[name].size:
            allowed = f"1..{regions[name].size:,} bytes"
            return Problem(f"budget.{name}", f"{size:,} bytes", allowed)
    return None


def room_of(design: Design, budgets: Mapping[MemoryRegion, int]) -> Room:
    """What budgets in bytes of regions leave for the projections.

    Taken off are the reserved bytes of each region, the header of its blob, and all weights that
    are no projections, each padded to the alignment.
    """
    align = max(region.align for region in budgets)
    sizes = weight_sizes(design, align)
    projections = set(linear_ids(design.shape))
    fixed = sum(size for op_id, size in sizes.items() if op_id not in projections)
    free = (
        budget - region.reserved - align_up(blob_header_size(len(sizes)), region.align)
        for region, budget in budgets.items()
    )
    return Room(sum(free) - fixed, fixed)


def weight_sizes(design: Design, align: int) -> dict[str, int]:
    """Packed bytes of every stored matrix by op id, padded to `align`."""
    program = build_program(design)
    return {
        spec.name.removesuffix(".weight"): align_up(spec.size, align)
        for spec in program.tensors.values()
        if spec.kind is Kind.WEIGHT
    }


def sizes_by_bits(design: Design, choices: Sequence[int], align: int) -> dict[str, dict[int, int]]:
    """Op id of each projection to bits to bytes, without widths that a wider one makes useless.

    A width stays only if every wider one takes more bytes. Projections that the program goes
    without take none.
    """
    found: dict[str, dict[int, int]] = {op_id: {} for op_id in linear_ids(design.shape)}
    for bits in sorted(choices, reverse=True):
        uniform = replace(design, quant=replace(design.quant, bits=bits, overrides=()))
        sizes = weight_sizes(uniform, align)
        for op_id, by_bits in found.items():
            size = sizes.get(op_id, 0)
            if all(size < other for other in by_bits.values()):
                by_bits[bits] = size
    return found
