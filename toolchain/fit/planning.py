"""A design planned on a target, whether or not it fits.

What fits goes through `plan_memory`, exactly as in a compile; what does not is the planner's draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from memory_planner.engines import Decision
from memory_planner.explain import PlanDoesNotFitError, Shortfall
from memory_planner.limits import check_pins
from memory_planner.plan import Plan
from memory_planner.planner import choose_engines, complete_plan, draft_plan, is_plannable
from memory_planner.target import TargetSpec, allowed_regions
from memory_planner.tiling import max_transfer
from toolchain.fit.design import Design, build_program, check_design
from toolchain.fit.speed import Speed, decode_speed, with_sample_linears
from toolchain.model.errors import ConfigError, DoesNotFitError, Problem
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Kind, OpKind, Program

SHOWN_CONTRIBUTORS = 5
PERMANENT = {Kind.WEIGHT: "weights", Kind.CONST: "constants", Kind.STATE: "state"}


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The program of a design and its plan; a draft that exceeds regions when it does not fit."""

    design: Design
    program: Program
    plan: Plan
    speed: Speed
    target: TargetSpec
    problems: tuple[Problem, ...]  # empty when it fits
    shortfalls: tuple[Shortfall, ...]
    decisions: tuple[Decision, ...] = ()  # where each linear runs, on a target with an engine

    @property
    def fits(self) -> bool:
        """Whether `plan_memory` accepted it."""
        return not self.problems


def plan_design(design: Design, target: TargetSpec) -> Outcome:
    """Plan a design that `check_design` accepts; never raises because it does not fit."""
    chosen = choose_engines(build_program(design), target, design.wish)
    program = chosen.program
    check_pins(program, target)
    draft = chosen.draft or draft_plan(program, target)
    lacking: tuple[Shortfall, ...] = ()
    problems: tuple[Problem, ...] = ()
    try:
        plan = complete_plan(program, target, draft, design.batch, chosen.batched)
    except PlanDoesNotFitError as error:
        lacking = error.shortfalls
        problems = tuple(map(_problem, lacking))
    except DoesNotFitError as error:  # a record is too large for one transfer
        problems = error.problems
    if problems:
        plan = with_sample_linears(program, draft, target)
    speed = decode_speed(program, plan, target, design.context // 2)
    return Outcome(design, program, plan, speed, target, problems, lacking, chosen.decisions)


def fits(design: Design, target: TargetSpec) -> bool:
    """Whether a design is possible and `plan_memory` accepts it with all linears on the cores.

    The engine changes nothing about that: linears for which it has no room stay on the cores.
    """
    try:
        check_design(design)
    except ConfigError:
        return False
    program = build_program(design)
    return may_fit(program, target) and is_plannable(program, target)


def may_fit(program: Program, target: TargetSpec) -> bool:
    """A necessary condition from sizes alone: permanent data against the regions allowed for it."""
    linears = {program.weight_of(op).layout for op in program.ops if op.kind is OpKind.LINEAR}
    records = [each.record_size for each in linears if isinstance(each, WeightLayout)]
    if target.tiling and max(records) > max_transfer(target):
        return False
    total = 0
    for kind, group in PERMANENT.items():
        rooms = [target.region(name) for name in allowed_regions(target, group)]
        free = [region.size - region.reserved for region in rooms]
        sizes = [spec.size for spec in program.tensors.values() if spec.kind is kind]
        if sum(sizes) > sum(free) or max(sizes, default=0) > max(free):
            return False
        total += sum(sizes)
    return total <= capacity(target) and _may_stream(program, target)


def _may_stream(program: Program, target: TargetSpec) -> bool:
    """A necessary condition of streaming: two slots, each of an average streamed weight.

    Of N weights of blocks with W bytes, X bytes stream. On the chip stay W - X bytes, KV cache and
    constants, and slots of 2 X / N at least, one behind the other in one region.
    """
    if target.off_chip is None:
        return True

    def room(groups: Iterable[str]) -> int:
        names = {name for group in groups for name in target.placement[group]}
        return sum(target.region(n).size - target.region(n).reserved for n in names)

    sizes = dict.fromkeys(PERMANENT, 0)
    for spec in program.tensors.values():
        if spec.kind in PERMANENT and (spec.kind is not Kind.WEIGHT or spec.in_blocks):
            sizes[spec.kind] += spec.size
    count = sum(s.kind is Kind.WEIGHT and s.in_blocks for s in program.tensors.values())
    weights = sizes[Kind.WEIGHT]
    streamed = max(0, weights - room(["weights"]))
    lacking = sum(sizes.values()) - room(PERMANENT.values())
    if lacking > 0 and count <= 2:
        return False
    if lacking > 0:
        streamed = max(streamed, lacking * count // (count - 2))
    slots = [target.region(name) for name in target.off_chip.staging]
    return 2 * streamed // count <= max(region.size - region.reserved for region in slots)


def permanent_size(program: Program) -> int:
    """Bytes that are taken for the whole run: less than any plan needs."""
    return sum(spec.size for spec in program.tensors.values() if spec.kind in PERMANENT)


def capacity(target: TargetSpec) -> int:
    """Bytes of all regions that are not reserved."""
    return sum(region.size - region.reserved for region in target.regions)


def contributors(shortfall: Shortfall) -> list[tuple[str, int, int]]:
    """(what, how many, bytes) at a region's fullest step: equal roles summed, largest first."""
    sums: dict[str, tuple[int, int]] = {}
    for place in shortfall.peak.live:
        name = re.sub(r"^l\d+\.", "", place.name)
        count, size = sums.get(name, (0, 0))
        sums[name] = (count + 1, size + place.size)
    ordered = sorted(sums.items(), key=lambda item: (-item[1][1], item[0]))
    return [(name, count, size) for name, (count, size) in ordered]


def _problem(shortfall: Shortfall) -> Problem:
    parts = [
        f"{name} {size:,}" if count == 1 else f"{count} x {name} {size:,}"
        for name, count, size in contributors(shortfall)
    ]
    more = len(parts) - SHOWN_CONTRIBUTORS
    listed = ", ".join(parts[:SHOWN_CONTRIBUTORS]) + (f", and {more} more" if more > 0 else "")
    where = f"region {shortfall.region}"
    if shortfall.peak.op:
        where += f" at op {shortfall.peak.op}"
    return Problem(
        where,
        f"{shortfall.need:,} bytes needed ({listed})",
        f"{shortfall.capacity:,} bytes, {shortfall.excess:,} too many",
    )
