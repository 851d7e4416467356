"""Tile sizes and the transfers that follow from them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_planner.allocate import Buffer, allocate
from memory_planner.footprint import attention_slot_size
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan
from memory_planner.planner import plan_memory
from memory_planner.target import Link, TargetSpec, align_up
from memory_planner.target_file import load_target
from memory_planner.tile_sizes import best_within, tile_sizes
from memory_planner.tile_time import (
    CoreWork,
    LinearTiles,
    Run,
    attention_runs,
    overlapped_cycles,
    sequence_cycles,
)
from memory_planner.tiling import attention_sizes, chunk_sizes, max_transfer
from sim.cycle_model import op_cycles
from sim.op_cycles import Context
from tests.memory_planner.toy import TOY_SHAPE, toy_program, toy_target
from toolchain.fit.design import Design, build_program
from toolchain.fit.shapes import load_shape
from toolchain.model.packing import Packing
from toolchain.model.program import Op, OpKind, Program
from toolchain.model.quant_settings import QuantConfig

LINK = Link("link", ("far",), "near", 8.0, 20.0, 85.0, 4096)


def tiles(records: int, record_size: int = 288, per_record: float = 100.0) -> LinearTiles:
    work = CoreWork(per_record, call=50.0)
    return LinearTiles(records, record_size, work, LINK, cores=8, barrier=10.0)


def test_time_of_a_sequence() -> None:
    runs = [Run(3, 100, 30), Run(1, 50, 20)]
    # 100, then three times the longer of 30 and the next transfer, then 20
    assert sequence_cycles(runs, 2, 10) == 100 + 100 + 100 + 50 + 20
    assert sequence_cycles(runs, 1, 10) == 3 * 130 + 70 + 3 * 10
    assert sequence_cycles([Run(1, 100, 30)], 1, 10) == sequence_cycles([Run(1, 100, 30)], 2, 10)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 400))
def test_runs_are_tiles_one_by_one(records: int, per_tile: int, per_record: float) -> None:
    shape = tiles(records, per_record=per_record)
    each = [shape.run(1, min(per_tile, records - i)) for i in range(0, records, per_tile)]
    transfers, work = [run.transfer for run in each], [run.work for run in each]
    assert shape.cycles(per_tile, 2) == pytest.approx(overlapped_cycles(transfers, work))
    turns = sum(transfers) + sum(work) + 10.0 * (len(each) - 1)
    assert shape.cycles(per_tile, 1) == pytest.approx(turns)


@given(
    records=st.integers(1, 80),
    record_size=st.integers(4, 300).map(lambda n: 4 * n),
    per_record=st.floats(0, 3000),
    budget=st.integers(0, 20_000),
)
def test_the_best_size_is_the_best(
    records: int, record_size: int, per_record: float, budget: int
) -> None:
    """Against every number of records and of slots that the buffer and a transfer can hold."""
    shape = tiles(records, record_size, per_record)
    best = best_within(tile_sizes(shape, 8, 4096), budget)
    allowed = [
        (shape.cycles(count, slots), slots * align_up(count * record_size, 8))
        for count, slots in product(range(1, records + 1), (1, 2))
        if count * record_size <= max(4096, record_size)
        and slots * align_up(count * record_size, 8) <= budget
    ]
    least = allowed or [(shape.cycles(1, 1), align_up(record_size, 8))]
    assert (best.cycles, best.buffer_size) == min(least)
    assert best.cycles == shape.cycles(best.records, best.slots)


def test_a_tile_that_gains_nothing_is_smaller() -> None:
    # one record per core, work far longer than a transfer: cutting costs barriers and rounds
    assert best_within(tile_sizes(tiles(8), 8, 4096), 1e9).slots == 1
    # nothing to overlap with: one slot
    assert best_within(tile_sizes(tiles(1), 8, 4096), 1e9).buffer_size == 288


def siracusa(l1: int) -> TargetSpec:
    return limited_target(load_target("siracusa"), MemoryLimits({"l1": 1024 * l1}, ()))


def small(name: str, context: int) -> Program:
    return build_program(Design(load_shape(name).config, QuantConfig(), context))


PLANS = [
    *[(toy_program(), toy_target(l1=size)) for size in (2800, 3100, 3600, 16384)],
    (toy_program(packings={"l01.attn.q_proj": Packing.BYTE}), toy_target(l1=3300)),
    (toy_program(packing=Packing.BYTE, group_size=4), toy_target(cores=3, l1=4000)),
    *[
        (small(name, 64), siracusa(l1))
        for name, l1 in product(("stories260k", "bundled"), (8, 20, 200))
    ],
]


def _allowed(plan: Plan, program: Program, target: TargetSpec, op: Op) -> set[tuple[int, int]]:
    """Records and slots for which the region of tiles has room, all other buffers as planned."""
    assert target.tiling is not None
    region = target.region(target.tiling.region)
    room = region.size - region.reserved - plan.region(region.name).blob_size
    others = [
        Buffer(place.name, place.size, place.first, place.last)
        for place in plan.placements.values()
        if place.region == region.name and place.name != f"tile.{op.role}"
    ]
    own, layout = plan.placements[f"tile.{op.role}"], program.layout_of(op)
    found = set()
    for records in range(1, min(layout.records, max_transfer(target) // layout.record_size) + 1):
        slot = align_up(records * layout.record_size, region.align)
        for slots in (1, 2):
            tile = Buffer(own.name, max(slots * slot, 0), own.first, own.last)
            if allocate([*others, tile], region.align).height <= room:
                found.add((records, slots))
    return found


@pytest.mark.parametrize(("program", "target"), PLANS)
def test_no_other_tile_that_has_room_is_faster(program: Program, target: TargetSpec) -> None:
    """By the estimate of the simulator, on whole plans, at any budget."""
    plan = plan_memory(program, target)
    context = Context(program, plan, target, 0)
    seen = set()
    for op in program.ops:
        if op.kind is not OpKind.LINEAR or (op.role, program.layout_of(op)) in seen:
            continue
        seen.add((op.role, program.layout_of(op)))
        how = plan.linears[op.id]
        allowed = _allowed(plan, program, target, op)
        assert (how.records_per_tile, how.slots) in allowed
        least = op_cycles(context, op).total
        for records, slots in allowed:
            layout = program.layout_of(op)
            transfers = tuple(
                replace(
                    how.transfers[0],
                    records=min(records, layout.records - first),
                    size=min(records, layout.records - first) * layout.record_size,
                )
                for first in range(0, layout.records, records)
            )
            other = replace(how, records_per_tile=records, slots=slots, transfers=transfers)
            changed = replace(plan, linears={**plan.linears, op.id: other})
            assert op_cycles(Context(program, changed, target, 0), op).total >= least


def test_more_room_is_never_slower() -> None:
    program = small("stories260k", 64)
    times = []
    for size in (7, 8, 10, 14, 20, 64):
        narrow = siracusa(size)
        context = Context(program, plan_memory(program, narrow), narrow, 0)
        linears = [op for op in program.ops if op.kind is OpKind.LINEAR]
        times.append(sum(op_cycles(context, op).total for op in linears))
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


@pytest.mark.parametrize(
    ("context", "cap", "expected"),
    [
        (32, 16, [1, 2, 3, 4, 8, 12, 16]),
        (64, 64, [1, 2, 3, 4, *range(8, 33, 4)]),  # 16 bytes per position: 32 fit in 512
        (10, 64, [1, 2, 3, 4, 8, 12]),  # the whole cache at once, in rows of four positions
        (32, 2, [1, 2]),
    ],
)
def test_chunks_of_the_cache(context: int, cap: int, expected: list[int]) -> None:
    shape = replace(TOY_SHAPE, context=context)  # 8 bytes of row and 8 of scales per position
    assert chunk_sizes(shape, toy_target(slot_cap=512, positions_cap=cap)) == expected


def test_transfers_of_the_head() -> None:
    plan = plan_memory(toy_program(), toy_target())
    base = plan.placements["embed.weight"].offset
    # 97 rows of 4 per record: 25 records of 80 bytes, 4 rounds of 8 cores at least, of which
    # tiles of 7 have as many and a shorter first transfer
    facts = [
        (t.source_offset - base, t.slot, t.first_record, t.records, t.size)
        for t in plan.linears["lm_head"].transfers
    ]
    assert facts == [
        (0, 0, 0, 7, 560),
        (560, 1, 7, 7, 560),
        (1120, 0, 14, 7, 560),
        (1680, 1, 21, 4, 320),
    ]
    assert plan.linears["lm_head"].slot_size == 560
    assert plan.placements["tile.lm_head"].size == 1120


def test_blocks_of_different_packing_share_the_larger_tile() -> None:
    program = toy_program(packings={"l01.attn.q_proj": Packing.BYTE})
    plan = plan_memory(program, toy_target())
    one, two = plan.linears["l00.attn.q_proj"], plan.linears["l01.attn.q_proj"]
    assert one.tile_buffer == two.tile_buffer == "tile.attn.q_proj"
    assert (one.slot_size, two.slot_size) == (2 * 112, 4 * 88)
    assert plan.placements["tile.attn.q_proj"].size == 4 * 88  # no record per core: all at once


def test_chunks_and_slots_by_the_cost_model() -> None:
    """The chosen chunk beats every other one that the buffer holds."""
    shape = replace(TOY_SHAPE, context=200)
    target = toy_target(slot_cap=2048, positions_cap=64)
    link = target.link("tile_sram")
    for budget in (30, 60, 200, 700, 1600, 5000):
        best = best_within(attention_sizes(shape, target), budget)
        others = []
        for count, slots in product(chunk_sizes(shape, target), (1, 2)):
            runs = attention_runs(shape, link, target, 200, count)
            if slots * attention_slot_size(shape, count, 8) <= budget:
                others.append(sequence_cycles(runs, slots, target.costs.barrier))
        assert best.cycles == min(others, default=best.cycles)
        assert best.buffer_size <= max(budget, 16)


def test_little_memory_gives_attention_one_slot() -> None:
    """16 bytes of rows and scales per position: two slots of one position need 32."""
    sizes = attention_sizes(TOY_SHAPE, toy_target())
    assert (sizes[0].records, sizes[0].slots, sizes[0].buffer_size) == (1, 1, 16)
    assert {size.slots for size in sizes} == {1, 2}
