"""A design planned on a target, whether or not it fits.

What fits goes through `plan_memory`, exactly as in a compile; what does not is the planner's draft.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory_planner.engines import Decision
from memory_planner.explain import Shortfall, shortfalls
from memory_planner.limits import check_pins
from memory_planner.plan import Plan
from memory_planner.planner import choose_engines, draft_plan, plan_memory
from memory_planner.target import TargetSpec, allowed_regions
from memory_planner.tiling import max_transfer
from toolchain.fit.design import Design, build_program, check_design
from toolchain.fit.speed import Speed, decode_speed, with_sample_linears
from toolchain.model.errors import ConfigError, DoesNotFitError, Problem
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
    chosen = choose_engines(build_program(design), target, design.engine, design.bits)
    program = chosen.program
    check_pins(program, target)
    draft = draft_plan(program, target)
    lacking = tuple(shortfalls(draft, program, target))
    problems = tuple(map(_problem, lacking))
    plan = None
    if not lacking:
        try:
            plan = plan_memory(program, target)
        except DoesNotFitError as error:  # a record is too large for one transfer
            problems = error.problems
    if plan is None:
        plan = with_sample_linears(program, draft, target)
    speed = decode_speed(program, plan, target, design.context // 2)
    return Outcome(design, program, plan, speed, target, problems, lacking, chosen.decisions)


def fits(design: Design, target: TargetSpec) -> bool:
    """Whether a design is possible and `plan_memory` accepts it with all linears on the cores.

    The engine changes nothing about that: linears for which it has no room stay on the cores.
    """
    if not draft_fits(design, target):
        return False
    try:
        plan_memory(build_program(design), target)
    except (ConfigError, DoesNotFitError):  # a pin may match nothing any more
        return False
    return True


def draft_fits(design: Design, target: TargetSpec) -> bool:
    """Whether a design is possible and exceeds no region: quicker than `fits`, no full plan."""
    try:
        check_design(design)
    except ConfigError:
        return False
    program = build_program(design)
    if not may_fit(program, target):
        return False
    return all(region.free >= 0 for region in draft_plan(program, target).regions)


def may_fit(program: Program, target: TargetSpec) -> bool:
    """A necessary condition from sizes alone: permanent data against the regions allowed for it."""
    records = [program.layout_of(op).record_size for op in program.ops if op.kind is OpKind.LINEAR]
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
    return total <= capacity(target)


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
