"""Linears on the engine in time: dependencies, queue, readings, totals of the report."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_planner.engine_plan import QUEUE_DEPTH
from memory_planner.engine_registers import Job, JobShape, Mode, Plane, job_registers, shape_of
from memory_planner.engine_schedule import LinearTimes, chain_times
from memory_planner.engine_time import job_cycles, weight_words
from memory_planner.engines import EngineChoice, EngineWish
from memory_planner.plan import Plan
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.target import ENGINE_PORT, Reading
from memory_planner.target_file import load_target
from sim.latency import estimate
from sim.profile import profile
from sim.step import decode_step, schedule_units
from sim.timeline import Event, Lane, decode_timeline
from tests.memory_planner.toy import TOY_SHAPE, toy_program
from toolchain.model.packing import Packing
from toolchain.model.program import OpKind, Program, ProgramShape

SIRACUSA = load_target("siracusa")
WIDE = ProgramShape(256, 480, 2, 4, 2, 64, 700, 64)
CASES = [(TOY_SHAPE, 16, 4), (TOY_SHAPE, 8, 3), (WIDE, 256, 4), (WIDE, 64, 2), (WIDE, 32, 8)]


def planned(shape: ProgramShape, group_size: int, bits: int) -> tuple[Program, Plan]:
    packing = Packing.BYTE if bits > 4 else Packing.NIBBLE
    program = toy_program(shape, packing=packing, group_size=group_size)
    names = [op.id for op in program.ops if op.kind in (OpKind.LINEAR, OpKind.EMBED)]
    wish = EngineWish(EngineChoice.NEUREKA, dict.fromkeys(names, bits))
    chosen = choose_engines(program, SIRACUSA, wish)
    return chosen.program, plan_memory(chosen.program, SIRACUSA)


def schedule(program: Program, plan: Plan, reading: Reading) -> list[tuple[LinearTimes, ...]]:
    assert plan.engine is not None
    target = SIRACUSA.read_as(reading)
    return [chain_times(program, target, plan, chain).linears for chain in plan.engine.chains]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("reading", Reading)
def test_timeline_has_the_totals_of_the_report(
    case: tuple[ProgramShape, int, int], reading: Reading
) -> None:
    program, plan = planned(*case)
    report = estimate(program, plan, SIRACUSA, 10, reading)
    events = decode_timeline(program, plan, SIRACUSA, 10, reading)
    assert max(event.end for event in events) == report.cycles_per_token
    for lane, cycles in report.lanes().items():
        own = [event.cycles for event in events if event.lane == lane]
        assert abs(sum(own) - cycles) <= len(own) + len(report.ops)
    start, totals = 0, {op.id: op.total_cycles for op in report.ops}
    for unit in schedule_units(program, decode_step(program, plan, SIRACUSA, 10).block):
        names = [op.id for op in unit.ops]
        own_events = [e for e in events if e.op in names and e.lane is not Lane.ENGINE]
        end = start + sum(totals[name] for name in names)
        assert abs(min(event.start for event in own_events) - start) < len(names)
        assert abs(max(event.end for event in own_events) - end) < len(names)
        start = end
    for lane in Lane:
        of_lane = sorted((e for e in events if e.lane is lane), key=lambda e: (e.start, e.end))
        assert all(one.end <= two.start for one, two in pairwise(of_lane))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_jobs_run_between_staging_and_finishing(case: tuple[ProgramShape, int, int]) -> None:
    """Stage, issue, at most two jobs in the queue, wait, meet, finish; the table beside it."""
    program, plan = planned(*case)
    assert SIRACUSA.engine is not None
    wake, pipelined = SIRACUSA.engine.cycles.wake, 0
    for times in schedule(program, plan, Reading.SIMULATOR):
        jobs = [job for linear in times for job in linear.jobs]
        phases = [phase for linear in times for phase in linear.phases]
        assert phases[0].label == "stage the vector"
        assert all(one.span.end <= two.span.start for one, two in pairwise(phases))
        issues = [phase for phase in phases if phase.label.startswith("issue")]
        assert len(issues) == len(jobs)
        for number, (issue, job) in enumerate(zip(issues, jobs, strict=True)):
            assert issue.span.start >= phases[0].span.end
            assert job.span.start >= issue.span.end
            if number:
                assert job.span.start >= jobs[number - 1].span.end
                pipelined += issue.span.start < jobs[number - 1].span.end
            if number >= QUEUE_DEPTH:
                assert issue.span.start >= jobs[number - QUEUE_DEPTH].span.end + wake
        for linear in times:
            finishes = [p for p in linear.phases if p.label.startswith("finish")]
            for table, finish in zip(linear.tables, finishes, strict=False):
                assert table.end <= finish.span.start
            if linear.jobs:
                assert finishes[-1].span.start >= linear.jobs[-1].span.end + wake
    assert pipelined or len(plan.engine.chains if plan.engine else ()) == sum(
        len(chain.jobs) for chain in (plan.engine.chains if plan.engine else ())
    )


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("reading", Reading)
def test_cycles_of_jobs_are_those_of_their_registers(
    case: tuple[ProgramShape, int, int], reading: Reading
) -> None:
    program, plan = planned(*case)
    engine = SIRACUSA.read_as(reading).engine
    assert engine is not None
    assert plan.engine is not None
    for chain, times in zip(plan.engine.chains, schedule(program, plan, reading), strict=True):
        jobs = [job for linear in times for job in linear.jobs]
        for planned_job, job in zip(chain.jobs, jobs, strict=True):
            shape = shape_of(planned_job.registers)
            assert job.span.cycles == pytest.approx(job_cycles(shape, engine.cycles))
            assert job.words == weight_words(shape)
            if reading is Reading.SIMULATOR:
                assert planned_job.cycles == round(job.span.cycles) + engine.cycles.wake


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_stored_word_crosses_the_port_once(case: tuple[ProgramShape, int, int]) -> None:
    program, plan = planned(*case)
    assert plan.engine is not None
    stored = [linear.weight for chain in plan.engine.chains for linear in chain.linears]
    report = estimate(program, plan, SIRACUSA, 10)
    (port,) = [link for link in report.links if link.link == ENGINE_PORT]
    assert port.size == sum(program.tensors[name].size for name in stored)
    assert port.bytes_per_cycle == 32
    busy = report.lanes()["engine"]
    assert report.engine_port_share == pytest.approx(port.cycles / busy, rel=1e-3)
    on_engine = {op.id for op in report.ops if op.engine != "cores"}
    assert on_engine == {linear.op for chain in plan.engine.chains for linear in chain.linears}


def test_conservative_jobs_are_slower_and_cold_drivers_too() -> None:
    program, plan = planned(WIDE, 256, 4)
    usual, slower = (estimate(program, plan, SIRACUSA, 10, reading) for reading in Reading)
    assert slower.lanes()["engine"] > usual.lanes()["engine"]
    assert slower.engine_port_share is not None
    assert usual.engine_port_share is not None
    assert slower.engine_port_share < usual.engine_port_share
    shared = [0, 0]  # by linears, of which the first one waits for jobs of the next ones too
    for one, two in zip(usual.ops, slower.ops, strict=True):
        if one.kind == "linear":
            shared = [shared[0] + one.total_cycles, shared[1] + two.total_cycles]
        else:
            assert two.total_cycles > one.total_cycles
    assert shared[1] > shared[0]


def test_the_engine_is_a_bound_and_costs_energy() -> None:
    program, plan = planned(WIDE, 256, 8)
    found = profile(program, plan, SIRACUSA, 10)
    assert any(op.bound_by == "engine_port" for op in found.latency.ops)
    assert found.energy is not None
    parts = {part.name: part for part in found.energy.parts}
    busy = found.latency.lanes()["engine"]
    assert parts["engine"].energy.nominal == pytest.approx(80e3 * busy / 360e6)
    assert parts[ENGINE_PORT].energy.nominal > 0


def test_a_small_job_is_bound_by_its_overhead() -> None:
    program, plan = planned(TOY_SHAPE, 16, 2)
    costs = replace(SIRACUSA.costs, fused=None, linear_row=0.0, barrier=0.0, linear_group=0.0)
    free = replace(SIRACUSA, costs=costs)
    bounds = {op.bound_by for op in estimate(program, plan, free, 10).ops if op.engine != "cores"}
    assert bounds & {"engine_load", "cores"}


@given(
    mode=st.sampled_from(Mode),
    bits=st.integers(2, 8),
    extents=st.tuples(*[st.integers(1, 200)] * 2, *[st.integers(1, 20)] * 2),
    scale_bits=st.sampled_from([0, 8, 16, 32]),
    flags=st.tuples(*[st.booleans()] * 4),
)
def test_shape_is_read_back_from_registers(
    mode: Mode,
    bits: int,
    extents: tuple[int, int, int, int],
    scale_bits: int,
    flags: tuple[bool, bool, bool, bool],
) -> None:
    channels = extents[1] if mode is not Mode.DEPTHWISE else extents[0]
    requant = scale_bits > 0
    shape = JobShape(
        mode=mode,
        bits=bits,
        input_channels=extents[0],
        channels=channels,
        height=extents[2],
        width=extents[3],
        output_bits=8 if requant and flags[0] else 32,
        scale_bits=scale_bits,
        bias=requant and flags[1],
        channel_shift=requant and flags[2],
        prefetch=flags[3],
    )
    job = Job(shape, 0, Plane(0, 200, 8000), Plane(0x20000, 1024, 40000), least=-(1 << bits - 1))
    assert shape_of(job_registers(job)) == shape


def test_lanes_name_the_jobs() -> None:
    program, plan = planned(WIDE, 64, 4)
    events: list[Event] = [
        event for event in decode_timeline(program, plan, SIRACUSA, 10) if event.lane is Lane.ENGINE
    ]
    assert events
    assert all(event.label.startswith("job ") for event in events)
    assert all("channels" in event.label for event in events)
