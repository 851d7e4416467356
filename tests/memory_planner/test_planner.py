"""plan_memory: places, reports, what gives way when L1 is short, and the error when nothing can."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.explain import PlanDoesNotFitError, peak_of
from memory_planner.plan import Plan
from memory_planner.planner import is_plannable, plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from tests.memory_planner.toy import TOY_SHAPE, flat_target, toy_program, toy_target
from tests.paths import STORIES, needs_shared
from toolchain.model.config import read_config
from toolchain.model.errors import DoesNotFitError
from toolchain.model.outline import LowerConfig, outline_program
from toolchain.model.packing import CORE_PACKINGS, Packing
from toolchain.model.program import Program, ProgramShape
from toolchain.model.quant_settings import QuantConfig


def rows_of(plan: Plan, region: str) -> dict[str, int]:
    return {row.category: row.size for row in plan.rows if row.region == region}


def test_regions_of_a_tiled_target() -> None:
    plan = plan_memory(toy_program(), toy_target())
    regions = {name: place.region for name, place in plan.placements.items()}
    assert {regions[name] for name in regions if name.endswith(".weight")} == {"mram"}
    assert {regions[name] for name in ("rope.table", "lut.exp2", "final.norm.gamma")} == {"l2"}
    assert {regions[name] for name in ("kv.k", "kv.k_scale", "kv.v", "kv.v_scale")} == {"tile_sram"}
    assert regions["resid"] == regions["scratch.mlp.swiglu"] == regions["tile.lm_head"] == "l1"
    assert regions["team.partials"] == "l1"


def test_report_rows_by_hand() -> None:
    """mram: embed 97 x 16 bytes (25 records of 4 rows) and 14 nibble matrices in groups of 8."""
    plan = plan_memory(toy_program(), toy_target())
    # records per block: q 2, k 1, v 1, o 2, gate 3, up 3 of 16 columns, down 2 of 24 columns
    words = 25 * 4 * 16 + 2 * (12 * 4 * 16 + 2 * 4 * 24)
    scales = 25 * 16 + 2 * (12 * (32 + 2 * 8) + 2 * (32 + 3 * 8))
    assert rows_of(plan, "mram") == {
        "weights": words,
        "scales": scales,
        "reserved": 32,
        "headers": 384,  # 96 + 15 * 16, to 64
        "padding": plan.region("mram").used - words - scales - 32 - 384,
    }
    assert rows_of(plan, "tile_sram") == {"kv_cache": 2 * 32 * 2 * 16, "reserved": 32}
    # fullest at the head: two tiles of 7 records, logits, quantized input and its scale
    assert rows_of(plan, "l1") == {
        "activations": 97 * 4 + 32 + 8,
        "dma_buffers": 2 * 560,
        "partials": 512,
        "stacks": 800,
        "padding": 4,
    }


@pytest.mark.parametrize("target", [toy_target(), flat_target()], ids=["toy", "flat"])
def test_rows_sum_to_used(target: TargetSpec) -> None:
    plan = plan_memory(toy_program(tied=False), target)
    for region in plan.regions:
        assert sum(rows_of(plan, region.name).values()) == region.used
        assert region.used + region.free == region.capacity


def test_tied_embedding_is_stored_once() -> None:
    tied, untied = (plan_memory(toy_program(tied=tied), toy_target()) for tied in (True, False))
    assert "lm_head.weight" not in tied.placements
    assert untied.region("mram").blob_size - tied.region("mram").blob_size >= 97 * 16
    assert tied.linears["lm_head"].weight == "embed.weight"


def test_flat_target_reads_in_place() -> None:
    plan = plan_memory(toy_program(), flat_target())
    assert not [name for name in plan.placements if name.startswith("tile.")]
    assert all(how.transfers == () and how.slot_size == 0 for how in plan.linears.values())
    assert plan.linears["lm_head"].records_per_tile == 25
    assert plan.attention.positions_per_chunk == TOY_SHAPE.context
    assert plan.attention.tile_buffer is None


def test_arena_reaches_the_bound_and_shares_bytes() -> None:
    plan = plan_memory(toy_program(), toy_target())
    region = plan.region("l1")
    assert region.arena_size == region.peak
    assert sum(p.size for p in plan.placements.values() if p.region == "l1") > 2 * region.peak


def test_weights_overflow_to_tile_sram_in_program_order() -> None:
    plan = plan_memory(toy_program(), toy_target(mram=4096))
    regions = {n: p.region for n, p in plan.placements.items() if n.endswith(".weight")}
    assert regions["embed.weight"] == regions["l00.attn.q_proj.weight"] == "mram"
    assert regions["l01.mlp.gate_proj.weight"] == "tile_sram"
    assert plan.region("tile_sram").blob_size > 0
    assert plan.placements["kv.k"].offset >= plan.region("tile_sram").arena_base


def test_cache_overflows_to_l2_tensor_by_tensor() -> None:
    plan = plan_memory(toy_program(), toy_target(tile_sram=32 + 1100))
    regions = [plan.placements[f"kv.{name}"].region for name in ("k", "k_scale", "v", "v_scale")]
    assert regions == ["tile_sram", "tile_sram", "l2", "l2"]


def l1_need(target: TargetSpec) -> int:
    return plan_memory(toy_program(), target).region("l1").used


def test_largest_buffer_of_the_fullest_step_gives_way_first() -> None:
    full = l1_need(toy_target())
    assert full == 800 + 2064
    plan = plan_memory(toy_program(), toy_target(l1=full - 8))
    # the head's tile of 1120 bytes is the largest there; the next best has 1040 in one slot
    assert (plan.linears["lm_head"].records_per_tile, plan.linears["lm_head"].slots) == (13, 1)
    assert plan.placements["logits"].region == "l1"
    # then attention: 2 * 256 bytes of chunks are as large as 512 bytes of scores
    plan = plan_memory(toy_program(), toy_target(l1=2500))
    assert plan.attention.positions_per_chunk < 16
    assert plan.placements["scratch.attn.attention"].region == "l1"


def near_target(**changes: int) -> TargetSpec:
    target = toy_target(**changes)
    assert target.tiling is not None
    return replace(target, tiling=replace(target.tiling, near_cache=True))


def test_a_cache_that_has_room_lies_beside_the_tiles() -> None:
    usual = plan_memory(toy_program(), toy_target(l1=1 << 16))
    plan = plan_memory(toy_program(), near_target(l1=1 << 16))
    names = [f"kv.{name}" for name in ("k", "k_scale", "v", "v_scale")]
    assert {plan.placements[name].region for name in names} == {"l1"}
    assert (plan.attention.tile_buffer, plan.attention.slot_size) == (None, 0)
    assert "tile.attn.attention" not in plan.placements
    assert plan.linears == usual.linears


def test_a_cache_is_near_as_a_whole_or_not_at_all() -> None:
    cache = sum(toy_program().tensors[f"kv.{n}"].size for n in ("k", "k_scale", "v", "v_scale"))
    need = l1_need(toy_target(l1=1 << 16))
    for room, regions in ((need + cache - 8, {"tile_sram"}), (need + cache, {"l1"})):
        plan = plan_memory(toy_program(), near_target(l1=room))
        assert {plan.placements[f"kv.{n}"].region for n in ("k", "v_scale")} == regions


def test_large_activations_move_to_the_fallback() -> None:
    plan = plan_memory(toy_program(), toy_target(l1=1800))
    moved = [
        name
        for name, place in plan.placements.items()
        if place.region == "tile_sram" and not name.startswith("kv.")
    ]
    assert "scratch.attn.attention" in moved
    assert "logits" in moved
    assert "resid" not in moved
    assert plan.region("l1").used <= 1800


def test_smaller_l1_never_uses_more_than_it_has() -> None:
    for l1 in range(3100, 1610, -40):
        target = toy_target(l1=l1)
        plan = plan_memory(toy_program(), target)
        assert plan.region("l1").used <= l1


def test_same_input_same_plan() -> None:
    first = plan_memory(toy_program(), toy_target(l1=1800))
    again = plan_memory(toy_program(), toy_target(l1=1800))
    assert first == again
    assert list(first.placements) == list(again.placements)


SHAPES = st.builds(
    ProgramShape,
    hidden=st.integers(1, 70),
    ffn=st.integers(1, 130),
    layers=st.integers(1, 3),
    heads=st.sampled_from([3, 6]),
    kv_heads=st.sampled_from([1, 3]),
    head_dim=st.sampled_from([2, 6, 10]),
    vocab=st.integers(1, 200),
    context=st.integers(1, 80),
)


@settings(max_examples=60)
@given(
    shape=SHAPES,
    packing=st.sampled_from(CORE_PACKINGS),
    tied=st.booleans(),
    group_size=st.sampled_from([4, 32, 1000]),
    l1=st.sampled_from([3000, 8000, 60000]),
)
def test_any_shape_fits_or_is_refused(
    shape: ProgramShape, packing: Packing, tied: bool, group_size: int, l1: int
) -> None:
    """plan_memory validates its own plan: a defect would be an InternalError."""
    program = toy_program(shape, packing=packing, tied=tied, group_size=group_size)
    for target in (
        toy_target(mram=60000, tile_sram=60000, l2=30000, l1=l1),
        flat_target(flash=200_000, sram=100_000),
    ):
        try:
            plan = plan_memory(program, target)
        except PlanDoesNotFitError:
            assert not is_plannable(program, target)
            continue
        assert is_plannable(program, target)
        assert validate_plan(program, target, plan) == []
        assert all(region.free >= 0 for region in plan.regions)


# ---------------------------------------------------------------- does not fit


def refused(program: Program, target: TargetSpec) -> PlanDoesNotFitError:
    with pytest.raises(PlanDoesNotFitError) as caught:
        plan_memory(program, target)
    return caught.value


def test_error_names_region_need_excess_step_and_buffers() -> None:
    # state does not fit tile SRAM nor L2
    target = toy_target(tile_sram=256, l2=2200)
    error = refused(toy_program(), target)
    assert isinstance(error, DoesNotFitError)
    (shortfall,) = error.shortfalls
    assert (shortfall.region, shortfall.capacity) == ("l2", 2200)
    assert shortfall.need == 2160 + 4 * 512
    assert shortfall.excess == shortfall.need - 2200
    names = [place.name for place in shortfall.peak.live]
    assert names[0] == "lut.sigmoid"
    assert {"kv.k", "kv.v", "rope.table"} <= set(names)
    text = str(error)
    assert "region l2: found 4,208 bytes needed (lut.sigmoid 514, kv.k 512" in text
    assert "allowed 2,200 bytes, 2,008 too many" in text


def test_error_names_the_fullest_op() -> None:
    error = refused(toy_program(), toy_target(l1=1450))
    (shortfall,) = error.shortfalls
    assert shortfall.region == "l1"
    assert shortfall.peak.op.startswith("l00.") or shortfall.peak.op == "lm_head"
    sizes = [place.size for place in shortfall.peak.live]
    assert sizes == sorted(sizes, reverse=True)
    assert f"region l1 at op {shortfall.peak.op}" in str(error)


def test_all_regions_that_lack_are_reported_together() -> None:
    error = refused(toy_program(), toy_target(mram=1024, tile_sram=2048, l2=1024))
    assert [shortfall.region for shortfall in error.shortfalls] == ["tile_sram", "l2"]


def test_json_has_the_facts_of_the_text() -> None:
    error = refused(toy_program(), toy_target(tile_sram=256, l2=2200))
    facts = json.loads(json.dumps(error.to_dict()))
    assert facts["error"] == "does_not_fit"
    assert facts["shortfalls"][0]["excess"] == 2008


def test_record_beyond_a_transfer_is_refused() -> None:
    with pytest.raises(DoesNotFitError, match=r"l00.mlp.down_proj.*at most 100|100 bytes in one"):
        plan_memory(toy_program(), toy_target(max_transfer=100))


def test_absurd_vocabulary_is_refused_quickly() -> None:
    shape = replace(TOY_SHAPE, vocab=10**9)
    assert refused(toy_program(shape), toy_target()).shortfalls


# ---------------------------------------------------------------- real shapes


def test_peak_of_siracusa_l1() -> None:
    shape = ProgramShape(256, 1008, 6, 8, 4, 32, 4096, 256)
    program = toy_program(shape, group_size=64)
    target = load_target("siracusa")
    plan = plan_memory(program, target)
    peak = peak_of(plan, program, target, "l1")
    assert peak.op == "lm_head"
    assert peak.size == plan.region("l1").peak
    assert [place.name for place in peak.live[:2]] == ["tile.lm_head", "logits"]


@needs_shared
@pytest.mark.parametrize("name", ["siracusa", "rv32"])
def test_stories_outline(name: str) -> None:
    config = read_config(STORIES)
    program = outline_program(config, QuantConfig(), LowerConfig(512))
    plan = plan_memory(program, load_target(name))
    assert sum(place.size for n, place in plan.placements.items() if n.startswith("kv.")) == (
        5 * 512 * 2 * (4 * 8 + 4 * 4)
    )
    assert all(region.arena_size == region.peak for region in plan.regions)
