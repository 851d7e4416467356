"""Why a region is as full as it is: the fullest step, what is live there, and what is lacking."""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.plan import Placement, Plan
from memory_planner.target import TargetSpec, align_up
from toolchain.model.errors import Problem
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
        }

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
            f"{self.need:,} bytes needed ({largest}{rest})",
            f"{self.capacity:,} bytes, {self.excess:,} too many",
        )


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
    transient = any(place.last - place.first < len(plan.roles) for place in places)
    op = next(op.id for op in program.ops if op.role == plan.roles[time]) if transient else ""
    return Peak(region, op, sizes[time], tuple(live))


def shortfalls(plan: Plan, program: Program, target: TargetSpec) -> list[Shortfall]:
    """Every region of a draft that exceeds its capacity."""
    return [
        Shortfall(
            region=region.name,
            capacity=region.capacity,
            need=region.used,
            peak=peak_of(plan, program, target, region.name),
        )
        for region in plan.regions
        if region.used > region.capacity
    ]
