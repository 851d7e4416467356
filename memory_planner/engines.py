"""Which linears run on the engine, and in which arrangement of their weights.

Every linear is decided on its own by modelled cycles: those of the cores with its tiles, against
those of the engine's jobs with what the cores do before and after them (engine_cost.py). A
linear whose words find no room where the engine reads goes back to the cores, and so do linears
whose words or buffers make the model exceed a memory. What was decided, and why, is a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from memory_planner.engine_chains import can_run, windows_of
from memory_planner.engine_cost import EngineCost, core_cycles, engine_cost
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.engine_program import is_tied, with_engine
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.names import HEAD
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import Op, OpKind, Program

MAX_TAIL = 16  # columns left to the cores: EDGEC_ENGINE_MAX_TAIL
Draft = Callable[[Program], Plan]


class EngineChoice(StrEnum):
    """What the user asks for."""

    AUTO = "auto"  # by modelled cycles
    NEUREKA = "neureka"  # every linear that can
    CORES = "cores"


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one linear runs, and why. Cycles are those of the whole op, 0 when not possible."""

    op: str
    engine: str  # the engine's name, or cores
    packing: str
    arrangement: str  # dense, column, pixel, with the columns left to the cores; "" on the cores
    reason: str
    engine_cycles: int
    core_cycles: int


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A program with layouts for the engine, and every decision; none without an engine."""

    program: Program
    layouts: Mapping[str, EngineLayout]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A linear that can run on the engine."""

    op: Op
    layout: EngineLayout  # the best arrangement
    cost: EngineCost
    cores: float  # cycles
    extra: int  # bytes more than for the cores


def assign_engines(
    program: Program,
    target: TargetSpec,
    choice: EngineChoice,
    bits: Mapping[str, int],
    draft: Draft,
) -> Assignment:
    """Decide for every linear of `program`, all of whose linears are laid out for the cores.

    `bits` of a weight by op id of the stored matrix ("embed" for a tied head). `draft` plans a
    program, whether or not it fits. Raises ConfigError when the target has no engine to pin.
    """
    if target.engine is None:
        if choice is EngineChoice.NEUREKA:
            problem = Problem("--engine", choice.value, f"auto or cores: {target.name} has none")
            raise ConfigError("some options cannot be used", [problem])
        return Assignment(program, {}, ())
    candidates, refused = _candidates(program, target, choice, bits)
    wanted = {
        op_id: each
        for op_id, each in candidates.items()
        if choice is EngineChoice.NEUREKA or each.cost.cycles < each.cores
    }
    for op_id in candidates.keys() - wanted.keys():
        refused[op_id] = "fewer cycles on the cores"
    layouts = _settle(program, target, wanted, refused, draft)
    decisions = tuple(
        _decision(op, program, target, (candidates.get(op.id), layouts.get(op.id), refused))
        for op in program.ops
        if op.kind is OpKind.LINEAR
    )
    return Assignment(with_engine(program, layouts), layouts, decisions)


def _candidates(
    program: Program, target: TargetSpec, choice: EngineChoice, bits: Mapping[str, int]
) -> tuple[dict[str, _Candidate], dict[str, str]]:
    """Linears that the engine can compute, by op id, and why the others are not."""
    found: dict[str, _Candidate] = {}
    refused: dict[str, str] = {}
    if choice is EngineChoice.CORES:
        reason = "pinned to the cores"
        return {}, {op.id: reason for op in program.ops if op.kind is OpKind.LINEAR}
    known: dict[tuple[WeightLayout, int, int], tuple[EngineLayout, EngineCost] | str] = {}
    for op in program.ops:
        if op.kind is not OpKind.LINEAR:
            continue
        layout = program.layout_of(op)
        stored = program.weight_of(op).name.removesuffix(".weight")
        width = bits.get(stored, layout.packing.field_bits)
        key = layout, width, windows_of(op)
        if key not in known:
            known[key] = _best(layout, width, op, target)
        best = known[key]
        if isinstance(best, str):
            refused[op.id] = best
            continue
        shared = op.id == HEAD and is_tied(program)
        extra = best[0].size - (0 if shared else layout.size)
        found[op.id] = _Candidate(op, *best, core_cycles(layout, target), extra)
    return found, refused


def _best(
    layout: WeightLayout, bits: int, op: Op, target: TargetSpec
) -> tuple[EngineLayout, EngineCost] | str:
    """The arrangement with the fewest cycles, or why there is none."""
    if type(layout) is not WeightLayout:
        return "sparse weights"
    reason = "no arrangement"
    found: list[tuple[EngineCost, int, EngineLayout]] = []
    for number, option in enumerate(arrangements(layout, bits)):
        problem = can_run(option, windows_of(op), target)
        if problem:
            reason = problem
        else:
            found.append((engine_cost(option, windows_of(op), target), number, option))
    if not found:
        return reason
    cost, _, best = min(found, key=lambda item: (item[0].cycles, item[1]))
    return best, cost


def arrangements(layout: WeightLayout, bits: int) -> list[EngineLayout]:
    """The engine layouts worth trying, the simplest first.

    A tail is worth trying where it saves the last, mostly empty tile of input channels.
    """
    found = []
    for taps in (9, 3, 1):
        whole = EngineLayout(
            Packing.NEUREKA_3X3, layout.rows, layout.columns, bits, layout.group_size, taps
        )
        found.append(whole)
        tail = layout.columns - taps * whole.tile * (whole.tiles - 1)
        if layout.groups == 1 and whole.tiles > 1 and 0 < tail <= MAX_TAIL:
            found.append(replace(whole, tail=tail))
    return found


def _settle(
    program: Program,
    target: TargetSpec,
    wanted: Mapping[str, _Candidate],
    refused: dict[str, str],
    draft: Draft,
) -> dict[str, EngineLayout]:
    """What stays on the engine: all words where it reads them, nothing too large for a memory.

    Linears go back to the cores until that holds: those whose words lie elsewhere, or, when a
    memory is too small, those first that cost most bytes per cycle saved. Writes reasons to
    `refused`.
    """
    assert target.engine is not None
    kept = dict(wanted)
    while kept:
        plan = draft(with_engine(program, {op_id: each.layout for op_id, each in kept.items()}))
        outside = {
            op_id: plan.placements[f"{op_id}.weight"].region
            for op_id in kept
            if plan.placements[f"{op_id}.weight"].region not in target.engine.weights
        }
        lacking = [region.name for region in plan.regions if region.free < 0]
        if not outside and not lacking:
            break
        if lacking:
            kept = _dropped(program, kept, refused, draft)
            continue
        for op_id, region in outside.items():
            del kept[op_id]
            refused[op_id] = f"the engine does not read weights in {region}"
    return {op_id: each.layout for op_id, each in kept.items()}


def _dropped(
    program: Program, kept: Mapping[str, _Candidate], refused: dict[str, str], draft: Draft
) -> dict[str, _Candidate]:
    """Fewer linears on the engine, as many as there is room for; none if none helps."""
    order = sorted(kept, key=lambda op_id: (-_burden(kept[op_id]), op_id))

    def fits(count: int) -> bool:
        rest = {op_id: kept[op_id].layout for op_id in kept if op_id not in order[:count]}
        return all(region.free >= 0 for region in draft(with_engine(program, rest)).regions)

    low, high = 1, len(order)  # need falls with the count, nearly: what is found is checked again
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    for op_id in order[:low]:
        refused[op_id] = "no room for its words or buffers"
    return {op_id: kept[op_id] for op_id in kept if op_id not in order[:low]}


def _burden(each: _Candidate) -> float:
    """Bytes more per cycle saved; linears that save bytes go last."""
    if each.extra <= 0:
        return float(each.extra)
    return each.extra / max(1.0, each.cores - each.cost.cycles)


def _decision(
    op: Op,
    program: Program,
    target: TargetSpec,
    facts: tuple[_Candidate | None, EngineLayout | None, Mapping[str, str]],
) -> Decision:
    """The record of one linear; `facts`: what it could be, what it became, why others are not."""
    assert target.engine is not None
    candidate, layout, refused = facts
    spec = program.weight_of(op).layout
    assert isinstance(spec, WeightLayout)
    cycles = round(candidate.cost.cycles) if candidate else 0
    cores = round(candidate.cores if candidate else core_cycles(spec, target))
    if layout is None:
        return Decision(op.id, "cores", spec.packing.value, "", refused[op.id], cycles, cores)
    reason = "fewer cycles than on the cores" if cycles < cores else "pinned to the engine"
    name, packing = target.engine.name, layout.packing.value
    return Decision(op.id, name, packing, arrangement_text(layout), reason, cycles, cores)


def arrangement_text(layout: EngineLayout) -> str:
    """The arrangement in a word, and what it leaves to the cores."""
    name = {9: "dense", 3: "column", 1: "pixel"}[layout.taps]
    tail = f", {layout.tail} columns on the cores" if layout.tail else ""
    groups = f", {layout.groups} groups" if layout.groups > 1 else ""
    return name + groups + tail
