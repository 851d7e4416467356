"""How many weight records and cache rows travel at a time, and the transfers that follow.

A slot holds whole records. It is filled up to the target's cap, in multiples of the core count so
that no core idles, and with at least one record per core even beyond the cap; a matrix of more
than one record per core is cut into two tiles or more, so that work overlaps with transfers.
When memory is short the planner halves the tiles of a role (`halvings`) down to one record, and
then gives up the second slot: transfer and work take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory_planner.footprint import TILE_PREFIX, attention_slot_size
from memory_planner.plan import AttentionPlan, LinearPlan, Plan, Transfer
from memory_planner.target import CORES, TargetSpec, align_up
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Op, OpKind, Program, ProgramShape


def max_transfer(target: TargetSpec) -> int:
    """Bytes that one transfer can carry on every link to the tiles or the cores."""
    destination = target.tiling.region if target.tiling else CORES
    return min(link.max_transfer for link in target.links if link.destination == destination)


def records_per_tile(layout: WeightLayout, target: TargetSpec, halvings: int) -> int:
    """Records of one slot, at least 1, after halving the preferred number `halvings` times."""
    return max(1, _preferred_records(layout, target) >> halvings)


def tile_slots(op: Op, program: Program, target: TargetSpec, halvings: int) -> int:
    """Slots of the op's tiles: 2, but 1 when even one record in each is too much.

    The record of an embedding has one slot: nothing overlaps with its transfer.
    """
    if op.kind is OpKind.EMBED:
        return 1
    if op.kind is not OpKind.LINEAR:
        return 2
    return 2 if _preferred_records(program.layout_of(op), target) >> halvings else 1


def _preferred_records(layout: WeightLayout, target: TargetSpec) -> int:
    assert target.tiling is not None
    cores = target.cores
    capped = target.tiling.slot_cap // layout.record_size // cores * cores
    two_tiles = align_up(align_up(layout.records, 2) // 2, cores)
    limit = max_transfer(target) // layout.record_size
    return min(max(capped, cores), two_tiles, layout.records, limit)


def positions_per_chunk(shape: ProgramShape, target: TargetSpec, halvings: int) -> int:
    """Cache rows of one slot, at least 1; a multiple of 4 unless fewer or all, for alignment."""
    if target.tiling is None:
        return shape.context
    row = shape.kv_heads * shape.head_dim
    capped = target.tiling.slot_cap // (row + 8 * shape.kv_heads)
    preferred = min(target.tiling.positions_cap, capped, max_transfer(target) // row)
    if preferred >= shape.context and not halvings:
        return shape.context
    chunk = min(preferred, shape.context) >> halvings
    return max(1, chunk // 4 * 4 if chunk >= 4 else chunk)


def slot_size(program: Program, op: Op, target: TargetSpec, halvings: int) -> int:
    """Bytes of one slot of the op's tile buffer; 0 when it reads in place or moves nothing.

    Of an embedding, which reads in place unless it is off chip, one record.
    """
    if target.tiling is None or op.kind not in (OpKind.LINEAR, OpKind.ATTENTION, OpKind.EMBED):
        return 0
    align = target.region(target.tiling.region).align
    if op.kind is OpKind.ATTENTION:
        positions = positions_per_chunk(program.shape, target, halvings)
        return attention_slot_size(program.shape, positions, align)
    layout = program.layout_of(op)
    if op.kind is OpKind.EMBED:
        return align_up(layout.record_size, align)
    return align_up(records_per_tile(layout, target, halvings) * layout.record_size, align)


def plan_linears(
    program: Program, target: TargetSpec, halvings: Mapping[str, int], plan: Plan
) -> dict[str, LinearPlan]:
    """A plan per LINEAR op. `halvings` is by role; `plan` says where the weights are read from."""
    plans = {}
    for op in program.ops:
        if op.kind is not OpKind.LINEAR:
            continue
        weight, layout = program.weight_of(op).name, program.layout_of(op)
        if target.tiling is None:
            plans[op.id] = LinearPlan(op.id, weight, layout.records, None, 0, ())
            continue
        steps = halvings.get(op.role, 0)
        count = records_per_tile(layout, target, steps)
        slots = tile_slots(op, program, target, steps)
        slot = slot_size(program, op, target, steps)
        transfers = _transfers(layout, count, slots, plan.source(weight, op.layer).offset)
        buffer = TILE_PREFIX + op.role
        plans[op.id] = LinearPlan(op.id, weight, count, buffer, slot, transfers, slots)
    return plans


def plan_attention(
    program: Program, target: TargetSpec, halvings: Mapping[str, int]
) -> AttentionPlan:
    """How attention reads the cache; the same for every block."""
    ops: Sequence[Op] = [op for op in program.ops if op.kind is OpKind.ATTENTION]
    if target.tiling is None or not ops:
        return AttentionPlan(program.shape.context, None, 0)
    steps = halvings.get(ops[0].role, 0)
    positions = positions_per_chunk(program.shape, target, steps)
    slot = slot_size(program, ops[0], target, steps)
    return AttentionPlan(positions, TILE_PREFIX + ops[0].role, slot)


def _transfers(layout: WeightLayout, count: int, slots: int, source: int) -> tuple[Transfer, ...]:
    size = layout.record_size
    return tuple(
        Transfer(
            source_offset=source + first * size,
            slot=index % slots,
            first_record=first,
            records=min(count, layout.records - first),
            size=min(count, layout.records - first) * size,
        )
        for index, first in enumerate(range(0, layout.records, count))
    )
