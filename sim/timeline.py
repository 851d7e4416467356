"""Events of one decode step on the lanes of the target: what runs when, by the cycle model.

A tiled op is a pipeline over two slots: a transfer starts when the link is free and the work on
the tile that held its slot is done; work starts when the work before it is done and its tile has
arrived. Ops follow each other without overlap, as the generated code runs them, so that an op
starts where the totals of the latency report say. Cycles are whole: every edge is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from sim.cycle_model import Context, OpCycles, op_cycles
from sim.streams import StreamCycles, stream_waits
from toolchain.model.program import Op, Program

SLOTS = 2  # of a tile buffer


class Lane(StrEnum):
    """What is busy."""

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
    program: Program, plan: Plan, target: TargetSpec, position: int
) -> tuple[Event, ...]:
    """Events of the token at `position`, by op, then by start; the last one ends the step.

    Streams are with the op that waits for them, and begin when they are on the bus.
    """
    context = Context(program, plan, target, position)
    cycles = [op_cycles(context, op) for op in program.ops]
    waits = stream_waits(program, plan, target, cycles)
    events: list[Event] = []
    start = 0
    for op, each in zip(program.ops, cycles, strict=True):
        own = [_stream_event(stream) for stream in waits.streams if stream.op == op.id]
        before = waits.before.get(op.id, (0,))
        own += _op_events(plan, op, each, (start, before))
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


def _transfer_label(plan: Plan, op: Op, index: int, count: int) -> str:
    label = f"tile {index + 1} of {count}"
    how = plan.linears.get(op.id)
    if how is None:
        return label
    tile = how.transfers[index]
    records = "1 record" if tile.records == 1 else f"{tile.records} records"
    return f"{label}: {records}, {tile.size:,} bytes into slot {tile.slot}"
