"""Tile sizes and the transfers that follow from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.planner import plan_memory
from memory_planner.tiling import positions_per_chunk, records_per_tile
from tests.memory_planner.toy import TOY_SHAPE, toy_program, toy_target
from toolchain.model.packing import Packing, WeightLayout


def layout(records: int, columns: int) -> WeightLayout:
    """Per-channel nibbles: a record has 8 rows and 32 + 4 * columns bytes."""
    return WeightLayout(Packing.NIBBLE, 8 * records, columns, columns)


# 8 cores, slots of at most 4096 bytes, transfers of at most 16384
TABLE = [
    # records, columns, halvings -> records per tile
    (4, 64, 0, 4),  # 288 bytes each: all at once
    (8, 64, 0, 8),  # one record per core: cutting would idle half of them
    (9, 64, 0, 8),  # more: two tiles, so that the second travels while the first is computed
    (14, 64, 0, 8),
    (100, 64, 0, 8),  # 14 would fit, whole rounds of 8 cores
    (100, 24, 0, 32),  # 128 bytes each: exactly the cap
    (40, 24, 0, 24),  # half of them, rounded up to the cores
    (100, 256, 0, 8),  # 1056 bytes each: one per core goes beyond the cap
    (100, 1016, 0, 4),  # 4096 bytes each: four per transfer at most
    (100, 24, 2, 8),
    (100, 24, 5, 1),
    (100, 24, 9, 1),
    (1, 4080, 0, 1),
]


@pytest.mark.parametrize(("records", "columns", "halvings", "expected"), TABLE)
def test_records_per_tile(records: int, columns: int, halvings: int, expected: int) -> None:
    target = toy_target(slot_cap=4096, max_transfer=16384)
    assert records_per_tile(layout(records, columns), target, halvings) == expected


@pytest.mark.parametrize(
    ("context", "cap", "halvings", "expected"),
    [
        (32, 16, 0, 16),
        (32, 64, 0, 20),  # 24 bytes per position: 21 fit in 512, 20 keep chunks aligned
        (10, 64, 0, 10),  # the whole cache at once
        (10, 64, 1, 4),
        (32, 16, 2, 4),
        (32, 16, 3, 2),
        (32, 16, 9, 1),
    ],
)
def test_positions_per_chunk(context: int, cap: int, halvings: int, expected: int) -> None:
    shape = replace(TOY_SHAPE, context=context)  # 8 bytes of row and 16 of scales per position
    target = toy_target(slot_cap=512, positions_cap=cap)
    assert positions_per_chunk(shape, target, halvings) == expected


def test_transfers_of_the_head() -> None:
    plan = plan_memory(toy_program(), toy_target())
    base = plan.placements["embed.weight"].offset
    # 97 rows of 4 per record: 25 records of 80 bytes, 6 fit the cap, 8 cores take 8
    facts = [
        (t.source_offset - base, t.slot, t.first_record, t.records, t.size)
        for t in plan.linears["lm_head"].transfers
    ]
    assert facts == [
        (0, 0, 0, 8, 640),
        (640, 1, 8, 8, 640),
        (1280, 0, 16, 8, 640),
        (1920, 1, 24, 1, 80),
    ]
    assert plan.linears["lm_head"].slot_size == 640
    assert plan.placements["tile.lm_head"].size == 1280


def test_blocks_of_different_packing_share_the_larger_tile() -> None:
    program = toy_program(packings={"l01.attn.q_proj": Packing.BYTE})
    plan = plan_memory(program, toy_target())
    one, two = plan.linears["l00.attn.q_proj"], plan.linears["l01.attn.q_proj"]
    assert one.tile_buffer == two.tile_buffer == "tile.attn.q_proj"
    assert (one.slot_size, two.slot_size) == (2 * 112, 4 * 88)
    assert plan.placements["tile.attn.q_proj"].size == 2 * 4 * 88
