"""The latency estimate: formulas and the overlap rule by hand, and the bandwidth bound."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from memory_planner.planner import plan_memory
from memory_planner.target import Link, TargetSpec
from memory_planner.target_file import load_target
from memory_planner.tile_time import overlapped_cycles, transfer_cycles
from sim.latency import LatencyReport, OpLatency, estimate
from tests.memory_planner.toy import COSTS, TOY_SHAPE, flat_target, toy_program, toy_target
from toolchain.model.packing import CORE_PACKINGS
from toolchain.model.program import Program


def report(program: Program, target: TargetSpec, position: int = 10) -> LatencyReport:
    return estimate(program, plan_memory(program, target), target, position)


def op(result: LatencyReport, name: str) -> OpLatency:
    return next(each for each in result.ops if each.id == name)


def test_transfer_cost() -> None:
    link = Link("x", ("a",), "b", 8.0, 20.0, 85.0, 4096)
    assert transfer_cycles(link, 8) == 85.0
    assert transfer_cycles(link, 520) == 85.0
    assert transfer_cycles(link, 800) == 120.0


@pytest.mark.parametrize(
    ("dma", "compute", "total"),
    [
        ([100], [30], 130),  # nothing to overlap with
        ([100, 100, 50], [30, 30, 30], 100 + 100 + 50 + 30),  # waits for the link
        ([100, 100, 50], [300, 300, 300], 100 + 900),  # only the first transfer is seen
        ([100, 200, 50], [150, 150, 20], 100 + 200 + 150 + 20),  # a bit of both
    ],
)
def test_overlap_by_hand(dma: list[float], compute: list[float], total: float) -> None:
    assert overlapped_cycles(dma, compute) == total


def test_tiled_linear_by_hand() -> None:
    """The head: 25 records of 80 bytes, tiles of 7, 7, 7 and 4 records, 8 cores, 16 columns."""
    result = op(report(toy_program(), toy_target()), "lm_head")
    record = 4 * 16 * 4.0 + 4 * 20.0  # one group: no combination
    tile, first, last = 10.0 + record, 20 + 560 / 8, 85.0  # 320 bytes take the minimum
    assert result.dma_cycles == 3 * first + last
    assert result.compute_cycles == 4 * tile + 10.0
    assert result.total_cycles == first + 4 * tile + 10.0  # work is longer than each transfer
    assert result.bound_by == "cores"


def test_group_combination_is_paid_per_row_and_group() -> None:
    """q_proj of toy: 2 records of 8 rows, 16 columns in groups of 8, on 8 cores."""
    result = op(report(toy_program(), toy_target()), "l00.attn.q_proj")
    assert result.compute_cycles == 10 + (8 * 16 * 4 + 8 * 2 * 5 + 8 * 20) + 10


def test_slow_link_bounds_the_op() -> None:
    target = toy_target()
    slow = tuple(replace(link, bytes_per_cycle=0.05) for link in target.links)
    result = op(report(toy_program(), replace(target, links=slow)), "lm_head")
    assert result.bound_by == "dma"
    dma = 2 * 20 + 25 * 80 / 0.05  # in two tiles, of which the last has a record per core at most
    assert result.total_cycles == round(dma + (10 + 4 * 16 * 4 + 4 * 20) + 10)


def test_in_place_linear_by_hand() -> None:
    result = op(report(toy_program(), flat_target()), "lm_head")
    assert result.dma_cycles == 0
    assert result.compute_cycles == result.total_cycles == 25 * (4 * 16 * 4 + 4 * 20) + 10


def test_attention_by_hand() -> None:
    """Position 10, one core: 11 rows, 4 heads of 4, read in place."""
    result = op(report(toy_program(), flat_target()), "l00.attn.attention")
    score = 40.0 + 2 * 4 * 5.0  # softmax, products with k and v
    assert result.total_cycles == 11 * 4 * score + 10


def test_tiled_attention_by_hand() -> None:
    """Position 19, 8 cores: one head each; rows in chunks of 16 and 4."""
    result = op(report(toy_program(), toy_target(), position=19), "l00.attn.attention")
    visit = 20.0 + 20.0
    work = [10 + 16 * visit, 10 + 4 * visit] * 2
    dma = [2 * 85.0] * 4  # every transfer takes the minimum
    table = 14.0 * 4 * 20 / 8  # the exponential table is in L2: 20 instead of 6 cycles per load
    assert result.dma_cycles == sum(dma)
    hidden = max(work[0], dma[1]) + max(work[1], dma[2]) + max(work[2], dma[3])
    total = dma[0] + hidden + work[3] + 10 + table
    assert result.total_cycles == total


def test_bandwidth_bound_counts_weights_and_cache_once() -> None:
    program = toy_program()
    result = report(program, toy_target(), position=7)
    weights = sum(spec.size for spec in program.tensors.values() if spec.layout)
    cache = 2 * 8 * 2 * (8 + 8)  # blocks, rows, k and v, row and scales
    (nms, l2) = result.links
    assert (nms.link, nms.weights, nms.kv_cache, nms.tables) == ("nms", weights, cache, 0)
    shape = program.shape
    norms = (2 * shape.layers + 1) * 2 * shape.hidden
    once = 4 + 4 * (7 * shape.layers + 1) + 2 * 256 + 2 * 257 + 2 * shape.head_dim
    assert (l2.weights, l2.kv_cache, l2.tables) == (0, 0, norms + once)
    assert result.bound_cycles == round((weights + cache) / 8)
    assert result.bound_tokens_per_second == 1_000_000 / result.bound_cycles


def test_one_row_of_an_untied_embedding_is_read() -> None:
    """A tied one is read whole by the head."""
    tied, untied = (report(toy_program(tied=tied), toy_target()) for tied in (True, False))
    assert untied.links[0].weights - tied.links[0].weights == 4 * 16  # a record of four rows


@pytest.mark.parametrize("target", [toy_target(), flat_target(), load_target("siracusa")])
def test_estimate_is_never_below_the_bound(target: TargetSpec) -> None:
    for packing in CORE_PACKINGS:
        result = report(toy_program(packing=packing), target)
        assert result.cycles_per_token >= result.bound_cycles
        assert result.tokens_per_second <= result.bound_tokens_per_second


def test_total_is_the_sum_of_the_ops() -> None:
    result = report(toy_program(), toy_target())
    assert [each.id for each in result.ops] == [each.id for each in toy_program().ops]
    assert sum(each.total_cycles for each in result.ops) == result.cycles_per_token
    assert sum(result.cycles_by_kind().values()) == result.cycles_per_token
    assert sum(result.share(each) for each in result.ops) == pytest.approx(1.0)
    assert result.tokens_per_second == 1_000_000 / result.cycles_per_token


def test_cost_grows_with_the_position_in_attention_alone() -> None:
    program, target = toy_program(), flat_target()
    early, late = (report(program, target, position) for position in (3, 30))
    for one, two in zip(early.ops, late.ops, strict=True):
        assert (one.total_cycles < two.total_cycles) == (one.kind == "attention")
        assert one.total_cycles <= two.total_cycles


def test_more_cores_are_not_slower() -> None:
    cycles = [
        report(toy_program(), toy_target(cores=cores)).cycles_per_token for cores in (1, 2, 4, 8)
    ]
    assert cycles == sorted(cycles, reverse=True)


def test_activations_outside_l1_cost_more() -> None:
    roomy, tight = (report(toy_program(), toy_target(l1=l1)) for l1 in (16384, 1800))
    assert op(tight, "argmax").total_cycles > op(roomy, "argmax").total_cycles


def test_costs_of_the_target_are_used() -> None:
    target = replace(flat_target(), costs=replace(COSTS, swiglu=2 * COSTS.swiglu))
    usual, dear = (report(toy_program(), t) for t in (flat_target(), target))
    added = dear.cycles_by_kind()["swiglu"] - usual.cycles_by_kind()["swiglu"]
    assert added == TOY_SHAPE.layers * TOY_SHAPE.ffn * 50
    assert dear.cycles_per_token - usual.cycles_per_token == added


@pytest.mark.parametrize("position", [-1, 32])
def test_position_outside_the_context(position: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.31"):
        report(toy_program(), flat_target(), position)


def test_json_says_that_it_is_an_estimate_and_what_is_assumed() -> None:
    facts = json.loads(json.dumps(report(toy_program(), load_target("siracusa")).to_dict()))
    assert facts["estimate"] is True
    assert facts["not_modelled"]
    assert any(text.startswith("link.hyperbus.rate = 0.5556") for text in facts["assumed"])
    assert not any(text.startswith("region.mram.size") for text in facts["assumed"])
    assert facts["ops"][0]["id"] == "embed"
    assert {"cycles_per_token", "tokens_per_second", "bound_tokens_per_second"} <= facts.keys()
    assert set(facts["lanes"]) == {"cores", "dma"}
