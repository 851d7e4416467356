"""What fits where: one card per memory region, with a bar that is the region and one that is
the used part of it, enlarged, and a row per category.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.plan import Plan, RegionPlan, Row
from memory_planner.target import MemoryRegion, TargetSpec
from toolchain.report.figure import Box, Frame, box
from toolchain.report.scale import count, decimal, percent

WIDTH, BAR = 500, 24
ENLARGED_TOP = 50  # of the second bar
ENLARGE_BELOW = 0.75  # a fuller region needs no second bar


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """Bytes of one category, and their share of the region."""

    category: str
    size: str
    percent: str


@dataclass(frozen=True, slots=True)
class RegionCard:
    """A region as text and as bars."""

    name: str
    facts: str
    used: str
    left: str  # what the bytes left are: free, or lacking in a region that is too small
    free: str
    capacity: str
    percent: str
    rows: list[CategoryRow]
    bar: list[Box]
    enlarged: list[Box]  # empty when the region is full enough to be read
    funnel: str  # polygon between the bars
    end: str  # x of the region's end
    height: int


def region_cards(plan: Plan, target: TargetSpec) -> list[RegionCard]:
    """A card for every region of the target, used or not."""
    return [
        _card(region, target.region(region.name), [r for r in plan.rows if r.region == region.name])
        for region in plan.regions
    ]


def _card(region: RegionPlan, memory: MemoryRegion, rows: list[Row]) -> RegionCard:
    enlarge = 0 < region.used < ENLARGE_BELOW * region.capacity
    whole = max(region.used, region.capacity, 1)
    edge = decimal(region.used * WIDTH / whole)
    return RegionCard(
        name=region.name,
        facts=_facts(memory),
        used=count(region.used),
        left="free" if region.free >= 0 else "lacking",
        free=count(abs(region.free)),
        capacity=count(region.capacity),
        percent=percent(region.used, region.capacity),
        rows=[
            CategoryRow(row.category, count(row.size), percent(row.size, region.capacity))
            for row in rows
        ],
        bar=_segments(rows, whole, region.capacity, 0),
        enlarged=_segments(rows, region.used, region.capacity, ENLARGED_TOP) if enlarge else [],
        funnel=f"0,{BAR} {edge},{BAR} {WIDTH},{ENLARGED_TOP} 0,{ENLARGED_TOP}" if enlarge else "",
        end=decimal(region.capacity * WIDTH / whole),
        height=ENLARGED_TOP + BAR if enlarge else BAR,
    )


def _facts(memory: MemoryRegion) -> str:
    kind = "loses its content without power" if memory.volatile else "keeps its content"
    return f"at {memory.base:#010x}, aligned to {memory.align}, {kind}"


def _segments(rows: list[Row], whole: int, capacity: int, top: float) -> list[Box]:
    """Rows side by side, `whole` bytes over the width of the figure."""
    axis = Frame(0, top, WIDTH, BAR).x_axis(0, whole)
    boxes, start = [], 0
    for row in rows:
        area = Frame(axis.at(start), top, axis.span(row.size), BAR)
        share = percent(row.size, capacity)
        title = f"{row.category}: {count(row.size)} bytes, {share} % of {row.region}"
        boxes.append(box(area, row.category, title, row.category))
        start += row.size
    return boxes
