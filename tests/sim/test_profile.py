"""Profiles: sums over positions against single estimates, both readings, and energy by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from memory_planner.planner import plan_memory
from memory_planner.target import Costs, Energy, Reading, Span, TargetSpec, Timing
from memory_planner.target_file import load_target
from sim.energy import token_energy
from sim.latency import estimate
from sim.profile import CURVE_POINTS, Profile, profile
from sim.timeline import decode_timeline
from tests.memory_planner.toy import COSTS, TOY_SHAPE, flat_target, toy_program, toy_target
from toolchain.model.program import Program

ENERGY = Energy(
    power={"cores": Span(1.0, 10.0, 100.0), "engine": Span(5.0, 6.0, 7.0)},
    per_byte={"nms": Span(1.0, 2.0, 3.0), "l2": Span(4.0, 4.0, 4.0), "bus": Span(50.0, 90.0, 99.0)},
    average=12.0,
)
STREAMING = toy_target(mram=1024, tile_sram=2048, far=65536)
TARGETS = [toy_target(), flat_target(), STREAMING, load_target("siracusa")]


def profile_of(
    target: TargetSpec,
    position: int = 10,
    reading: Reading = Reading.SIMULATOR,
    program: Program | None = None,
) -> Profile:
    program = program or toy_program()
    return profile(program, plan_memory(program, target), target, position, reading)


def slower(costs: Costs, target: TargetSpec) -> TargetSpec:
    links = tuple(replace(link, bytes_per_cycle=link.bytes_per_cycle / 2) for link in target.links)
    return replace(target, conservative=Timing(links, costs))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reading", Reading)
def test_prefill_and_curve_are_sums_and_samples_of_single_tokens(
    target: TargetSpec, reading: Reading
) -> None:
    program = toy_program()
    plan = plan_memory(program, target)
    found = profile(program, plan, target, 12, reading)
    singles = [estimate(program, plan, target, position, reading) for position in range(32)]
    assert found.prefill.tokens == 13
    head = sum(op.total_cycles for op in singles[0].ops[-3:])  # with a wait for the next step
    if plan.streams is None and plan.prefill is None:
        every = sum(each.cycles_per_token - head for each in singles[:12])
        assert found.prefill.cycles == every + singles[12].cycles_per_token
    assert found.prefill.cycles <= sum(each.cycles_per_token for each in singles[:13])
    assert found.latency == singles[12]
    assert found.curve[0].length == 1
    assert found.curve[-1].length == program.shape.context
    for point in found.curve:
        single = singles[point.length - 1]
        assert (point.cycles, point.bound_cycles) == (single.cycles_per_token, single.bound_cycles)


def test_streams_are_part_of_the_test_above() -> None:
    found = profile_of(STREAMING)
    assert found.latency.streams
    assert any(cost.bound_by == "off_chip" for cost in found.dearest)


def test_streams_of_a_prompt_travel_for_every_token() -> None:
    """The bus carries what the blocks read once per token, and the head's part once."""
    program = toy_program()
    plan = plan_memory(program, STREAMING)
    found = profile(program, plan, STREAMING, 12)
    streams = found.latency.streams
    assert plan.streams is not None
    blocks = sum(each.travel for each in streams if each.index < plan.streams.head)
    assert found.prefill.cycles >= 13 * blocks
    head = sum(each.total_cycles for each in found.latency.ops[-3:])
    work = sum(each.total_cycles - each.stream_wait for each in found.latency.ops[:-3])
    assert found.prefill.cycles <= 13 * (work + blocks) + head


def test_the_curve_of_a_long_context_has_few_points() -> None:
    program = toy_program(replace(TOY_SHAPE, context=500))
    curve = profile_of(toy_target(l2=65536, tile_sram=65536), program=program).curve
    assert len(curve) == CURVE_POINTS
    assert [point.length for point in curve] == sorted({point.length for point in curve})
    assert curve[-1].length == 500


def test_a_context_of_one_token() -> None:
    program = toy_program(replace(TOY_SHAPE, context=1))
    found = profile_of(toy_target(), 0, program=program)
    assert [point.length for point in found.curve] == [1]
    assert found.prefill.cycles == found.latency.cycles_per_token


def test_readings_differ_by_the_constants_that_differ() -> None:
    """Each op of a target that reads in place costs twice the work and 7 cycles of cold code."""
    costs = replace(COSTS, residual_add=2 * COSTS.residual_add, cold_code=7.0)
    target = slower(costs, flat_target())
    program = toy_program()
    plan = plan_memory(program, target)
    usual, slow = (estimate(program, plan, target, 10, reading) for reading in Reading)
    for one, two in zip(usual.ops, slow.ops, strict=True):
        work = one.total_cycles - 10 if one.kind == "residual_add" else 0
        assert two.total_cycles == one.total_cycles + work + 7
        assert two.overhead_cycles == one.overhead_cycles + 7
    for fast, half in zip(usual.links, slow.links, strict=True):
        assert abs(half.cycles - 2 * fast.cycles) <= 1  # each is rounded by itself
    events = decode_timeline(program, plan, target, 10, Reading.CONSERVATIVE)
    assert events[-1].end == slow.cycles_per_token


def test_both_readings_are_in_every_profile() -> None:
    target = slower(replace(COSTS, cold_code=7.0), toy_target())
    for reading in Reading:
        found = profile_of(target, reading=reading)
        assert [each.reading for each in found.readings] == list(Reading)
        assert found.latency is found.readings[list(Reading).index(reading)]
        assert found.readings[0].cycles_per_token < found.readings[1].cycles_per_token


def test_a_target_without_a_second_reading_has_equal_ones() -> None:
    one, two = profile_of(toy_target()).readings
    assert one.cycles_per_token == two.cycles_per_token


def test_dearest_roles_by_hand() -> None:
    found = profile_of(toy_target())
    ops, program = found.latency.ops, toy_program()
    for cost in found.dearest:
        own = [each for op, each in zip(program.ops, ops, strict=True) if op.role == cost.role]
        assert cost.count == len(own)
        assert cost.cycles == sum(each.total_cycles for each in own)
        assert cost.share == cost.cycles / found.latency.cycles_per_token
    cycles = [cost.cycles for cost in found.dearest]
    assert cycles == sorted(cycles, reverse=True)
    assert len(cycles) == 10
    assert max(op.total_cycles for op in ops) <= cycles[0]


@pytest.mark.parametrize(
    ("costs", "role", "bound"),
    [
        (COSTS, "mlp.swiglu", "cores"),
        (replace(COSTS, barrier=1000.0), "attn.residual", "barrier"),
        (replace(COSTS, cold_code=1000.0), "attn.residual", "barrier"),
    ],
)
def test_what_bounds_an_op(costs: Costs, role: str, bound: str) -> None:
    target = replace(toy_target(), costs=costs)
    found = profile_of(target).latency.ops
    assert next(op for op in found if op.id.endswith(role)).bound_by == bound


def test_energy_by_hand() -> None:
    """10 mW for t cycles of 1 us, and 2 and 4 pJ for the bytes of both links."""
    latency = profile_of(toy_target()).latency
    report = token_energy(latency, replace(toy_target(), energy=ENERGY))
    assert report is not None
    cores, nms, l2 = report.parts
    cycles = latency.cycles_per_token
    assert asdict(cores.energy) == pytest.approx(
        {"low": cycles * 1e-3, "nominal": cycles * 1e-2, "high": cycles * 1e-1}
    )
    sizes = {link.link: link.size for link in latency.links}
    assert nms.energy.nominal == pytest.approx(2e-6 * sizes["nms"])
    assert set(asdict(l2.energy).values()) == {1e-6 * sizes["l2"] * 4}
    assert report.total.low == pytest.approx(sum(part.energy.low for part in report.parts))
    assert report.power.nominal == pytest.approx(
        report.total.nominal * 1e-6 / (cycles * 1e-6) * 1e3
    )
    assert report.average == 12.0


def test_energy_of_streams_is_that_of_their_bytes() -> None:
    latency = profile_of(STREAMING).latency
    report = token_energy(latency, replace(STREAMING, energy=ENERGY))
    assert report is not None
    part = next(part for part in report.parts if part.name == "bus")
    streamed = sum(stream.size for stream in latency.streams)
    assert part.energy.nominal >= 90e-6 * streamed > 0


def test_no_figures_no_energy() -> None:
    assert profile_of(toy_target()).energy is None
    assert load_target("rv32").energy is None


def test_json_has_every_figure_and_every_assumption() -> None:
    target = load_target("siracusa")
    facts = json.loads(json.dumps(profile_of(target).to_dict()))
    assert facts["estimate"] is True
    assert facts["context"] == facts["position"] + 1 == 11
    assert set(facts["readings"]) == {"simulator", "conservative"}
    assert facts["prefill"]["tokens"] == 11
    assert facts["prefill"]["method"].startswith("in batches of 16 tokens")
    assert len(facts["dearest"]) == 10
    assert facts["curve"][-1]["length"] == 32
    energy = facts["energy"]
    assert energy["published_average_mw"] == 167
    assert energy["total"]["low"] <= energy["total"]["nominal"] <= energy["total"]["high"]
    named = {line.partition(" = ")[0] for line in energy["assumed"]}
    assert named == {path for path in target.constants if path.startswith("energy.")} - {
        "energy.average"
    }
    assert facts["bound_share"] == pytest.approx(
        facts["bound_cycles"] / facts["cycles_per_token"], abs=1e-6
    )
    for lane, cycles in facts["lanes"].items():
        share = cycles / facts["cycles_per_token"]
        assert facts["lane_shares"][lane] == pytest.approx(share, abs=1e-6)
