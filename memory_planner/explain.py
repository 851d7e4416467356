"""Why a region is as full as it is: the fullest step, what is live there, and what is lacking.

For a region that is too small also a smallest set of buffers that cannot be there together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_planner.allocate import Buffer
from memory_planner.conflicts import Conflict, find_conflict
from memory_planner.plan import Placement, Plan, RegionPlan
from memory_planner.target import TargetSpec, align_up
from toolchain.model.errors import DoesNotFitError, Problem
from toolchain.model.program import Program

SHOWN_BUFFERS = 6  # of a message; `Shortfall.live` has them all


@dataclass(frozen=True, slots=True)
class Peak:
    """The fullest step of a region and what occupies it then, largest first."""

    region: str
    op: str  # id of the first op of that role; empty when nothing of the step is in the region
    size: int  # live bytes, each buffer rounded up to the alignment
    live: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A region that is too small."""

    region: str
    capacity: int
    need: int
    peak: Peak
    conflict: Conflict | None  # None: not known, the search reached its limit
    conflict_op: str  # like Peak.op, for the moment of the conflict; empty without one

    @property
    def excess(self) -> int:
        """Bytes that are lacking."""
        return self.need - self.capacity

    def to_dict(self) -> dict[str, object]:
        """The facts for `--json`."""
        return {
            "region": self.region,
            "capacity": self.capacity,
            "need": self.need,
            "excess": self.excess,
            "peak_op": self.peak.op,
            "live": [{"name": place.name, "size": place.size} for place in self.peak.live],
            "cannot_coexist": self.conflict_facts(),
        }

    def conflict_facts(self) -> dict[str, object] | None:
        """The conflict for `--json`: its buffers, and the op at which they are live together."""
        if self.conflict is None:
            return None
        return {
            "buffers": [{"name": b.name, "size": b.size} for b in self.conflict.buffers],
            "op": self.conflict_op,
            "live_at_once": self.conflict.time is not None,
            "irreducible": self.conflict.irreducible,
        }

    def conflict_text(self) -> str:
        """The conflict as a clause of an error; empty when it says no more than the peak."""
        if self.conflict is None:
            return ""
        names = [buffer.name for buffer in self.conflict.buffers]
        live = [place.name for place in self.peak.live]
        if names == live:
            return ""
        if len(names) == 1:
            return f"; {names[0]} alone is too large"
        if names == live[: len(names)] and len(names) <= SHOWN_BUFFERS:
            return f"; the first {len(names)} cannot be there together"
        listed = ", ".join(f"{b.name} {b.size:,}" for b in self.conflict.buffers[:SHOWN_BUFFERS])
        more = len(names) - SHOWN_BUFFERS
        listed += f", and {more} more" if more > 0 else ""
        if self.conflict.time is None:
            return f"; no arrangement holds {listed}"
        at = f" at op {self.conflict_op}" if self.conflict_op else ""
        return f"; {listed} cannot be there together{at}"

    def problem(self) -> Problem:
        """The facts as one line of an error."""
        largest = ", ".join(f"{p.name} {p.size:,}" for p in self.peak.live[:SHOWN_BUFFERS])
        more = len(self.peak.live) - SHOWN_BUFFERS
        rest = f", and {more} more" if more > 0 else ""
        where = f"region {self.region}"
        if self.peak.op:
            where += f" at op {self.peak.op}"
        return Problem(
            where,
            f"{self.need:,} bytes needed ({largest}{rest}{self.conflict_text()})",
            f"{self.capacity:,} bytes, {self.excess:,} too many",
        )


class PlanDoesNotFitError(DoesNotFitError):
    """A region is too small; carries the shortfalls as values."""

    def __init__(self, target: str, shortfalls: Sequence[Shortfall]) -> None:
        self.shortfalls = tuple(shortfalls)
        problems = [shortfall.problem() for shortfall in shortfalls]
        super().__init__(f"the model does not fit {target}", problems)

    def to_dict(self) -> dict[str, object]:
        """The facts of the text, as values."""
        facts = {"shortfalls": [shortfall.to_dict() for shortfall in self.shortfalls]}
        return DoesNotFitError.to_dict(self) | facts


def peak_of(plan: Plan, program: Program, target: TargetSpec, region: str) -> Peak:
    """The earliest step at which most bytes of `region` are live; permanent data always are."""
    places = [place for place in plan.placements.values() if place.region == region]
    align = target.region(region).align
    sizes = [0] * len(plan.roles)
    for place in places:
        for time in range(place.first, place.last):
            sizes[time] += align_up(place.size, align)
    time = sizes.index(max(sizes))
    live = [place for place in places if place.first <= time < place.last]
    live.sort(key=lambda place: (-place.size, place.name))
    return Peak(region, _op_at(plan, program, places, time), sizes[time], tuple(live))


def _op_at(plan: Plan, program: Program, places: Sequence[Placement], time: int) -> str:
    """Id of the first op of the role at `time`; empty when nothing there depends on the time."""
    if all(place.last - place.first == len(plan.roles) for place in places):
        return ""
    return next(op.id for op in program.ops if op.role == plan.roles[time])


def shortfalls(plan: Plan, program: Program, target: TargetSpec) -> list[Shortfall]:
    """Every region of a draft that exceeds its capacity."""
    return [
        _shortfall(plan, program, target, region)
        for region in plan.regions
        if region.used > region.capacity
    ]


def _shortfall(plan: Plan, program: Program, target: TargetSpec, region: RegionPlan) -> Shortfall:
    places = [place for place in plan.placements.values() if place.region == region.name]
    buffers = [Buffer(place.name, place.size, place.first, place.last) for place in places]
    room = region.capacity - region.reserved - plan.blob_headers.get(region.name, 0)
    conflict = find_conflict(buffers, target.region(region.name).align, room)
    time = None if conflict is None else conflict.time
    return Shortfall(
        region=region.name,
        capacity=region.capacity,
        need=region.used,
        peak=peak_of(plan, program, target, region.name),
        conflict=conflict,
        conflict_op="" if time is None else _op_at(plan, program, places, time),
    )
