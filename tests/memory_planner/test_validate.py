"""The validator: a good plan passes, and one spoiled plan per kind of failure is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner import planner
from memory_planner.plan import Plan, Row, Transfer
from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from memory_planner.validate import validate_plan
from tests.memory_planner.toy import TOY_SHAPE, flat_target, toy_program, toy_target
from toolchain.model.errors import InternalError

PROGRAM = toy_program()
TARGET = toy_target(mram=4096)  # weights in both weight memories
Mutation = Callable[[Plan], Plan]


@pytest.mark.parametrize("target", [TARGET, flat_target(), toy_target(l1=1700)])
@pytest.mark.parametrize("tied", [True, False])
def test_good_plans_pass(target: TargetSpec, tied: bool) -> None:
    program = toy_program(tied=tied)
    assert validate_plan(program, target, plan_memory(program, target)) == []


# ---------------------------------------------------------------- mutations


def place(name: str, /, **changes: Any) -> Mutation:
    """Replaces fields of a placement; a callable gets the old value."""

    def mutate(plan: Plan) -> Plan:
        old = plan.placements[name]
        new = {
            key: value(getattr(old, key)) if callable(value) else value
            for key, value in changes.items()
        }
        return replace(plan, placements={**plan.placements, name: replace(old, **new)})

    return mutate


def on_top(name: str, other: str) -> Mutation:
    """Moves a buffer to where another one is."""

    def mutate(plan: Plan) -> Plan:
        return place(name, offset=plan.placements[other].offset)(plan)

    return mutate


def without(name: str) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        return replace(plan, placements={k: v for k, v in plan.placements.items() if k != name})

    return mutate


def region(name: str, /, **changes: Any) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        regions = tuple(
            replace(r, **{k: v(getattr(r, k)) for k, v in changes.items()}) if r.name == name else r
            for r in plan.regions
        )
        return replace(plan, regions=regions)

    return mutate


def linear(name: str, /, **changes: Any) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        old = plan.linears[name]
        new = {k: v(getattr(old, k)) if callable(v) else v for k, v in changes.items()}
        return replace(plan, linears={**plan.linears, name: replace(old, **new)})

    return mutate


def transfer(index: int, **changes: Callable[[int], int]) -> Mutation:
    """Changes one transfer of the head."""

    def change(transfers: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
        old = transfers[index]
        new = replace(old, **{k: v(getattr(old, k)) for k, v in changes.items()})
        return (*transfers[:index], new, *transfers[index + 1 :])

    return linear("lm_head", transfers=change)


def attention(**changes: Any) -> Mutation:
    return lambda plan: replace(plan, attention=replace(plan.attention, **changes))


def swapped(transfers: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
    return (transfers[1], transfers[0], *transfers[2:])


MUTATIONS: list[tuple[str, Mutation, str]] = [
    ("missing", without("attn.o"), "attn.o: found no placement"),
    (
        "unknown buffer",
        lambda p: replace(p, placements={**p.placements, "x": p.placements["resid"]}),
        "x: found a placement",
    ),
    ("wrong region", place("kv.k", region="l1"), "kv.k: found region l1"),
    ("region of nobody", place("resid", region="l9"), "resid: found region l9"),
    ("tile outside L1", place("tile.lm_head", region="tile_sram"), "tile.lm_head: found region"),
    ("too small", place("resid", size=60), "resid: found 60 bytes, allowed 64"),
    ("weight size", place("embed.weight", size=lambda n: n - 1), "embed.weight: found 1999"),
    ("scratch size", place("scratch.mlp.swiglu", size=64), "scratch.mlp.swiglu: found 64 bytes"),
    ("partials size", place("team.partials", size=256), "team.partials: found 256 bytes"),
    ("misaligned", place("resid", offset=lambda n: n + 4), "a multiple of 8 bytes"),
    ("misaligned weight", place("embed.weight", offset=lambda n: n + 8), "multiple of 32 bytes"),
    ("in the stacks", place("next", offset=0), "allowed the arena of l1"),
    ("beyond the arena", place("resid", offset=10_000), "allowed the arena of l1"),
    ("in the blob header", place("embed.weight", offset=32), "allowed the blob of mram"),
    ("other name", place("resid", name="residual"), "resid: found the name residual"),
    ("lifetime ends early", place("resid", last=10), "resid: found lifetime [0, 10)"),
    ("lifetime begins late", place("mlp.gate", first=13), "mlp.gate: found lifetime [13, 15)"),
    ("constant with a lifetime", place("kv.v", last=3), "kv.v: found lifetime [0, 3)"),
    ("activations overlap", on_top("mlp.up", "mlp.gate"), "mlp.gate and mlp.up"),
    ("resid overlaps", on_top("mlp.down", "resid"), "both live in l1"),
    ("scratch overlaps", on_top("scratch.mlp.swiglu", "mlp.gate"), "scratch.mlp.swiglu"),
    ("tile overlaps", on_top("tile.lm_head", "logits"), "tile.lm_head"),
    ("partials overlap", on_top("team.partials", "attn.acc"), "team.partials"),
    ("states overlap", on_top("kv.k", "kv.v"), "kv.k and kv.v"),
    (
        "weights overlap",
        on_top("l00.attn.k_proj.weight", "l00.attn.q_proj.weight"),
        "l00.attn.k_proj.weight and l00.attn.q_proj.weight",
    ),
    (
        "overlap hidden by a short lifetime",
        lambda p: place("attn.q", first=2, last=3)(on_top("attn.q", "attn.k")(p)),
        "attn.k and attn.q: found both live",
    ),
    ("capacity", region("l1", capacity=lambda n: 2 * n), "region l1: found capacity"),
    ("over capacity", region("l2", arena_size=lambda n: n + 99_992), "beyond the capacity"),
    ("stacks forgotten", region("l1", reserved=lambda _: 0), "region l1: found reserved 0"),
    ("blob and arena apart", region("mram", arena_base=lambda n: n + 32), "arena base"),
    ("arena size", region("l1", arena_size=lambda n: n + 8), "region l1: found report rows"),
    ("peak", region("l1", peak=lambda n: n - 8), "region l1: found peak"),
    (
        "row missing",
        lambda p: replace(p, rows=tuple(r for r in p.rows if r.category != "weights")),
        "region mram: found report rows",
    ),
    (
        "negative row",
        lambda p: replace(p, rows=(*p.rows, Row("l1", "x", -8), Row("l1", "y", 8))),
        "smallest report row -8",
    ),
    ("blob header", lambda p: replace(p, blob_headers={**p.blob_headers, "mram": 128}), "header"),
    ("header of no blob", lambda p: replace(p, blob_headers={**p.blob_headers, "l1": 128}), "none"),
    ("roles", lambda p: replace(p, roles=p.roles[::-1]), "plan.roles"),
    ("cores", lambda p: replace(p, cores=4), "plan.cores: found 4"),
    ("target", lambda p: replace(p, target="other"), "plan.target: found other"),
    ("regions", lambda p: replace(p, regions=p.regions[:-1]), "plan.regions"),
    ("linear forgotten", lambda p: replace(p, linears={}), "lm_head: found no plan"),
    (
        "linear of nobody",
        lambda p: replace(p, linears={**p.linears, "x": p.linears["lm_head"]}),
        "x: found a plan",
    ),
    (
        "other weight",
        linear("lm_head", weight="l00.attn.q_proj.weight"),
        "lm_head: found a plan for lm_head with weight l00.attn.q_proj.weight",
    ),
    ("no tile buffer", linear("lm_head", tile_buffer=None), "tile buffer None"),
    (
        "tile of another role",
        linear("lm_head", tile_buffer="tile.mlp.up_proj"),
        "tile buffer tile.mlp.up_proj",
    ),
    ("slots too far apart", linear("lm_head", slot_size=568), "two slots of 568 bytes"),
    ("slots overlap", linear("lm_head", slot_size=552), "lm_head transfer 0"),
    ("slot misaligned", linear("lm_head", slot_size=556), "a multiple of 8 bytes"),
    (
        "record missing",
        linear("lm_head", transfers=lambda t: t[:-1]),
        "transfers that end at record 21",
    ),
    ("no transfers", linear("lm_head", transfers=()), "transfers that end at record 0"),
    (
        "record twice",
        linear("lm_head", transfers=lambda t: (t[0], *t)),
        "first record 0, allowed 7",
    ),
    ("out of order", linear("lm_head", transfers=swapped), "first record 7, allowed 0"),
    ("same slot twice", transfer(1, slot=lambda _: 0), "transfer 1: found slot 0"),
    ("slot of nobody", transfer(1, slot=lambda _: 3), "transfer 1: found slot 3"),
    ("wrong source", transfer(2, source_offset=lambda n: n + 80), "transfer 2: found source"),
    ("wrong size", transfer(2, size=lambda n: n - 80), "transfer 2: found size"),
    ("before the weight", transfer(0, source_offset=lambda n: n - 80), "source offset"),
    (
        "beyond the weight",
        transfer(3, records=lambda n: n + 1, size=lambda n: n + 80),
        "allowed the weight's end",
    ),
    ("empty transfer", transfer(3, records=lambda _: 0, size=lambda _: 0), "0 records of 0 bytes"),
    (
        "ragged tiles",
        linear("lm_head", records_per_tile=9, slot_size=560),
        "a tile of 7 records before the last",
    ),
    ("no positions", attention(positions_per_chunk=0), "0 positions per chunk"),
    ("more than the context", attention(positions_per_chunk=64), "64 positions per chunk"),
    ("chunk exceeds slot", attention(positions_per_chunk=20), "slots of 256 bytes, allowed 320"),
    ("chunk slots exceed tile", attention(slot_size=264), "two slots of 264 bytes"),
    ("three chunk slots", attention(slots=3), "3 slots"),
    ("chunks without tile", attention(tile_buffer=None), "tile buffer None"),
]


@pytest.mark.parametrize(
    ("mutate", "message"),
    [(mutate, message) for _, mutate, message in MUTATIONS],
    ids=[name for name, _, _ in MUTATIONS],
)
def test_spoiled_plans_are_found(mutate: Mutation, message: str) -> None:
    plan = plan_memory(PROGRAM, TARGET)
    problems = validate_plan(PROGRAM, TARGET, mutate(plan))
    assert message in "\n".join(str(problem) for problem in problems)


def test_overlap_names_both_buffers_and_both_ranges() -> None:
    plan = on_top("mlp.up", "mlp.gate")(plan_memory(PROGRAM, TARGET))
    gate = plan.placements["mlp.gate"]
    ranges = f"bytes [{gate.offset}, {gate.offset + 96}) during "
    (problem,) = [p for p in validate_plan(PROGRAM, TARGET, plan) if p.where.endswith("mlp.up")]
    assert problem.where == "mlp.gate and mlp.up"
    assert f"{ranges}[12, 15) and {ranges}[13, 15)" in problem.found


L1_BUFFERS = sorted(
    n for n, p in plan_memory(PROGRAM, TARGET).placements.items() if p.region == "l1"
)


@settings(max_examples=150)
@given(name=st.sampled_from(L1_BUFFERS), step=st.integers(0, 277))
def test_finds_exactly_the_moves_that_collide(name: str, step: int) -> None:
    """A buffer anywhere in the arena, against a map of who owns which byte at which time."""
    plan = plan_memory(PROGRAM, TARGET)
    moved = place(name, offset=plan.region("l1").arena_base + 8 * step)(plan)
    arena = plan.region("l1")
    owners = np.zeros((len(plan.roles), arena.capacity), np.int64)
    for buffer in moved.placements.values():
        if buffer.region == "l1":
            owners[buffer.first : buffer.last, buffer.offset : buffer.offset + buffer.size] += 1
    one = moved.placements[name]
    outside = one.offset + one.size > arena.arena_base + arena.arena_size
    text = "\n".join(str(problem) for problem in validate_plan(PROGRAM, TARGET, moved))
    assert ("found both live in l1" in text) == (owners.max() > 1)
    assert ("allowed the arena of l1" in text) == outside


def test_transfer_beyond_the_dma_limit() -> None:
    plan = plan_memory(PROGRAM, TARGET)
    problems = validate_plan(PROGRAM, toy_target(mram=4096, max_transfer=400), plan)
    text = "\n".join(str(problem) for problem in problems)
    assert "lm_head transfer 0: found 7 records of 560 bytes, allowed 1 record to 400 bytes" in text


def test_chunk_beyond_the_dma_limit() -> None:
    plan = plan_memory(PROGRAM, TARGET)
    problems = validate_plan(PROGRAM, toy_target(mram=4096, max_transfer=120), plan)
    assert "attention: found transfers of 256 bytes, allowed at most 120" in map(str, problems)


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (linear("lm_head", records_per_tile=8), "25 records read in place"),
        (linear("lm_head", slot_size=640), "25 records read in place"),
        (attention(positions_per_chunk=16), "32 positions read in place"),
        (attention(tile_buffer="tile.attn.attention"), "32 positions read in place"),
    ],
)
def test_in_place_plans_move_nothing(mutate: Mutation, message: str) -> None:
    target = flat_target()
    problems = validate_plan(PROGRAM, target, mutate(plan_memory(PROGRAM, target)))
    assert message in "\n".join(str(problem) for problem in problems)


def test_plan_of_another_program_is_found() -> None:
    other = toy_program(replace(TOY_SHAPE, ffn=40))
    assert validate_plan(other, TARGET, plan_memory(PROGRAM, TARGET)) != []


def test_planner_raises_when_the_validator_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "plan_linears", lambda *_: {})
    with pytest.raises(InternalError, match="lm_head: found no plan"):
        plan_memory(PROGRAM, TARGET)
