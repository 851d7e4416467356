"""Weights off chip: which ones, how they come back, and that damage to such a plan is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.explain import PlanDoesNotFitError
from memory_planner.leaving import leaving_orders
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan, Stream, StreamPlan
from memory_planner.planner import draft_plan, plan_memory
from memory_planner.target import OffChip, Pin
from memory_planner.target_file import load_target
from memory_planner.two_regions import split
from memory_planner.validate import validate_plan
from sim.latency import estimate
from sim.timeline import Lane, decode_timeline
from tests.memory_planner.toy import TOY_SHAPE, toy_program, toy_target
from toolchain.model.packing import CORE_PACKINGS
from toolchain.model.program import Kind, Program, ProgramShape

DEEP = replace(TOY_SHAPE, layers=5)


def off_chip_bytes(program: Program, plan: Plan) -> int:
    return sum(
        spec.size
        for spec in program.tensors.values()
        if spec.name in plan.placements and plan.placements[spec.name].region == "far"
    )


def outside(program: Program, plan: Plan) -> list[str]:
    names = (spec.name for spec in program.tensors.values() if spec.kind is Kind.WEIGHT)
    return [name for name in names if plan.placements[name].region == "far"]


# ---------------------------------------------------------------- which weights leave


def test_nothing_leaves_while_the_chip_has_room() -> None:
    with_far, without = (plan_memory(toy_program(), toy_target(far=far)) for far in (9999, 0))
    assert with_far.placements == without.placements
    assert with_far.streams is None


def test_an_embedding_of_its_own_leaves_first() -> None:
    """One record per token: 64 bytes of the 2 KB that are stored."""
    program = toy_program(DEEP, tied=False)
    plan = plan_memory(program, toy_target(mram=6000, tile_sram=9600, l2=4000, far=32768))
    assert outside(program, plan) == ["embed.weight"]
    assert plan.streams is not None
    assert plan.streams.count == 0  # nothing but the token's record, which has 64 bytes
    assert plan.placements["stream.slots"].size == 2 * 96  # the check of a blob needs as much


def test_blocks_leave_role_by_role_and_the_head_last() -> None:
    order = leaving_orders(toy_program(tied=False), toy_target(far=1))[0]
    assert order[0] == "embed.weight"
    assert order[-1] == "lm_head.weight"
    roles = [name.partition(".")[2] for name in order[1:-1]]
    assert roles[::2] == roles[1::2]
    assert [name[:3] for name in order[1:5]] == ["l01", "l00", "l01", "l00"]


def test_blocks_share_the_stream() -> None:
    program = toy_program(DEEP)
    plan = plan_memory(program, toy_target(mram=5000, tile_sram=4096, far=32768))
    assert plan.streams is not None
    sizes = [stream.size for stream in plan.streams.streams]
    assert [stream.index for stream in plan.streams.streams] == [0, 1, 2, 3, 4][5 - len(sizes) :]
    assert plan.streams.count == 6
    assert max(sizes) <= plan.streams.slot_size
    assert "embed.weight" not in outside(program, plan)  # tied: the head reads it whole
    assert plan.region("far").used == plan.region("far").blob_size > 0


def test_weights_larger_than_any_region_leave() -> None:
    program = toy_program(replace(TOY_SHAPE, vocab=600))
    plan = plan_memory(program, toy_target(mram=8000, tile_sram=8000, far=32768))
    assert outside(program, plan) == ["embed.weight"]
    streams = plan.streams
    assert streams is not None
    assert streams.cuts == ()
    assert sum(stream.size for stream in streams.streams) == program.tensors["embed.weight"].size
    assert all(stream.size <= streams.slot_size for stream in streams.streams)


def test_off_chip_memory_can_be_too_small() -> None:
    program = toy_program(replace(TOY_SHAPE, vocab=600))
    with pytest.raises(PlanDoesNotFitError, match="region far") as error:
        plan_memory(program, toy_target(mram=8000, tile_sram=8000, far=4096))
    assert [shortfall.region for shortfall in error.value.shortfalls] == ["far"]


@pytest.mark.parametrize(
    ("tile_sram", "l2", "region"), [(9984, 1700, "tile_sram"), (6400, 16384, "l2")]
)
def test_state_stays_on_chip_out_of_the_way_of_weights(
    tile_sram: int, l2: int, region: str
) -> None:
    target = toy_target(mram=2976, tile_sram=tile_sram, l2=l2, far=32768)
    plan = plan_memory(toy_program(DEEP), target)
    assert plan.streams is not None
    regions = {plan.placements[name].region for name in ("kv.k", "kv.v", "kv.k_scale")}
    assert regions == {region}


def test_staging_goes_where_there_is_room() -> None:
    program = toy_program(DEEP, tied=False)
    for tile_sram, l2, region, full in (
        (9184, 1760, "tile_sram", "l2"),
        (4000, 9000, "l2", "tile_sram"),
    ):
        target = toy_target(mram=4992, tile_sram=tile_sram, l2=l2, far=32768)
        plan = plan_memory(program, target)
        slots = plan.placements["stream.slots"]
        assert slots.region == region
        assert plan.region(full).free < slots.size


# ---------------------------------------------------------------- properties

SHAPES = st.builds(
    ProgramShape,
    hidden=st.sampled_from([8, 12, 16, 20]),
    ffn=st.integers(5, 40),
    layers=st.integers(1, 5),
    heads=st.just(4),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 4, 6]),
    vocab=st.integers(5, 200),
    context=st.integers(1, 24),
)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_larger_budget_never_sends_more_outside(data: st.DataObject) -> None:
    program = toy_program(
        data.draw(SHAPES),
        packing=data.draw(st.sampled_from(CORE_PACKINGS)),
        tied=data.draw(st.booleans()),
    )
    small = {
        "mram": data.draw(st.integers(1, 300)) * 32,
        "tile_sram": data.draw(st.integers(1, 300)) * 32,
        "l2": data.draw(st.integers(200, 1500)) * 8,
    }
    large = {name: size + data.draw(st.integers(0, 60)) * 32 for name, size in small.items()}
    sizes = []
    for budget in (small, large):
        target = limited_target(toy_target(far=1 << 18), MemoryLimits(budget))
        plan = draft_plan(program, target)
        lacking = any(region.free < 0 for region in plan.regions)
        sizes.append(1 << 20 if lacking else off_chip_bytes(program, plan))
        if not lacking:
            assert validate_plan(program, target, plan_memory(program, target)) == []
    assert sizes[1] <= sizes[0]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), max_size=8),
    first=st.integers(-1, 40),
    second=st.integers(-1, 40),
)
def test_split_against_all_ways(sizes: list[int], first: int, second: int) -> None:
    fits = [
        filled
        for way in product((False, True), repeat=len(sizes))
        if (filled := sum(s for s, inside in zip(sizes, way, strict=True) if inside)) <= first
        and sum(sizes) - filled <= second
    ]
    found = split([8 * size for size in sizes], 8 * first, 8 * second, 8)
    if second < 0 or not fits:
        assert found is None
    else:
        assert found is not None
        assert sum(s for s, inside in zip(sizes, found, strict=True) if inside) == max(fits)


# ---------------------------------------------------------------- mutations

PROGRAM = toy_program(DEEP, tied=False)
PINS = (Pin("*.weight", "far"), Pin("l02.mlp.up_proj.weight", "mram"))
TARGET = limited_target(toy_target(far=32768), MemoryLimits({}, PINS))
GOOD = plan_memory(PROGRAM, TARGET)
Mutation = Callable[[StreamPlan], StreamPlan]


def stream(index: int, /, **changes: Callable[[int], int]) -> Mutation:
    def mutate(plan: StreamPlan) -> StreamPlan:
        old = plan.streams[index]
        new = replace(old, **{k: v(getattr(old, k)) for k, v in changes.items()})
        streams = (*plan.streams[:index], new, *plan.streams[index + 1 :])
        return replace(plan, streams=streams)

    return mutate


MUTATIONS: list[tuple[str, Mutation, str]] = [
    ("late", stream(1, source_offset=lambda n: n + 32), "stream 1: found"),
    ("early", stream(1, source_offset=lambda n: n - 32), "l01.mlp.down_proj"),
    ("odd", stream(1, source_offset=lambda n: n - 2, size=lambda n: n + 2), "multiple of 4"),
    ("short", stream(2, size=lambda n: n - 4), "stream 2: found"),
    ("long", stream(0, size=lambda n: n + 4096), "bytes of a slot"),
    ("nothing", stream(0, size=lambda _: 0), "stream 0"),
    ("outside", stream(0, source_offset=lambda _: -32), "the blob of far"),
    ("other index", stream(3, index=lambda _: 9), "indices [0, 1, 2, 9, 4, 5"),
    ("missing", lambda s: replace(s, streams=s.streams[:-1]), "indices [0, 1, 2, 3, 4, 5, 6]"),
    ("order", lambda s: replace(s, streams=s.streams[::-1]), "indices [7, 6, 5, 4, 3, 2, 1, 0]"),
    ("head's records", lambda s: replace(s, part_records=s.part_records - 1), "of the head"),
    ("no head", lambda s: replace(s, part_records=0), "0 records of the head"),
    ("head's range", stream(6, source_offset=lambda n: n + 80), "stream 6 of the head"),
    ("head's size", stream(5, size=lambda n: n - 80), "stream 5 of the head"),
    ("head's index", lambda s: replace(s, head=4), "head at 4"),
    ("late cut", lambda s: replace(s, cuts=("mlp.up_proj",)), "indices [-1, 0"),
    ("no cut", lambda s: replace(s, cuts=()), "head at 5"),
    ("unknown cut", lambda s: replace(s, cuts=("embed",)), "cuts at embed"),
    ("odd count", lambda s: replace(s, count=7), "7 streams of a step"),
    ("many", lambda s: replace(s, count=10), "10 streams of a step"),
    ("slots", lambda s: replace(s, slot_size=s.slot_size + 8), "two slots of"),
    ("unaligned", lambda s: replace(s, slot_size=s.slot_size - 4), "a multiple of 8 bytes"),
    ("transfer", lambda s: replace(s, max_transfer=4096), "transfers of 4096 bytes"),
    ("region", lambda s: replace(s, region="mram"), "from mram into"),
    ("buffer", lambda s: replace(s, buffer="resid"), "into resid"),
]


def test_the_good_plan_passes() -> None:
    assert validate_plan(PROGRAM, TARGET, GOOD) == []
    assert GOOD.streams is not None
    assert len(GOOD.streams.streams) == GOOD.streams.count == 8
    assert GOOD.streams.head == 5


@pytest.mark.parametrize(
    ("mutation", "message"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS]
)
def test_every_damage_to_a_stream_is_found(mutation: Mutation, message: str) -> None:
    assert GOOD.streams is not None
    damaged = replace(GOOD, streams=mutation(GOOD.streams))
    problems = validate_plan(PROGRAM, TARGET, damaged)
    assert any(message in str(problem) for problem in problems), problems


def test_lost_streams_and_buffers_are_found() -> None:
    found = validate_plan(PROGRAM, TARGET, replace(GOOD, streams=None))
    assert any("found no streams" in str(problem) for problem in found)
    name = "stream.slots"
    places = {k: v for k, v in GOOD.placements.items() if k != name}
    found = validate_plan(PROGRAM, TARGET, replace(GOOD, placements=places))
    assert any(f"{name}: found no placement" in str(problem) for problem in found)
    for changes, message in (
        ({"size": 8}, "8 bytes of stream.slots"),
        ({"last": 3}, "stream.slots: found lifetime [0, 3)"),
        ({"region": "mram"}, "stream.slots: found region mram"),
    ):
        damaged = replace(GOOD.placements[name], **changes)
        plan = replace(GOOD, placements={**GOOD.placements, name: damaged})
        assert any(message in str(found) for found in validate_plan(PROGRAM, TARGET, plan))


def test_a_head_must_be_read_from_its_streams() -> None:
    how = GOOD.linears["lm_head"]
    for index in (0, len(how.transfers) - 1):
        moved = replace(how.transfers[index], source_offset=how.transfers[index].source_offset + 80)
        transfers = [*how.transfers]
        transfers[index] = moved
        damaged = replace(how, transfers=tuple(transfers))
        plan = replace(GOOD, linears={**GOOD.linears, "lm_head": damaged})
        assert any("source offset" in str(found) for found in validate_plan(PROGRAM, TARGET, plan))


def test_streams_without_need_are_found() -> None:
    plan = plan_memory(PROGRAM, toy_target(far=32768))
    spare = StreamPlan(
        "far", "stream.slots", 8, 1000, ("attn.q_proj",), 5, 0, 6, (Stream(0, 0, 8),)
    )
    assert validate_plan(PROGRAM, toy_target(far=32768), replace(plan, streams=spare)) != []


# ---------------------------------------------------------------- time


def test_streams_hide_behind_what_runs_meanwhile() -> None:
    report = estimate(PROGRAM, GOOD, TARGET, 3)
    assert GOOD.streams is not None
    by_index = {stream.index: stream for stream in report.streams}
    assert [by_index[n].size for n in sorted(by_index)] == [s.size for s in GOOD.streams.streams]
    # 50 cycles of setup for each piece of 1000 bytes at most, 2 cycles per byte, at least 100
    size = by_index[1].size
    pieces = [1000] * (size // 1000) + [size % 1000]
    assert by_index[1].travel == sum(max(100, 50 + 2 * piece) for piece in pieces)
    starts = {op.id: sum(o.total_cycles for o in report.ops[:n]) for n, op in enumerate(report.ops)}
    # issued where block 0 begins to use stream 0; wanted where block 1 begins
    assert by_index[1].start == starts["l00.attn.q_proj"]
    assert by_index[1].needed == starts["l01.attn.q_proj"]
    assert by_index[1].exposed == max(0, by_index[1].end - by_index[1].needed)
    waits = sum(op.stream_wait for op in report.ops)
    assert waits == sum(s.exposed for s in report.streams) == report.cycles_by_kind()["stream"]
    assert sum(op.total_cycles for op in report.ops) == report.cycles_per_token


def test_the_first_stream_travels_behind_the_step_before() -> None:
    report = estimate(PROGRAM, GOOD, TARGET, 3)
    first = next(stream for stream in report.streams if stream.index == 0)
    last = next(stream for stream in report.streams if stream.index == 7)
    assert first.op == "argmax"
    assert first.start >= last.end  # one stream at a time
    assert first.needed + first.exposed == report.cycles_per_token


def test_the_bus_carries_one_stream_at_a_time() -> None:
    streams = sorted(estimate(PROGRAM, GOOD, TARGET, 3).streams, key=lambda s: s.start)
    assert all(one.end <= two.start for one, two in pairwise(streams))


def test_events_show_streams_and_waits() -> None:
    events = decode_timeline(PROGRAM, GOOD, TARGET, 3)
    report = estimate(PROGRAM, GOOD, TARGET, 3)
    streams = [e for e in events if e.lane is Lane.OFF_CHIP and e.op != "embed"]
    assert sorted((e.start, e.end) for e in streams) == sorted(
        (s.start, s.end) for s in report.streams
    )
    waits = [e.cycles for e in events if e.lane is Lane.WAIT]
    assert sum(waits) == sum(stream.exposed for stream in report.streams) > 0
    assert max(event.end for event in events) == report.cycles_per_token
    for event in events:  # nobody works while waiting
        if event.lane is Lane.WAIT:
            works = [e for e in events if e.lane is Lane.CORES]
            assert all(e.end <= event.start or event.end <= e.start for e in works if e.cycles)
    (record,) = [e for e in events if e.lane is Lane.OFF_CHIP and e.op == "embed"]
    assert record.cycles == 50 + 2 * 64


def test_the_bound_counts_the_off_chip_bus_once() -> None:
    report = estimate(PROGRAM, GOOD, TARGET, 3)
    (bus,) = [link for link in report.links if link.off_chip]
    assert bus.size == sum(s.size for s in report.streams) + 64
    assert bus.cycles == 2 * bus.size == report.bound_cycles


def test_blocks_are_cut_where_their_slots_have_no_room() -> None:
    """One stream per block needs two slots of 1,728 bytes."""
    pins = (Pin("*.weight", "far"),)
    program = toy_program(DEEP, tied=False)
    slots, cuts = [], []
    for l2 in (16384, 5000, 4000):
        target = toy_target(far=32768, l2=l2, tile_sram=4800)
        target = limited_target(
            replace(target, off_chip=OffChip("far", ("l2",))), MemoryLimits({}, pins)
        )
        plan = plan_memory(program, target)
        assert plan.streams is not None
        slots.append(plan.streams.slot_size)
        cuts.append(len(plan.streams.cuts))
    assert cuts[0] == 1
    assert cuts == sorted(cuts)
    assert cuts[-1] > 1
    assert slots[-1] < slots[0]


def test_siracusa_has_off_chip_memory() -> None:
    target = load_target("siracusa")
    assert target.off_chip is not None
    (link,) = [link for link in target.links if "hyperram" in link.sources]
    assert link.destination == "l2"  # the IO DMA writes nowhere else
    assert target.off_chip.staging == ("l2",)
    assert link.bytes_per_cycle * target.clock_hz == pytest.approx(200e6, rel=1e-3)
