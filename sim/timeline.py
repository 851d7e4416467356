"""Events of one decode step on the lanes of the target: what runs when, by the cycle model.

A tiled op is a pipeline over two slots: a transfer starts when the link is free and the work on
the tile that held its slot is done; work starts when the work before it is done and its tile has
arrived. Ops follow each other without overlap, as the generated code runs them, so that an op
starts where the totals of the latency report say. Cycles are whole: every edge is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from memory_planner.engine_schedule import LinearTimes, Span
from memory_planner.plan import Plan
from memory_planner.target import Reading, TargetSpec
from sim.op_cycles import OpCycles
from sim.step import decode_step
from sim.streams import StreamCycles
from toolchain.model.program import Op, Program

SLOTS = 2  # of a tile buffer


class Lane(StrEnum):
    """What is busy."""

    ENGINE = "engine"
    CORES = "cores"
    DMA = "dma"
    OFF_CHIP = "off_chip"  # the bus of off-chip memory
    WAIT = "wait"  # the cores: for off-chip weights


@dataclass(frozen=True, slots=True)
class Event:
    """`lane` is busy for `op` during the cycles [start, end) of the step."""

    lane: Lane
    op: str  # id
    tile: int  # number of the tile within the op; -1 for work that belongs to no tile
    start: int
    end: int
    label: str

    @property
    def cycles(self) -> int:
        """Duration."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class TileTimes:
    """When one tile travels and when it is worked on, in cycles from the start of the op."""

    arrives_from: float
    arrives_to: float
    works_from: float
    works_to: float


def tile_times(
    transfers: Sequence[float], work: Sequence[float], slots: int = SLOTS
) -> list[TileTimes]:
    """Schedule of a pipeline over `slots` buffers, from the cycles of each tile."""
    times: list[TileTimes] = []
    for index, (travel, effort) in enumerate(zip(transfers, work, strict=True)):
        link_free = times[-1].arrives_to if times else 0.0
        cores_free = times[-1].works_to if times else 0.0
        slot_free = times[index - slots].works_to if index >= slots else 0.0
        departs = max(link_free, slot_free)
        begins = max(cores_free, departs + travel)
        times.append(TileTimes(departs, departs + travel, begins, begins + effort))
    return times


def decode_timeline(
    program: Program,
    plan: Plan,
    target: TargetSpec,
    position: int,
    reading: Reading = Reading.SIMULATOR,
) -> tuple[Event, ...]:
    """Events of the token at `position`, by op, then by start; the last one ends the step.

    Streams are with the op that waits for them, and begin when they are on the bus.
    """
    step = decode_step(program, plan, target, position, reading)
    waits = step.streams
    events: list[Event] = []
    start = engine_free = 0
    for op, each in zip(program.ops, step.cycles, strict=True):
        own = [_stream_event(stream) for stream in waits.streams if stream.op == op.id]
        before = waits.before.get(op.id, (0,))
        own += _op_events(plan, op, each, (start, before))
        own = [_not_before(engine_free, event) for event in own]
        engine_free = max([engine_free, *(e.end for e in own if e.lane is Lane.ENGINE)])
        start += sum(before) + round(each.total)
        if op is program.ops[-1] and waits.behind:
            own.append(_wait_event(op, start, waits.behind))
            start += waits.behind
        events += sorted(own, key=lambda event: (event.start, event.lane))
    return tuple(events)


def _stream_event(stream: StreamCycles) -> Event:
    label = f"stream {stream.index}: {stream.size:,} bytes of weights"
    return Event(Lane.OFF_CHIP, stream.op, stream.index, stream.start, stream.end, label)


def _wait_event(op: Op, start: int, cycles: int) -> Event:
    label = "waits for off-chip weights"
    return Event(Lane.WAIT, op.id, -1, start, start + cycles, label)


def _op_events(
    plan: Plan, op: Op, cycles: OpCycles, when: tuple[int, tuple[int, ...]]
) -> Iterator[Event]:
    """`when`: cycle in which the op begins, and what it waits before each of its parts."""
    start, waits = when
    if cycles.times:
        if waits[0]:
            yield _wait_event(op, start, waits[0])
        yield from _engine_events(op, cycles, cycles.times, start + waits[0])
        return
    end = start + sum(waits) + round(cycles.total)
    count, first, begin = len(cycles.transfers), 0, float(start)
    for wait, (tiles, length) in zip(waits, cycles.parts or ((count, 0.0),), strict=True):
        if wait:
            yield _wait_event(op, round(begin), wait)
        begin += wait
        part = slice(first, first + tiles)
        times = tile_times(cycles.transfers[part], cycles.work[part], cycles.slots)
        for index, tile in enumerate(times, start=first):
            lane = Lane.OFF_CHIP if cycles.off_chip else Lane.DMA
            span = (round(begin + tile.arrives_from), round(begin + tile.arrives_to))
            yield Event(lane, op.id, index, *span, _transfer_label(plan, op, index, count))
            span = (round(begin + tile.works_from), round(begin + tile.works_to))
            yield Event(Lane.CORES, op.id, index, *span, f"tile {index + 1} of {count}")
        first += tiles
        begin += length or (times[-1].works_to if times else 0.0)
    label = "operands outside the tiles, barrier" if count else op.kind.value
    yield Event(Lane.CORES, op.id, -1, min(round(begin), end), end, label)


def _not_before(engine_free: int, event: Event) -> Event:
    """Jobs of two ops touch: edges that were rounded apart do not overlap."""
    if event.lane is not Lane.ENGINE:
        return event
    return replace(event, start=max(event.start, engine_free))


def _engine_events(op: Op, cycles: OpCycles, times: LinearTimes, start: int) -> Iterator[Event]:
    """A linear on the engine; its jobs may have been issued while the op before it ran."""
    offset = start - times.span.start

    def event(lane: Lane, tile: int, span: Span, label: str) -> Event:
        return Event(lane, op.id, tile, round(offset + span.start), round(offset + span.end), label)

    for index, job in enumerate(times.jobs):
        yield event(Lane.ENGINE, index, job.span, job.label)
    for index, table in enumerate(times.tables):
        label = f"table of requantization, part {index + 1} of {len(times.tables)}"
        yield event(Lane.DMA, index, table, label)
    for phase in times.phases:
        yield event(Lane.CORES, -1, phase.span, phase.label)
    end, last = start + round(cycles.total), round(offset + times.span.end)
    if end > last:
        yield Event(Lane.CORES, op.id, -1, last, end, "operands outside the fast memory")


def _transfer_label(plan: Plan, op: Op, index: int, count: int) -> str:
    label = f"tile {index + 1} of {count}"
    how = plan.linears.get(op.id)
    if how is None:
        return label
    tile = how.transfers[index]
    records = "1 record" if tile.records == 1 else f"{tile.records} records"
    return f"{label}: {records}, {tile.size:,} bytes into slot {tile.slot}"
