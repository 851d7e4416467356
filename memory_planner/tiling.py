"""How many weight records and cache rows travel at a time, and the transfers that follow.

A slot holds whole records. A linear gets the number of records and of slots with which it is
fastest by the cost model (tile_sizes.py), among those for which its role's buffer has room, and so
does attention with cache rows, up to the target's caps.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from memory_planner.engine_chains import TableTiles, requant_layout_of, table_tiles
from memory_planner.footprint import TILE_PREFIX, attention_slot_size
from memory_planner.plan import AttentionPlan, LinearPlan, Plan, StreamPlan, Transfer
from memory_planner.target import CORES, Link, TargetSpec
from memory_planner.tile_sizes import TileSize, best_within, frontier_of, tile_sizes
from memory_planner.tile_time import attention_runs, linear_tiles, sequence_cycles
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Op, OpKind, Program, ProgramShape
from toolchain.model.requant_table import RequantLayout


def max_transfer(target: TargetSpec) -> int:
    """Bytes that one transfer can carry on every link to the tiles or the cores."""
    destination = target.tiling.region if target.tiling else CORES
    return min(link.max_transfer for link in target.links if link.destination == destination)


@dataclass(frozen=True, slots=True)
class RoleTiles:
    """The sizes that the tile buffer of a role can have: ascending, one tuple per kind of op."""

    sizes: tuple[tuple[int, ...], ...]
    usual: int  # bytes beyond which a buffer gives way before anything else does

    def within(self, budget: float) -> int:
        """Bytes of the largest buffer of at most `budget` bytes; of the smallest if none is."""
        return max(
            max((size for size in sizes if size <= budget), default=sizes[0])
            for sizes in self.sizes
        )

    def larger(self, size: int) -> Iterator[int]:
        """Buffers of more than `size` bytes, largest first."""
        found = self.within(float("inf"))
        while found > size:
            yield found
            smaller = self.within(found - 1)
            if smaller == found:
                return
            found = smaller


def role_tiles(
    program: Program, target: TargetSpec, off_chip: Set[str] = frozenset()
) -> dict[str, RoleTiles]:
    """What moves through tiles, by role in order of first use; `off_chip` weights come from there.

    Other weights are assumed on the link of their preferred region: their place is not known yet.
    """
    if target.tiling is None:
        return {}
    kinds: dict[str, dict[tuple[WeightLayout | None, bool], Op]] = {}
    tables = _table_sizes(program, target)
    for op in program.ops:
        if op.kind is OpKind.ATTENTION:
            kinds.setdefault(op.role, {})[None, False] = op
        elif program.engine_layout_of(op):
            continue
        elif op.kind is OpKind.LINEAR:
            outside = program.weight_of(op).name in off_chip
            kinds.setdefault(op.role, {})[program.layout_of(op), outside] = op
    tiles = {}
    for role in dict.fromkeys(op.role for op in program.ops):
        ops, sizes = kinds.get(role, {}), tables.get(role, ())
        frontiers = {_buffer_sizes(program, target, op, key[1]): None for key, op in ops.items()}
        usual = _usual_size(target, [layout for layout, _ in ops])
        if frontiers or sizes:
            frontiers.update({(size,): None for size in sizes})
            tiles[role] = RoleTiles(tuple(frontiers), max(usual, *sizes, 0))
    return tiles


def _table_sizes(program: Program, target: TargetSpec) -> dict[str, tuple[int, ...]]:
    """Bytes of all slots for the tables of engine linears, by role."""
    found: dict[str, dict[int, None]] = {}
    moved, roles = table_tiles(program, target), {op.id: op.role for op in program.ops}
    for op_id, tiles in moved.items():
        if tiles:
            found.setdefault(roles[op_id], {})[tiles.slots * tiles.slot_size] = None
    return {role: tuple(sizes) for role, sizes in found.items()}


def _buffer_sizes(program: Program, target: TargetSpec, op: Op, outside: bool) -> tuple[int, ...]:
    if op.kind is OpKind.ATTENTION:
        return tuple(size.buffer_size for size in attention_sizes(program.shape, target))
    layout = program.layout_of(op)
    region = target.placement["weights"][0]
    if outside and target.off_chip:
        region = target.off_chip.staging[0]
    frontier = linear_sizes(layout, target.link(region), target)
    return tuple(size.buffer_size for size in frontier)


def _usual_size(target: TargetSpec, layouts: Sequence[WeightLayout | None]) -> int:
    assert target.tiling is not None
    per_core = [target.cores * layout.record_size for layout in layouts if layout]
    return 2 * max(target.tiling.slot_cap, *per_core, 0)


def linear_sizes(layout: WeightLayout, link: Link, target: TargetSpec) -> tuple[TileSize, ...]:
    """The sizes of a matrix that are worth their bytes, smallest buffer first."""
    assert target.tiling is not None
    align = target.region(target.tiling.region).align
    return tile_sizes(linear_tiles(layout, link, target), align, max_transfer(target))


def chunk_sizes(shape: ProgramShape, target: TargetSpec) -> list[int]:
    """Cache rows that a slot may hold, fewest first, up to what the target's caps allow.

    Multiples of 4 unless fewer, for alignment; at least 1.
    """
    assert target.tiling is not None
    row = shape.kv_heads * shape.head_dim
    capped = target.tiling.slot_cap // (row + 4 * shape.kv_heads)
    most = min(target.tiling.positions_cap, capped, max_transfer(target) // row, shape.cache_rows)
    return [count for count in range(1, most + 1) if count < 4 or count % 4 == 0] or [1]


def attention_sizes(shape: ProgramShape, target: TargetSpec) -> tuple[TileSize, ...]:
    """The chunks of cache rows that are worth their bytes, smallest buffer first.

    Timed with a full cache, which comes over the link of its preferred region.
    """
    assert target.tiling is not None
    align = target.region(target.tiling.region).align
    link, barrier = target.link(target.placement["state"][0]), target.costs.barrier
    sizes = []
    for count in chunk_sizes(shape, target):
        runs = attention_runs(shape, link, target, shape.context, count)
        size = attention_slot_size(shape, count, align)
        sizes += [
            TileSize(count, slots, size, sequence_cycles(runs, slots, barrier)) for slots in (1, 2)
        ]
    return frontier_of(sizes)


def plan_linears(program: Program, target: TargetSpec, plan: Plan) -> dict[str, LinearPlan]:
    """A plan per LINEAR op; `plan` says where weights are read from and how large tiles may be."""
    plans = {}
    tables = table_tiles(program, target)
    for op in program.ops:
        if op.kind is not OpKind.LINEAR:
            continue
        if op.id in tables:
            near = target.tiling and plan.placements[op.inputs[-1]].region == target.tiling.region
            moved = None if near else tables[op.id]
            plans[op.id] = _table_plan(op, moved, requant_layout_of(program, op), plan)
            continue
        weight, layout = program.weight_of(op).name, program.layout_of(op)
        if target.tiling is None:
            plans[op.id] = LinearPlan(op.id, weight, layout.records, None, 0, ())
            continue
        buffer, source = TILE_PREFIX + op.role, plan.source(weight, op.layer)
        frontier = linear_sizes(
            _of_one_stream(op, layout, plan), target.link(source.region), target
        )
        best = best_within(frontier, plan.placements[buffer].size)
        parts = [(0, layout.records, source.offset)]
        if plan.streams and plan.placements[weight].region == plan.streams.region and op.layer < 0:
            parts = list(_head_parts(layout, plan, plan.streams))
        plans[op.id] = LinearPlan(
            op=op.id,
            weight=weight,
            records_per_tile=best.records,
            tile_buffer=buffer,
            slot_size=best.slot_size,
            transfers=tuple(
                transfer
                for part in parts
                for transfer in _transfers(layout, best.records, best.slots, part)
            ),
            slots=best.slots,
        )
    return plans


def idle_tables(program: Program, target: TargetSpec, near: Container[str]) -> set[str]:
    """Tile buffers of roles whose tables are all in `near`, tensors in the tiles' region."""
    tables = table_tiles(program, target)
    found: dict[str, bool] = {}
    for op in program.ops:
        if op.id in tables:
            found[op.role] = found.get(op.role, True) and op.inputs[-1] in near
        elif op.kind is OpKind.LINEAR:
            found[op.role] = False
    return {TILE_PREFIX + role for role, idle in found.items() if idle}


def _table_plan(op: Op, tiles: TableTiles | None, layout: RequantLayout, plan: Plan) -> LinearPlan:
    """How the table of a linear on the engine reaches the cores."""
    name = op.inputs[-1]
    if tiles is None:
        return LinearPlan(op.id, name, layout.records, None, 0, ())
    offset = plan.placements[name].offset
    return LinearPlan(
        op=op.id,
        weight=name,
        records_per_tile=tiles.records,
        tile_buffer=TILE_PREFIX + op.role,
        slot_size=tiles.slot_size,
        transfers=_transfers(layout, tiles.records, tiles.slots, (0, layout.records, offset)),
        slots=tiles.slots,
    )


def cache_roles(program: Program) -> frozenset[str]:
    """Roles of the ops that read the KV cache."""
    return frozenset(op.role for op in program.ops if op.kind is OpKind.ATTENTION)


def plan_attention(program: Program, target: TargetSpec, tiles: Mapping[str, int]) -> AttentionPlan:
    """How attention reads the cache, the same for every block; `tiles` are bytes by role."""
    moved = [role for role in cache_roles(program) if role in tiles]
    if target.tiling is None or not moved:
        return AttentionPlan(program.shape.context, None, 0)
    role = moved[0]
    best = best_within(attention_sizes(program.shape, target), tiles[role])
    return AttentionPlan(best.records, TILE_PREFIX + role, best.slot_size, best.slots)


def _of_one_stream(op: Op, layout: WeightLayout, plan: Plan) -> WeightLayout:
    """The layout of the rows that the kernel gets at a time: of a head off chip, one stream."""
    streams = plan.streams
    if streams is None or op.layer >= 0 or plan.placements[op.inputs[2]].region != streams.region:
        return layout
    rows = min(layout.rows, streams.part_records * layout.packing.rows)
    return replace(layout, rows=rows)


def _head_parts(
    layout: WeightLayout, plan: Plan, streams: StreamPlan
) -> Iterator[tuple[int, int, int]]:
    """(first record, end, offset in the staging region) of each stream of the head."""
    base = plan.placements[streams.buffer].offset
    for index in range(streams.head, streams.head - (-layout.records // streams.part_records)):
        first = (index - streams.head) * streams.part_records
        yield first, min(first + streams.part_records, layout.records), base + streams.slot(index)


def _transfers(
    layout: WeightLayout | RequantLayout, count: int, slots: int, part: tuple[int, int, int]
) -> tuple[Transfer, ...]:
    """The tiles of the records of `part`: (first, end, offset of the first one)."""
    size = layout.record_size
    begin, end, source = part
    return tuple(
        Transfer(
            source_offset=source + (first - begin) * size,
            slot=index % slots,
            first_record=first,
            records=min(count, end - first),
            size=min(count, end - first) * size,
        )
        for index, first in enumerate(range(begin, end, count))
    )
