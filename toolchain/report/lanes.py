"""The decode step as lanes over cycles: the whole token op by op, and one block tile by tile.

In the overview a bar is as high as the share of its op during which the lane is busy, so that two
full lanes mean overlap. In the detail every tile is drawn where it travels and where it is worked
on; neighbouring tiles share a bar when there are too many to be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from sim.latency import LatencyReport, OpLatency
from sim.timeline import Event, Lane
from toolchain.model.program import Op, Program
from toolchain.model.silent_parts import first_whole
from toolchain.report.figure import WIDTH, Box, Frame, Tick, axis_ticks, box, zoom_range
from toolchain.report.scale import Axis, count, decimal

LEFT, RIGHT, TOP = 56, 4, 18
NAMES, BARS, GAP, WAIT = 20, 34, 6, 8  # heights: lane of names, others, between, of a wait
LANES = {  # waits: cores
    Lane.ENGINE: "engine",
    Lane.CORES: "cores",
    Lane.DMA: "DMA",
    Lane.OFF_CHIP: "off chip",
}
OPTIONAL = (Lane.ENGINE, Lane.OFF_CHIP)  # drawn where something happens on them
MAX_BARS = 250  # of one lane in the detail


@dataclass(frozen=True, slots=True)
class LanePlace:
    """A lane of a figure, and the y of its upper edge."""

    name: str
    top: float


Lanes = Mapping[Lane, LanePlace]


@dataclass(frozen=True, slots=True)
class LaneFigure:
    """Lanes over cycles."""

    frame: dict[str, str]
    height: str
    zoom: str
    boxes: list[Box]
    labels: list[Tick]  # lane names with the y of their middle
    ticks: list[Tick]
    mark: str  # x of the bandwidth bound; empty without one
    mark_text: str
    mark_anchor: str  # start or end: the side on which there is room


@dataclass(frozen=True, slots=True)
class Detail:
    """One block, tile by tile."""

    figure: LaneFigure
    title: str


def overview(latency: LatencyReport, timeline: Sequence[Event]) -> LaneFigure:
    """Every op of the token, and beside it the streams of blocks if there are any."""
    streams = [event for event in timeline if event.lane is Lane.OFF_CHIP]
    lanes = _lanes(timeline)
    frame = _frame(lanes)
    axis = frame.x_axis(0, latency.cycles_per_token)
    starts = [0, *accumulate(op.total_cycles for op in latency.ops)]
    ops = zip(latency.ops, starts, strict=False)
    boxes = [_op_box(axis, lanes, op, start) for op, start in ops]
    span = (0, latency.cycles_per_token)
    boxes += _stream_boxes(axis, lanes, streams, span)
    boxes += _wait_boxes(axis, lanes, timeline, span)
    return _figure(frame, axis, boxes, lanes, latency.bound_cycles)


def _op_box(axis: Axis, lanes: Lanes, op: OpLatency, start: int) -> Box:
    left, width = axis.at(start), axis.span(op.total_cycles)
    facts = (
        f"{op.id}: {op.kind}, {count(op.total_cycles)} cycles from {count(start)}, "
        f"cores {count(op.compute_cycles)}, DMA {count(op.dma_cycles)}, bound by {op.bound_by}"
    )
    if op.engine_cycles:
        facts += f", {op.engine} {count(op.engine_cycles)}"
    if op.stream_wait:
        facts += f", {count(op.stream_wait)} of them waiting for off-chip weights"
    busy = {
        Lane.ENGINE: op.engine_cycles,
        Lane.CORES: op.compute_cycles,
        Lane.DMA: op.dma_cycles,
    }
    bars = []
    for lane, cycles in busy.items():
        if cycles:
            height = BARS * min(1.0, cycles / op.total_cycles)
            bars.append(Frame(left, lanes[lane].top + BARS - height, width, height))
    return box(Frame(left, TOP, width, NAMES), op.kind, facts, op.id, bars)


def block_detail(program: Program, timeline: Sequence[Event]) -> Detail | None:
    """The first whole block, and what streams meanwhile; None when the program has none."""
    layer = first_whole(program)
    inside = {op.id: op for op in program.ops if op.layer == layer}
    streams = [event for event in timeline if event.lane is Lane.OFF_CHIP]
    events = [e for e in timeline if e.op in inside and e.lane is not Lane.OFF_CHIP]
    if not events:
        return None
    first, last = events[0].start, max(event.end for event in events)
    lanes = _lanes(timeline)
    frame = _frame(lanes)
    axis = frame.x_axis(first, last)
    boxes = list(_name_boxes(axis, events, inside))
    for lane in (Lane.ENGINE, Lane.CORES, Lane.DMA):
        own = [event for event in events if event.lane is lane]
        boxes += _tile_boxes(axis, lanes, own, inside)
    boxes += _stream_boxes(axis, lanes, streams, (first, last))
    boxes += _wait_boxes(axis, lanes, timeline, (first, last))
    title = f"block {layer} of {program.shape.layers}, cycles {count(first)} to {count(last)}"
    return Detail(_figure(frame, axis, boxes, lanes), title)


def _name_boxes(axis: Axis, events: Sequence[Event], ops: dict[str, Op]) -> Iterator[Box]:
    """Names over the time of the op; its jobs may have begun before."""
    steps = [event for event in events if event.lane is not Lane.ENGINE]
    for op_id, group in groupby(steps, key=lambda event: event.op):
        own, op = list(group), ops[op_id]
        start, end = min(e.start for e in own), max(e.end for e in own)
        title = f"{op.role}: {op.kind.value}, {count(end - start)} cycles from {count(start)}"
        area = Frame(axis.at(start), TOP, axis.span(end - start), NAMES)
        yield box(area, op.kind.value, title, op.role)


def _tile_boxes(
    axis: Axis, lanes: Lanes, events: Sequence[Event], ops: dict[str, Op]
) -> Iterator[Box]:
    """Bars of one lane; both slots of a tile buffer take turns, which the shade shows."""
    together = -(-len(events) // MAX_BARS)
    for op_id, group in groupby(events, key=lambda event: event.op):
        own = list(group)
        for index in range(0, len(own), together):
            part = own[index : index + together]
            start, end = part[0].start, part[-1].end
            if end == start:
                continue
            busy = sum(event.cycles for event in part)
            height = BARS * busy / (end - start)
            lane_top = lanes[part[0].lane].top
            area = Frame(axis.at(start), lane_top + BARS - height, axis.span(end - start), height)
            slot = f" slot{part[0].tile % 2}" if part[0].tile >= 0 else ""
            yield box(area, ops[op_id].kind.value + slot, _tile_title(part, busy))


def _tile_title(part: Sequence[Event], busy: int) -> str:
    first, last = part[0], part[-1]
    label = first.label if len(part) == 1 else f"tiles {first.tile + 1} to {last.tile + 1}"
    facts = f"{first.op}, {LANES[first.lane]} {count(busy)} cycles"
    return f"{label}: {facts}, {count(first.start)} to {count(last.end)}"


def _stream_boxes(
    axis: Axis, lanes: Lanes, streams: Sequence[Event], span: tuple[int, int]
) -> Iterator[Box]:
    """What the off-chip bus carries within `span` cycles; neighbours differ in shade."""
    for index, event in enumerate(streams):
        start, end = max(event.start, span[0]), min(event.end, span[1])
        if start >= end:
            continue
        title = (
            f"{event.label}: for {event.op}, off chip {count(event.cycles)} cycles, "
            f"{count(event.start)} to {count(event.end)}"
        )
        area = Frame(axis.at(start), lanes[Lane.OFF_CHIP].top, axis.span(end - start), BARS)
        yield box(area, f"stream slot{index % 2}", title)


def _wait_boxes(
    axis: Axis, lanes: Lanes, events: Sequence[Event], span: tuple[int, int]
) -> Iterator[Box]:
    """A thin bar in the middle of the cores' lane where they wait within `span` cycles."""
    for event in events:
        start, end = max(event.start, span[0]), min(event.end, span[1])
        if event.lane is not Lane.WAIT or start >= end:
            continue
        title = f"{event.op} {event.label}: {count(event.cycles)} cycles from {count(event.start)}"
        middle = lanes[Lane.CORES].top + (BARS - WAIT) / 2
        yield box(Frame(axis.at(start), middle, axis.span(end - start), WAIT), "wait", title)


def _lanes(timeline: Sequence[Event]) -> Lanes:
    """The lanes to draw, from top to bottom."""
    used = {event.lane for event in timeline}
    shown = [lane for lane in LANES if lane in used or lane not in OPTIONAL]
    tops = (TOP + NAMES + GAP + index * (BARS + GAP) for index in range(len(shown)))
    return {lane: LanePlace(LANES[lane], top) for lane, top in zip(shown, tops, strict=True)}


def _frame(lanes: Lanes) -> Frame:
    return Frame(LEFT, TOP, WIDTH - LEFT - RIGHT, NAMES + len(lanes) * (BARS + GAP))


def _figure(
    frame: Frame,
    axis: Axis,
    boxes: list[Box],
    lanes: Lanes,
    mark: int | None = None,
) -> LaneFigure:
    """`mark` is the bandwidth bound in cycles."""
    labels = [Tick(decimal(frame.top + NAMES / 2 + 4), "op")]
    labels += [Tick(decimal(place.top + BARS / 2 + 4), place.name) for place in lanes.values()]
    return LaneFigure(
        frame=frame.text(),
        height=decimal(frame.bottom + 24),
        zoom=zoom_range(axis),
        boxes=boxes,
        labels=labels,
        ticks=axis_ticks(axis, 9),
        mark="" if mark is None else decimal(axis.at(mark)),
        mark_text="" if mark is None else f"bandwidth bound {count(mark)}",
        mark_anchor="start" if mark is None or axis.at(mark) < WIDTH / 2 else "end",
    )
