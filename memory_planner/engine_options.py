"""The arrangements of weights that a linear can have on the engine, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory_planner.engine_chains import can_run
from memory_planner.engine_cost import EngineCost, engine_cost, shared_cost
from memory_planner.fused_ops import MOST_JOBS, MOST_RUNS
from memory_planner.target import TargetSpec
from toolchain.model.adapters import is_adapter_op
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import Op, OpKind, Program

MAX_TAIL = 16  # columns left to the cores


@dataclass(frozen=True, slots=True)
class Option:
    """An arrangement of a linear, and what it costs by itself."""

    layout: EngineLayout
    cost: EngineCost


@dataclass(frozen=True, slots=True)
class Terms:
    """What arrangements of the linears of a vector are looked for under."""

    in_block: bool = True
    gated: bool = False  # SwiGLU reads the first linear
    smallest: bool = False  # only those of the fewest bytes


def linears_by_vector(program: Program) -> list[list[Op]]:
    """Linears in schedule order, those that read the same vector one after the other together."""
    groups: list[list[Op]] = []
    before: Op | None = None
    for op in program.ops:
        if op.kind is OpKind.LINEAR and not is_adapter_op(op):
            follows = before is not None and before.kind is OpKind.LINEAR
            if follows and before and before.inputs[:2] == op.inputs[:2]:
                groups[-1].append(op)
            else:
                groups.append([op])
        before = op
    return groups


def best_options(
    linears: Sequence[tuple[WeightLayout, int]],
    windows: int,
    target: TargetSpec,
    terms: Terms,
) -> list[Option | str]:
    """The arrangement of each of some linears that read one vector, or why there is none.

    `linears` are layouts for the cores and bits. Rows are finished part by part, in a block in as
    many parts as a fused function takes. One arrangement for all shares the staged vector and jobs;
    it is taken when that is faster than the best one for each.
    """
    in_block = terms.in_block
    options = [_options(layout, bits, windows, target, in_block) for layout, bits in linears]
    if terms.smallest:
        options = [each if isinstance(each, str) else _smallest(each) for each in options]
    single: list[Option | str] = [
        each if isinstance(each, str) else min(each.values(), key=lambda option: option.cost.cycles)
        for each in options
    ]
    possible = [each for each in options if not isinstance(each, str)]
    if len(possible) < len(options) or len(options) == 1:
        return single
    apart = sum(each.cost.cycles for each in single if isinstance(each, Option))
    common = [key for key in possible[0] if all(key in each for each in possible)]
    costs = {
        key: shared_cost(
            [each[key].layout for each in possible],
            windows,
            target,
            parts=_most_parts(possible[-1][key].layout, in_block),
            gated=terms.gated,
        )
        for key in common
    }
    best = min(common, key=lambda key: costs[key], default=None)
    if best is None or costs[best] > apart:
        return single
    return [each[best] for each in possible]


def _smallest(options: dict[tuple[int, ...], Option]) -> dict[tuple[int, ...], Option]:
    """Those of the fewest bytes."""
    least = min(option.layout.size for option in options.values())
    return {key: option for key, option in options.items() if option.layout.size == least}


def _options(
    layout: WeightLayout, bits: int, windows: int, target: TargetSpec, in_block: bool
) -> dict[tuple[int, ...], Option] | str:
    """Arrangements with room, by what staging depends on, the simplest first; or why none has.

    The words of a sparse matrix hold its zeros too.
    """
    reason = "no arrangement"
    found: dict[tuple[int, ...], Option] = {}
    for option in arrangements(layout, bits):
        problem = can_run(option, windows, target)
        if problem:
            reason = problem
        else:
            key = option.taps, option.tail, option.group_size
            parts = _most_parts(option, in_block)
            found[key] = Option(
                option, engine_cost(option, windows, target, parts=parts, fused=in_block)
            )
    return found or reason


def _most_parts(layout: EngineLayout, in_block: bool) -> int:
    """Parts in which the rows of a linear can be finished; in a block 1 with groups or a tail."""
    if not in_block:
        return MOST_JOBS
    plain = layout.groups == 1 and not layout.tail
    return min(MOST_JOBS, MOST_RUNS // layout.shared) if plain else 1


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


def arrangement_text(layout: EngineLayout) -> str:
    """The arrangement in a word, and what it leaves to the cores."""
    name = {9: "dense", 3: "column", 1: "pixel"}[layout.taps]
    tail = f", {layout.tail} on cores" if layout.tail else ""
    groups = f", {layout.groups} groups" if layout.groups > 1 else ""
    return name + groups + tail
