"""Maps of the regions: blobs by address, arenas by address over the folded time of the step.

Addresses are offsets from the region's base. A buffer of an arena is a rectangle from its first
op to its last, so that what lies side by side shares bytes at different times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from memory_planner.explain import peak_of
from memory_planner.plan import Placement, Plan, RegionPlan
from memory_planner.rows import CATEGORIES, category
from memory_planner.target import TargetSpec
from toolchain.model.program import Kind, Program
from toolchain.report.figure import (
    FONT,
    MARGIN,
    WIDTH,
    Box,
    Frame,
    Tick,
    axis_ticks,
    box,
    zoom_range,
)
from toolchain.report.names import layer_of
from toolchain.report.scale import BINARY, Axis, count, decimal, text_width

MAP_LEFT, MAP_TOP, MAP_BOTTOM = 84, 46, 92  # room for addresses, bracket and op names
HIGH_MAP, LOW_MAP = 380, 110  # plot heights; low when nothing moves in or out of the region
STRIP = Frame(0, 22, WIDTH, 34)
BLOCKS = Frame(0, 2, WIDTH, 18)  # lane of block names above the strip
STRIP_HEIGHT = 76
HEADROOM = 0.04  # of the plot, so that the bound is not its edge


@dataclass(frozen=True, slots=True)
class Column:
    """A step of the folded time."""

    x: str
    text: str


@dataclass(frozen=True, slots=True)
class ArenaMap:
    """Buffers of one arena over time."""

    region: str
    summary: str
    frame: dict[str, str]
    height: str
    zoom: str
    boxes: list[Box]
    columns: list[Column]
    edges: list[str]  # between columns
    ticks: list[Tick]
    bound: str  # y of the lower bound
    bound_text: str
    bracket: Box  # the roles that every block repeats
    fullest: Box


@dataclass(frozen=True, slots=True)
class BlobStrip:
    """Read-only tensors of one region in the order of their addresses."""

    region: str
    summary: str
    view: str  # the part of the figure that is used
    zoom: str
    boxes: list[Box]
    ticks: list[Tick]


@dataclass(frozen=True, slots=True)
class BufferRow:
    """A line of the list of all buffers."""

    name: str
    css: str
    region: str
    offset: str
    size: str
    life: str


def arena_maps(program: Program, plan: Plan, target: TargetSpec) -> list[ArenaMap]:
    """A map for every region whose arena holds something."""
    return [
        _arena_map(program, plan, target, region) for region in plan.regions if region.arena_size
    ]


def _arena_map(program: Program, plan: Plan, target: TargetSpec, region: RegionPlan) -> ArenaMap:
    places = [
        place
        for place in plan.placements.values()
        if place.region == region.name and place.offset >= region.arena_base
    ]
    steps = len(plan.roles)
    moving = any(place.last - place.first < steps for place in places)
    tall = HIGH_MAP if moving else LOW_MAP
    frame = Frame(MAP_LEFT, MAP_TOP, WIDTH - MAP_LEFT, tall)
    x, end = frame.x_axis(0, steps), region.arena_base + region.arena_size
    y = frame.y_axis(region.arena_base, end + HEADROOM * region.arena_size)
    boxes = []
    for place in sorted(places, key=lambda place: (-place.size, place.name)):
        css = category(program, place.name)
        boxes.append(box(_area(place, x, y), css, _title(plan, place, css), place.name))
    return ArenaMap(
        region=region.name,
        summary=_summary(region, len(places)),
        frame=frame.text(),
        height=decimal(frame.bottom + MAP_BOTTOM),
        zoom=zoom_range(y),
        boxes=boxes,
        columns=[Column(decimal(x.at(i + 0.5)), role) for i, role in enumerate(plan.roles)],
        edges=[decimal(x.at(i)) for i in range(1, steps)],
        ticks=axis_ticks(y, 9 if moving else 5, BINARY),
        bound=decimal(y.at(region.arena_base + region.peak)),
        bound_text=f"lower bound {count(region.peak)} bytes",
        bracket=_bracket(program, plan, x),
        fullest=_fullest(program, plan, target, region.name, frame),
    )


def _area(place: Placement, x: Axis, y: Axis) -> Frame:
    top = y.at(place.offset + place.size)
    width = x.span(place.last - place.first)
    return Frame(x.at(place.first), top, width, y.span(place.size))


def _title(plan: Plan, place: Placement, kind: str) -> str:
    at = f"{count(place.size)} bytes at {place.region} + {count(place.offset)}"
    return f"{place.name}: {kind}, {at}, {_life(plan, place)}"


def _life(plan: Plan, place: Placement) -> str:
    if place.last - place.first == len(plan.roles):
        return "always"
    first, last = plan.roles[place.first], plan.roles[place.last - 1]
    return first if first == last else f"{first} to {last}"


def _summary(region: RegionPlan, buffers: int) -> str:
    gap = region.arena_size - region.peak
    verdict = (
        "no schedule of these lifetimes needs less"
        if gap == 0
        else f"{count(gap)} bytes above the lower bound"
    )
    return (
        f"arena of {count(region.arena_size)} bytes from offset {count(region.arena_base)}, "
        f"{buffers} buffers; {verdict}"
    )


def _bracket(program: Program, plan: Plan, x: Axis) -> Box:
    """The roles of a block, which all blocks run one after the other in the same buffers."""
    inside = {op.role for op in program.ops if op.layer >= 0}
    steps = [index for index, role in enumerate(plan.roles) if role in inside]
    text = f"every block ({program.shape.layers} in turn)"
    area = Frame(x.at(steps[0]), 8, x.span(steps[-1] + 1 - steps[0]), 18)
    return box(area, "bracket", text, text)


def _fullest(program: Program, plan: Plan, target: TargetSpec, region: str, frame: Frame) -> Box:
    """The column of the fullest step; no column when all that is there is there always."""
    peak = peak_of(plan, program, target, region)
    role = next((op.role for op in program.ops if op.id == peak.op), None)
    x = frame.x_axis(0, len(plan.roles))
    width = x.span(1) if role else 0.0
    left = x.at(plan.roles.index(role)) if role else frame.left
    title = f"{role}: the fullest step" if role else ""
    return box(Frame(left, frame.top, width, frame.height), "fullest", title)


def blob_strips(program: Program, plan: Plan) -> list[BlobStrip]:
    """A strip for every region with read-only data."""
    return [_blob_strip(program, plan, region) for region in plan.regions if region.blob_size]


def _blob_strip(program: Program, plan: Plan, region: RegionPlan) -> BlobStrip:
    axis = STRIP.x_axis(region.blob_base, region.blob_base + region.blob_size)
    places = _blob_places(program, plan, region.name)
    weights = any(program.tensors[place.name].kind is Kind.WEIGHT for place in places)
    top = 0 if weights else BLOCKS.bottom - 4
    header = plan.blob_headers.get(region.name, 0)
    area = Frame(axis.at(region.blob_base), STRIP.top, axis.span(header), STRIP.height)
    title = f"header: {count(header)} bytes at {region.name} + {count(region.blob_base)}"
    return BlobStrip(
        region=region.name,
        summary=(
            f"blob of {count(region.blob_size)} bytes from offset {count(region.blob_base)}, "
            f"{len(places)} tensors"
        ),
        view=f"0 {decimal(top)} {WIDTH} {decimal(STRIP_HEIGHT - top)}",
        zoom=zoom_range(axis),
        boxes=[
            *(_block_boxes(places, axis) if weights else []),
            box(area, "headers", title, "header"),
            *(_strip_box(program, plan, place, axis) for place in places),
        ],
        ticks=axis_ticks(axis, 8, BINARY),
    )


def _block_boxes(places: Sequence[Placement], axis: Axis) -> Iterator[Box]:
    """Where the tensors of each block are, from the prefix of their names."""
    for block, group in groupby(places, key=lambda place: _block(place.name)):
        own = list(group)
        start, end = own[0].offset, own[-1].offset + own[-1].size
        if not block:
            continue
        area = Frame(axis.at(start), BLOCKS.top, axis.span(end - start), BLOCKS.height)
        title = f"block {block}: {count(end - start)} bytes, {len(own)} tensors"
        roomy = text_width(f"block {block}", FONT) + MARGIN <= area.width
        yield box(area, "bracket", title, f"block {block}" if roomy else block)


def _block(name: str) -> str:
    layer = layer_of(name)
    return "" if layer < 0 else str(layer)


def _blob_places(program: Program, plan: Plan, region: str) -> list[Placement]:
    fixed = (Kind.WEIGHT, Kind.CONST)
    places = (
        place
        for place in plan.placements.values()
        if place.region == region
        and place.name in program.tensors
        and program.tensors[place.name].kind in fixed
    )
    return sorted(places, key=lambda place: place.offset)


def _strip_box(program: Program, plan: Plan, place: Placement, axis: Axis) -> Box:
    area = Frame(axis.at(place.offset), STRIP.top, axis.span(place.size), STRIP.height)
    css = _kind(program, place.name)
    return box(area, css, _title(plan, place, css), place.name.removesuffix(".weight"))


def _kind(program: Program, name: str) -> str:
    spec = program.tensors.get(name)
    if spec is not None and spec.kind is Kind.WEIGHT:
        return "weights"
    return "constants" if spec is not None and spec.kind is Kind.CONST else category(program, name)


def map_categories(maps: Iterable[ArenaMap], strips: Iterable[BlobStrip]) -> list[str]:
    """What the colours of the maps mean, in the order of the report's rows."""
    boxes = [each for figure in maps for each in figure.boxes]
    boxes += [each for figure in strips for each in figure.boxes]
    used = {each.css for each in boxes}
    return [name for name in CATEGORIES if name in used]


def buffer_rows(program: Program, plan: Plan) -> list[BufferRow]:
    """Every buffer and tensor of the plan, by region and address."""
    order = {region.name: index for index, region in enumerate(plan.regions)}
    return [
        BufferRow(
            place.name,
            _kind(program, place.name),
            place.region,
            count(place.offset),
            count(place.size),
            _life(plan, place),
        )
        for place in _by_address(plan.placements.values(), order)
    ]


def _by_address(places: Iterable[Placement], order: dict[str, int]) -> Sequence[Placement]:
    return sorted(places, key=lambda p: (order[p.region], p.offset, p.first, p.name))
