"""Who multiplies: the choice by cost, what goes back to the cores, and why."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memory_planner.engine_chains import chains_of
from memory_planner.engine_cost import core_cycles, engine_cost
from memory_planner.engine_options import Option, Terms, arrangements, best_options
from memory_planner.engine_schedule import chain_times
from memory_planner.engines import EngineChoice, EngineWish
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.target import Pin
from memory_planner.target_file import load_target
from tests.memory_planner.engines import SIRACUSA, Lowered, lowered, planned, without_engine
from toolchain.model.engine_program import with_engine
from toolchain.model.errors import ConfigError
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import Kind
from toolchain.model.quantize import QuantConfig

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_heads": 4,
    "num_kv_heads": 2,
    "vocab_size": 130,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return lowered(tmp_path_factory.mktemp("model"), QuantConfig(4, -1), **SHAPE)


def test_cores_leave_the_program_as_it_is(model: Lowered) -> None:
    assigned = choose_engines(model.program, SIRACUSA, EngineWish(EngineChoice.CORES, model.bits))
    assert assigned.program is model.program
    assert {each.reason for each in assigned.decisions} == {"pinned to the cores"}
    assert {each.engine for each in assigned.decisions} == {"cores"}


def test_a_target_without_engine_has_no_decisions(model: Lowered) -> None:
    assigned = choose_engines(
        model.program, without_engine(), EngineWish(EngineChoice.AUTO, model.bits)
    )
    assert (assigned.program, assigned.decisions) == (model.program, ())
    with pytest.raises(ConfigError, match="--engine"):
        choose_engines(
            model.program, load_target("rv32"), EngineWish(EngineChoice.NEUREKA, model.bits)
        )


def test_auto_takes_what_is_faster(model: Lowered) -> None:
    assigned = choose_engines(model.program, SIRACUSA, EngineWish(EngineChoice.AUTO, model.bits))
    assert assigned.layouts
    for each in assigned.decisions:
        is_faster = each.engine_cycles < each.core_cycles
        assert (each.op in assigned.layouts) == is_faster
        assert (each.engine == "N-EUREKA") == is_faster


def test_the_arrangement_is_the_cheapest_one(model: Lowered) -> None:
    assigned = choose_engines(model.program, SIRACUSA, EngineWish(EngineChoice.NEUREKA, model.bits))
    for op in model.program.ops:
        if op.role in ("attn.o_proj", "mlp.down_proj", "lm_head"):
            layout = assigned.layouts[op.id]
            options = arrangements(model.program.layout_of(op), layout.bits)
            costs = [engine_cost(option, 2, SIRACUSA).cycles for option in options]
            assert engine_cost(layout, 2, SIRACUSA).cycles == min(costs)


def test_a_tail_is_tried_where_it_saves_a_tile() -> None:
    """252 inputs fill one tile of the dense arrangement; 256 need two, or 4 on the cores."""
    layout = WeightLayout(Packing.NIBBLE, 64, 256, 256)
    tails = {(each.taps, each.tail): each.tiles for each in arrangements(layout, 4)}
    assert tails == {(9, 0): 2, (9, 4): 1, (3, 0): 4, (3, 4): 3, (1, 0): 10, (1, 4): 9}
    grouped = replace(layout, group_size=64)
    assert not any(each.tail for each in arrangements(grouped, 4))


def test_bits_are_those_of_the_weights_and_not_of_their_fields(tmp_path: Path) -> None:
    model = lowered(tmp_path, QuantConfig(3, -1), **SHAPE)
    assigned = choose_engines(model.program, SIRACUSA, EngineWish(EngineChoice.NEUREKA, model.bits))
    assert assigned.layouts["l00.attn.q_proj"].bits == 3
    assert assigned.layouts["lm_head"].bits == 8


def test_a_tied_head_is_stored_apart(model: Lowered) -> None:
    assigned, plan = planned(model)
    assert "lm_head.weight" not in model.program.tensors
    embed = assigned.program.tensors["embed.weight"].layout
    assert isinstance(embed, WeightLayout)
    assert not embed.requant
    assert plan.placements["lm_head.weight"].region in ("mram", "tile_sram")


def test_tables_are_constants_beside_the_words(model: Lowered) -> None:
    program = planned(model)[0].program
    op = next(op for op in program.ops if op.id == "l01.mlp.down_proj")
    assert op.inputs[2:] == (
        "l01.mlp.down_proj.weight",
        "linear.shift",
        "l01.mlp.down_proj.requant",
    )
    assert program.tensors[op.inputs[4]].kind is Kind.CONST
    assert program.constants[op.inputs[4]] is program.constants[op.inputs[2]]


def test_nothing_on_the_engine_changes_nothing(model: Lowered) -> None:
    assert with_engine(model.program, {}) is model.program


def test_weights_that_the_engine_does_not_read_go_back(model: Lowered) -> None:
    target = limited_target(SIRACUSA, MemoryLimits({}, (Pin("l00.mlp.*.weight", "hyperram"),)))
    assigned, plan = planned(model, target=target)
    lost = {f"l00.mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    reasons = {each.op: each.reason for each in assigned.decisions if each.engine == "cores"}
    assert reasons == dict.fromkeys(lost, "off chip, streamed into l2")
    assert plan.placements["l01.mlp.up_proj.weight"].region == "mram"


@pytest.mark.parametrize("size", [22, 24, 26, 32, 40])
def test_a_small_l1_never_makes_a_model_fail(model: Lowered, size: int) -> None:
    target = limited_target(SIRACUSA, MemoryLimits({"l1": size << 8}, ()))
    plan_memory(model.program, target)
    assigned, _ = planned(model, target=target)
    for each in assigned.decisions:
        assert each.engine != "cores" or each.reason.endswith(" B") or "no room" in each.reason


def test_words_that_do_not_fit_go_back(tmp_path: Path) -> None:
    """On the chip there is room for the packed matrices of the cores, not for the head's words."""
    model = lowered(tmp_path, QuantConfig(8, -1), **{**SHAPE, "vocab_size": 500})
    target = replace(SIRACUSA, off_chip=None)
    need = sum(s.size for s in model.program.tensors.values() if s.kind is Kind.WEIGHT)
    small = {"mram": need // 32 * 32 + 4096, "tile_sram": 16384}
    target = limited_target(target, MemoryLimits(small, ()))
    plan_memory(model.program, target)
    assigned, plan = planned(model, target=target)
    back = [each for each in assigned.decisions if each.engine == "cores"]
    assert back
    assert {each.reason for each in back} == {"no room on chip"}
    assert all(region.free >= 0 for region in plan.regions)


def test_the_smallest_arrangements_are_found() -> None:
    layouts = [WeightLayout(Packing.NIBBLE, rows, 224, 224) for rows in (224, 32, 32)]
    linears = [(layout, 4) for layout in layouts]
    for smallest in (False, True):
        found = best_options(linears, 2, SIRACUSA, Terms(smallest=smallest))
        sizes = [each.layout.size for each in found if isinstance(each, Option)]
        least = [min(option.size for option in arrangements(each, 4)) for each in layouts]
        assert (sizes == least) == smallest
        assert all(size >= low for size, low in zip(sizes, least, strict=True))


def test_smaller_words_where_the_fastest_have_no_room(tmp_path: Path) -> None:
    """Chosen when that saves more cycles than fewer linears in the fastest arrangements."""
    shape: dict[str, Any] = {"hidden_size": 224, "intermediate_size": 736}
    shape |= {"num_heads": 7, "num_kv_heads": 1, "vocab_size": 64}
    model = lowered(tmp_path, QuantConfig(4, -1), **shape)
    wish = EngineWish(EngineChoice.AUTO, model.bits)
    fastest = choose_engines(model.program, SIRACUSA, wish).layouts
    smaller = set[str]()
    for size in range(400, 1400, 50):
        limits = MemoryLimits({"mram": size << 10, "tile_sram": 4096}, ())
        target = limited_target(SIRACUSA, limits)
        layouts = choose_engines(model.program, target, wish).layouts
        smaller |= {name for name in layouts if layouts[name].size < fastest[name].size}
    assert smaller


def test_linears_of_one_vector_share_it(model: Lowered) -> None:
    """q, k and v have one arrangement here, gate and up as well: 4 chains per block."""
    program = planned(model)[0].program
    chains = [[op.role for op in chain.ops] for chain in chains_of(program, SIRACUSA)]
    block = [
        ["attn.q_proj", "attn.k_proj", "attn.v_proj"],
        ["attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    assert chains == [*block, *block, ["lm_head"]]


def test_adjacent_words_are_one_job(model: Lowered) -> None:
    """The jobs of q, k and v count all their channels."""
    assigned, plan = planned(model)
    assert plan.engine is not None
    chain = plan.engine.chains[0]
    channels = [
        ((job.registers[18] >> 16) - 1) * 32 + (job.registers[15] >> 16) for job in chain.jobs
    ]
    layouts = [assigned.layouts[each.op] for each in chain.linears]
    assert sum(channels) == sum(layout.channels for layout in layouts)
    assert len(chain.jobs) < 3


def test_jobs_of_blocks_end_where_tensors_end(model: Lowered) -> None:
    """Rows of fused ops are finished tensor by tensor: more jobs would only cost."""
    assigned, plan = planned(model)
    assert plan.engine is not None
    for chain in plan.engine.chains[:-1]:
        assert all(len(linear.pieces) == 1 for linear in chain.linears)
        assert all(
            linear.pieces[0].channels == assigned.layouts[linear.op].channels
            for linear in chain.linears
        )


def test_parts_overlap_by_hand() -> None:
    """A head of 3 steps of channels: the cores finish a part while the engine computes the next."""
    layout = arrangements(WeightLayout(Packing.NIBBLE, 96, 252, 252), 4)[0]
    whole, parts = (engine_cost(layout, 2, SIRACUSA, parts=n) for n in (1, 8))
    assert SIRACUSA.engine is not None
    each = SIRACUSA.costs.barrier + SIRACUSA.engine.piece_cycles
    wake = SIRACUSA.engine.cycles.wake
    jobs, rows = whole.engine - wake, whole.finish - SIRACUSA.engine.piece_cycles
    ratio, ends = rows / jobs, [whole.engine + rows + each]
    for shares in ((1.0, ratio), (1.0, ratio, ratio**2)):
        now = done = 0.0
        for share in shares:
            done += jobs * share / sum(shares)
            now = max(now, done + wake) + rows * share / sum(shares) + each
        ends.append(now)
    assert min(ends) == ends[1]  # a third part costs more than it hides
    assert whole.cycles - parts.cycles == pytest.approx(ends[0] - ends[1])


def test_the_schedule_overlaps_jobs_and_cores(model: Lowered) -> None:
    assigned, plan = planned(model)
    assert plan.engine is not None
    for chain in plan.engine.chains:
        times = chain_times(assigned.program, SIRACUSA, plan, chain)
        jobs = [job.span for linear in times.linears for job in linear.jobs]
        assert all(one.end <= two.start for one, two in pairwise(jobs))
        end = 0.0
        for linear in times.linears:
            assert linear.span.start == end
            end = linear.span.end
            assert all(phase.span.end <= end for phase in linear.phases)
        assert jobs[-1].end < end


def test_a_large_head_comes_in_tiles_of_two_slots(tmp_path: Path) -> None:
    shape = {**SHAPE, "hidden_size": 256, "num_heads": 4, "vocab_size": 3001}
    model = lowered(tmp_path, QuantConfig(4, -1), **shape)
    target = limited_target(SIRACUSA, MemoryLimits({"l1": 32768}, ()))
    _, plan = planned(model, target=target)
    assert plan.engine is not None
    head = plan.engine.chains[-1]
    assert len(head.jobs) > 2
    assert {piece.accumulators for piece in head.linears[0].pieces} == {
        0,
        head.linears[0].pieces[1].accumulators,
    }


def test_costs_of_one_linear(model: Lowered) -> None:
    """64 x 64 with 4 bits, A8, 3 rows per channel: 24 channels, 22 inputs per tap."""
    layout = arrangements(WeightLayout(Packing.NIBBLE, 64, 64, 64), 4)[1]
    cost = engine_cost(layout, 1, SIRACUSA)
    assert (layout.channels, layout.input_channels) == (24, 22)
    assert cost.engine == 12 + 2 + (6 + 15 + 6 + 24 * 4 + 8) + 3 * 3
    assert cost.stage == 766 + 8 * 7
    engine = SIRACUSA.engine
    assert engine is not None
    row = engine.row_cycles + engine.sum_cycles
    assert cost.finish == pytest.approx(engine.piece_cycles + 8 * row)
    assert core_cycles(WeightLayout(Packing.NIBBLE, 64, 64, 64), SIRACUSA) > cost.cycles
