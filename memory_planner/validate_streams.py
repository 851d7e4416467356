"""The part of the plan check that is about off-chip memory: streams and embedding records."""

from __future__ import annotations

from memory_planner.plan import BlockStream, Plan, StreamPlan
from memory_planner.target import OffChip, TargetSpec
from toolchain.model.errors import Problem
from toolchain.model.program import Kind, OpKind, Program

WORD = 4  # bytes: what the kernels read at a time


def check_streams(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """Every off-chip weight of a block is in its slot, whole, before the block begins."""
    needed = off_chip_weights(program, target, plan)
    streams, outside = plan.streams, target.off_chip
    if not needed or streams is None or outside is None:
        if bool(needed) == (streams is not None):
            return []
        found = "no streams" if needed else "streams"
        return [Problem("streams", found, f"{len(needed)} blocks have weights off chip")]
    problems = _check_slots(streams, outside, target, plan)
    layers = [block.layer for block in streams.blocks]
    if layers != sorted(needed):
        problems.append(Problem("streams", f"layers {layers}", f"layers {sorted(needed)}"))
    for block in streams.blocks:
        problems += _check_block(block, needed.get(block.layer, []), streams, plan)
    return problems


def check_embedding(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """An off-chip embedding has a buffer in which its largest read, one record, has room."""
    problems = []
    for op in program.ops:
        place = plan.placements.get(f"tile.{op.role}")
        if op.kind is not OpKind.EMBED or place is None:
            continue
        size = program.layout_of(op).record_size
        limit = min(
            (
                link.max_transfer
                for link in target.links
                if target.off_chip
                and target.off_chip.region in link.sources
                and link.destination == place.region
            ),
            default=0,
        )
        if not size <= min(place.size, limit):
            found = f"{place.size} bytes, transfers of at most {limit}"
            problems.append(Problem(place.name, found, f"{size} bytes or more"))
    return problems


def off_chip_weights(program: Program, target: TargetSpec, plan: Plan) -> dict[int, list[str]]:
    """Names of the weights of each block that lie off chip."""
    found: dict[int, list[str]] = {}
    for op in program.ops:
        for name in op.inputs:
            place = plan.placements.get(name)
            if (
                op.layer >= 0
                and program.tensors[name].kind is Kind.WEIGHT
                and target.off_chip
                and place
                and place.region == target.off_chip.region
            ):
                found.setdefault(op.layer, []).append(name)
    return found


def _check_slots(
    streams: StreamPlan, outside: OffChip, target: TargetSpec, plan: Plan
) -> list[Problem]:
    if (streams.region, streams.buffer) != (outside.region, "stream.blocks"):
        found = f"from {streams.region} into {streams.buffer}"
        return [Problem("streams", found, f"from {outside.region} into stream.blocks")]
    place = plan.placements.get(streams.buffer)
    if place is None or place.region not in [region.name for region in target.regions]:
        return []  # reported as a placement
    problems = []
    align = target.region(place.region).align
    if streams.slot_size < 1 or streams.slot_size % align:
        found = f"slots of {streams.slot_size} bytes"
        problems.append(Problem("streams", found, f"a multiple of {align} bytes"))
    if 2 * streams.slot_size > place.size:
        found = f"two slots of {streams.slot_size} bytes"
        problems.append(Problem("streams", found, f"{place.size} bytes of {place.name}"))
    limits = [
        link.max_transfer
        for link in target.links
        if outside.region in link.sources and link.destination == place.region
    ]
    if not limits or not WORD <= streams.max_transfer <= limits[0]:
        found = f"transfers of {streams.max_transfer} bytes to {place.region}"
        allowed = f"{WORD} to {limits[0]} bytes" if limits else "a region with a link"
        problems.append(Problem("streams", found, allowed))
    return problems


def _check_block(
    block: BlockStream, names: list[str], streams: StreamPlan, plan: Plan
) -> list[Problem]:
    """The range is in the blob, fits a slot, and has every weight at a whole word."""
    where = f"stream of layer {block.layer}"
    begin, end = block.source_offset, block.source_offset + block.size
    problems = []
    if not 1 <= block.size <= streams.slot_size:
        allowed = f"1 to {streams.slot_size} bytes of a slot"
        problems.append(Problem(where, f"{block.size} bytes", allowed))
    if streams.region in [region.name for region in plan.regions]:
        region = plan.region(streams.region)
        low, high = region.blob_base, region.blob_base + region.blob_size
        if begin < low or end > high:
            allowed = f"the blob of {region.name}, [{low}, {high})"
            problems.append(Problem(where, f"[{begin}, {end})", allowed))
    for name in names:
        place = plan.placements[name]
        if place.offset < begin or place.offset + place.size > end:
            found = f"[{begin}, {end})"
            allowed = f"all of {name} at [{place.offset}, {place.offset + place.size})"
            problems.append(Problem(where, found, allowed))
        if (place.offset - begin) % WORD:
            found = f"{name} {place.offset - begin} bytes behind its begin"
            problems.append(Problem(where, found, f"a multiple of {WORD} bytes"))
    return problems
