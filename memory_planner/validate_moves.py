"""The part of the plan check that is about data on the move: tiles, transfers, cache chunks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

from memory_planner.plan import LinearPlan, Plan, Transfer
from memory_planner.target import TargetSpec, Tiling
from toolchain.model.errors import Problem
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Op, OpKind, Program
from toolchain.model.requant_table import RequantLayout


def check_linears(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """Every linear has a plan that brings each record to the cores exactly once, in order."""
    ops = {op.id: op for op in program.ops if op.kind is OpKind.LINEAR}
    problems = []
    for name in sorted(set(ops) ^ set(plan.linears)):
        allowed = "one per linear op"
        problems.append(Problem(name, "no plan" if name in ops else "a plan", allowed))
    for name, op in ops.items():
        how = plan.linears.get(name)
        weight, layout = _moved(program, op)
        if how is None or weight not in plan.placements:
            continue
        if how.weight != weight or how.op != name:
            found = f"a plan for {how.op} with weight {how.weight}"
            problems.append(Problem(name, found, f"{name} with {weight}"))
        elif target.tiling is None or (isinstance(layout, RequantLayout) and not how.tile_buffer):
            problems += _check_in_place(how, layout)
        else:
            problems += _check_tiled(op, how, layout, target, plan)
    return problems


Moved = WeightLayout | RequantLayout


def _moved(program: Program, op: Op) -> tuple[str, Moved]:
    """What a linear's cores read: its matrix, or the table beside the engine's words."""
    spec = program.weight_of(op)
    if isinstance(spec.layout, WeightLayout):
        return spec.name, spec.layout
    table = program.tensors[op.inputs[-1]]
    assert isinstance(table.layout, RequantLayout)
    return table.name, table.layout


def has_near_cache(op: Op, tiling: Tiling, plan: Plan) -> bool:
    """Whether all of the KV cache lies where its tiles would be."""
    regions = {plan.placements[name].region for name in op.inputs[2:6]}
    return tiling.near_cache and regions == {tiling.region}


def check_attention(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """The chunks of the KV cache fit their slots and the transfers."""
    ops = [op for op in program.ops if op.kind is OpKind.ATTENTION]
    how, shape = plan.attention, program.shape
    near = ops and target.tiling and has_near_cache(ops[0], target.tiling, plan)
    if target.tiling is None or not ops or near:
        if (how.positions_per_chunk, how.tile_buffer, how.slot_size) != (shape.context, None, 0):
            return [Problem("attention", f"{how}", f"{shape.context} positions read in place")]
        return []
    row = shape.kv_heads * shape.head_dim
    positions = how.positions_per_chunk
    need = (positions * row + 3) // 4 * 4 + 4 * positions * shape.kv_heads
    problems = []
    most = (shape.context + 3) // 4 * 4
    if not 1 <= positions <= most:
        found = f"{positions} positions per chunk"
        problems.append(Problem("attention", found, f"1 to {most}"))
    if how.slot_size < need:
        problems.append(Problem("attention", f"slots of {how.slot_size} bytes", f"{need} or more"))
    if how.slots not in (1, 2):
        return [*problems, Problem("attention", f"{how.slots} slots", "1 or 2 slots")]
    problems += _check_slots(ops[0], how.tile_buffer, (how.slots, how.slot_size), target, plan)
    limit = min(
        link.max_transfer for link in target.links if link.destination == target.tiling.region
    )
    if positions * row > limit or how.slot_size > limit:
        found = f"transfers of {max(positions * row, how.slot_size)} bytes"
        problems.append(Problem("attention", found, f"at most {limit}"))
    return problems


def _check_in_place(how: LinearPlan, layout: Moved) -> list[Problem]:
    found = (how.records_per_tile, how.tile_buffer, how.slot_size, len(how.transfers))
    if found == (layout.records, None, 0, 0):
        return []
    return [Problem(how.op, f"{how}", f"{layout.records} records read in place")]


def _check_tiled(
    op: Op, how: LinearPlan, layout: Moved, target: TargetSpec, plan: Plan
) -> list[Problem]:
    if how.slots not in (1, 2):
        return [Problem(op.id, f"{how.slots} slots", "1 or 2 slots")]
    problems = _check_slots(op, how.tile_buffer, (how.slots, how.slot_size), target, plan)
    limit, whole = None, 0
    ordered = sorted(enumerate(how.transfers), key=lambda pair: pair[1].first_record)
    firsts = [transfer.first_record for _, transfer in ordered]
    for part in _read_from(op, how, layout, plan):
        limit = _limit(part.region, target)
        if limit is None:
            return [*problems, Problem(op.id, f"weight in {part.region}", "a region with a link")]
        span = bisect_left(firsts, part.first), bisect_left(firsts, part.last)
        tiles = [transfer for _, transfer in sorted(ordered[slice(*span)], key=itemgetter(0))]
        whole += len(tiles)
        problems += _check_part(op, how, layout, (part, tiles, limit))
    if whole != len(how.transfers):
        problems.append(Problem(op.id, f"{len(how.transfers)} transfers", f"{whole} within it"))
    return problems


@dataclass(frozen=True, slots=True)
class _Part:
    """Records that the kernel gets at a time, all of them unless a head comes in streams."""

    region: str
    offset: int  # of the first one
    first: int
    last: int


def _limit(region: str, target: TargetSpec) -> int | None:
    limits = (
        link.max_transfer
        for link in target.links
        if region in link.sources and target.tiling and link.destination == target.tiling.region
    )
    return next(limits, None)


def _check_part(
    op: Op,
    how: LinearPlan,
    layout: Moved,
    facts: tuple[_Part, list[Transfer], int],
) -> list[Problem]:
    """The tiles of one part; facts: it, its transfers, bytes that one may carry."""
    part, tiles, limit = facts
    problems = []
    largest = min(how.slot_size, limit, how.records_per_tile * layout.record_size)
    ends = [part.first] + [tile.first_record + tile.records for tile in tiles]
    if ends[-1] != part.last:
        found = f"transfers that end at record {ends[-1]}"
        problems.append(Problem(op.id, found, f"{part.last} records"))
    base = part.offset - part.first * layout.record_size
    end = part.offset + (part.last - part.first) * layout.record_size
    for index, (tile, (begin, _)) in enumerate(zip(tiles, pairwise(ends), strict=True)):
        bounds = (begin, layout, base, end, largest, how.slots)
        problems += _check_transfer(op, index, tile, bounds)
    short = [t for t in tiles[:-1] if t.records != how.records_per_tile]
    if short:
        # the kernel computes the tiles from records_per_tile alone
        found = f"a tile of {short[0].records} records before the last"
        problems.append(Problem(op.id, found, f"{how.records_per_tile} records"))
    return problems


def _check_transfer(
    op: Op, index: int, transfer: Transfer, facts: tuple[int, Moved, int, int, int, int]
) -> list[Problem]:
    """One transfer; facts: first record expected, layout, where record 0 would lie, where the
    part ends, largest size, slots."""
    begin, layout, base, last, largest, slots = facts
    where = f"{op.id} transfer {index}"
    wanted = [
        ("first record", transfer.first_record, begin),
        ("slot", transfer.slot, index % slots),
        ("source offset", transfer.source_offset, base + begin * layout.record_size),
        ("size", transfer.size, transfer.records * layout.record_size),
    ]
    problems = [
        Problem(where, f"{name} {found}", f"{allowed}")
        for name, found, allowed in wanted
        if found != allowed
    ]
    if transfer.records < 1 or transfer.size > largest:
        found = f"{transfer.records} records of {transfer.size} bytes"
        problems.append(Problem(where, found, f"1 record to {largest} bytes"))
    if transfer.source_offset + transfer.size > last:
        end = transfer.source_offset + transfer.size
        problems.append(Problem(where, f"end {end}", f"the weight's end, {last}"))
    return problems


def _read_from(op: Op, how: LinearPlan, layout: Moved, plan: Plan) -> list[_Part]:
    """Where the weight lies, or its copy in the slot of its stream, or each part of a head."""
    place, streams = plan.placements[how.weight], plan.streams
    buffer = plan.placements.get(streams.buffer) if streams else None
    if streams is None or buffer is None or place.region != streams.region:
        return [_Part(place.region, place.offset, 0, layout.records)]
    parts = []
    for stream in streams.streams:
        slot = buffer.offset + (stream.index & 1) * streams.slot_size
        inside = 0 <= place.offset - stream.source_offset < stream.size
        if op.layer >= 0 and stream.index in streams.of_block(op.layer) and inside:
            begin = slot + place.offset - stream.source_offset
            return [_Part(buffer.region, begin, 0, layout.records)]
        if op.layer < 0 and stream.index >= streams.head:
            first = (stream.index - streams.head) * streams.part_records
            last = min(first + streams.part_records, layout.records)
            parts.append(_Part(buffer.region, slot, first, last))
    return parts


def _check_slots(
    op: Op,
    tile_buffer: str | None,
    slots: tuple[int, int],
    target: TargetSpec,
    plan: Plan,
) -> list[Problem]:
    """The op's own tile buffer holds its aligned slots; `slots` are their number and size."""
    count, slot_size = slots
    name = f"tile.{op.role}"
    if tile_buffer != name:
        return [Problem(op.id, f"tile buffer {tile_buffer}", name)]
    place = plan.placements.get(name)
    if place is None or target.tiling is None:
        return []  # the missing placement is reported as such
    align = target.region(target.tiling.region).align
    problems = []
    if slot_size < 1 or slot_size % align:
        found = f"slots of {slot_size} bytes"
        problems.append(Problem(op.id, found, f"a multiple of {align} bytes"))
    if count * slot_size > place.size:
        found = f"{('', 'one slot', 'two slots')[count]} of {slot_size} bytes"
        problems.append(Problem(op.id, found, f"{place.size} bytes of {name}"))
    return problems
