"""The part of the plan check that is about off-chip memory: what travels when, into which slot."""

from __future__ import annotations

from itertools import accumulate

from memory_planner.plan import Plan, Stream, StreamPlan
from memory_planner.target import OffChip, TargetSpec
from toolchain.model.errors import Problem
from toolchain.model.program import Kind, Op, OpKind, Program

WORD = 4  # bytes: what the kernels read at a time
BLOB_HEADER = 96  # bytes of a blob that are checked at once, in the slots


def check_streams(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """Every off-chip weight is in its slot, whole, before its first reader begins."""
    needed = off_chip_weights(program, target, plan)
    streams, outside = plan.streams, target.off_chip
    if not needed or streams is None or outside is None:
        if bool(needed) == (streams is not None):
            return []
        found = "no streams" if needed else "streams"
        return [Problem("streams", found, f"{len(needed)} weights off chip")]
    problems = _check_slots(streams, outside, target, plan)
    problems += _check_sequence(program, streams)
    problems += _check_head(program, streams, plan, needed)
    readers = _readers(program, streams, needed)
    found_at = [stream.index for stream in streams.streams]
    wanted = sorted({*readers, *range(streams.head, streams.head + _parts(program, plan))})
    if found_at != wanted:
        problems.append(Problem("streams", f"indices {found_at}", f"indices {wanted}"))
    for op in program.ops:
        if op.kind is OpKind.EMBED and op.inputs[0] in needed:
            size = program.layout_of(op).record_size
            if size > streams.slot_size:
                found = f"a record of {size} bytes"
                problems.append(Problem(op.id, found, f"{streams.slot_size} bytes of a slot"))
    for stream in streams.streams:
        problems += _check_stream(stream, readers.get(stream.index, []), streams, plan)
    return problems


def off_chip_weights(program: Program, target: TargetSpec, plan: Plan) -> set[str]:
    """Names of the weights that lie off chip."""
    return {
        name
        for name, place in plan.placements.items()
        if target.off_chip
        and place.region == target.off_chip.region
        and name in program.tensors
        and program.tensors[name].kind is Kind.WEIGHT
    }


def _check_sequence(program: Program, streams: StreamPlan) -> list[Problem]:
    """Cuts are roles of a block in its order; the numbers of the sequence follow from them."""
    roles = list(dict.fromkeys(op.role for op in program.ops if op.layer >= 0))
    roles.sort(key=lambda role: not role.startswith("attn."))  # the first blocks may lack a part
    problems = []
    if [role for role in roles if role in streams.cuts] != list(streams.cuts):
        found = ", ".join(streams.cuts)
        problems.append(Problem("streams", f"cuts at {found}", "roles of a block, in order"))
    counts = [0] * program.shape.layers  # of streams, by block
    for op in program.ops:
        if op.layer >= 0 and op.role in streams.cuts:
            counts[op.layer] += 1
    regular = set(counts) == {len(streams.cuts)}
    begins = () if regular else tuple(accumulate(counts, initial=0))[:-1]
    if streams.begins != begins:
        found = f"blocks begin at streams {streams.begins}"
        problems.append(Problem("streams", found, f"{begins}"))
    first = sum(counts)
    if streams.head != first:
        problems.append(Problem("streams", f"head at {streams.head}", f"head at {first}"))
    least = max([first, *(stream.index + 1 for stream in streams.streams)])
    if streams.count != least + least % 2:
        allowed = f"{least + least % 2}: as many as there are, made even"
        problems.append(Problem("streams", f"{streams.count} streams of a step", allowed))
    return problems


def _head(program: Program) -> Op | None:
    ops = (op for op in program.ops if op.kind is OpKind.LINEAR and op.layer < 0)
    return next(ops, None)


def _parts(program: Program, plan: Plan) -> int:
    """Streams of the head, from the records of one."""
    head, streams = _head(program), plan.streams
    if head is None or streams is None or streams.part_records < 1:
        return 0
    return -(-program.layout_of(head).records // streams.part_records)


def _check_head(
    program: Program, streams: StreamPlan, plan: Plan, needed: set[str]
) -> list[Problem]:
    """The records of an off-chip head arrive in order, none twice; those of one on chip do not."""
    head = _head(program)
    outside = head is not None and program.weight_of(head).name in needed
    if head is None or not outside or streams.part_records < 1:
        if bool(outside) == (streams.part_records > 0):
            return []
        allowed = "1 or more" if outside else "0: the head is on chip"
        return [Problem("streams", f"{streams.part_records} records of the head", allowed)]
    layout, problems = program.layout_of(head), []
    base = plan.placements[program.weight_of(head).name].offset
    moved = {stream.index: stream for stream in streams.streams}
    for part in range(_parts(program, plan)):
        first = part * streams.part_records
        last = min(first + streams.part_records, layout.records)
        wanted = (base + first * layout.record_size, (last - first) * layout.record_size)
        stream = moved.get(streams.head + part)
        if stream is None or (stream.source_offset, stream.size) != wanted:
            problems.append(
                Problem(
                    f"stream {streams.head + part} of the head",
                    f"{stream}",
                    f"{wanted[1]} bytes from {wanted[0]}",
                )
            )
    return problems


def _readers(program: Program, streams: StreamPlan, needed: set[str]) -> dict[int, list[str]]:
    """The off-chip weights that blocks read from each stream; -1: from none."""
    found: dict[int, list[str]] = {}
    index, block = -1, -1  # of the latest stream, and the block in which it began
    for op in program.ops:
        if op.layer < 0:
            continue
        if op.role in streams.cuts:
            index, block = index + 1, op.layer
        read_from = index if block == op.layer else -1
        for name in op.inputs:
            if name in needed:
                found.setdefault(read_from, []).append(name)
    return found


def _check_slots(
    streams: StreamPlan, outside: OffChip, target: TargetSpec, plan: Plan
) -> list[Problem]:
    if (streams.region, streams.buffer) != (outside.region, "stream.slots"):
        found = f"from {streams.region} into {streams.buffer}"
        return [Problem("streams", found, f"from {outside.region} into stream.slots")]
    place = plan.placements.get(streams.buffer)
    if place is None or place.region not in [region.name for region in target.regions]:
        return []  # reported as a placement
    problems = []
    align = target.region(place.region).align
    if streams.slot_size < 1 or streams.slot_size % align:
        found = f"slots of {streams.slot_size} bytes"
        problems.append(Problem("streams", found, f"a multiple of {align} bytes"))
    if 2 * streams.slot_size > place.size or place.size < BLOB_HEADER:
        found = f"two slots of {streams.slot_size} bytes"
        allowed = f"{place.size} bytes of {place.name}, {BLOB_HEADER} or more"
        problems.append(Problem("streams", found, allowed))
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


def _check_stream(
    stream: Stream, names: list[str], streams: StreamPlan, plan: Plan
) -> list[Problem]:
    """The range is in the blob, fits a slot, and has every weight at a whole word."""
    where = f"stream {stream.index}"
    begin, end = stream.source_offset, stream.source_offset + stream.size
    problems = []
    if not 1 <= stream.size <= streams.slot_size:
        allowed = f"1 to {streams.slot_size} bytes of a slot"
        problems.append(Problem(where, f"{stream.size} bytes", allowed))
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
