"""When off-chip weights travel in one decode step, and how long the cores wait for them.

The cores run op by op; where an op needs a stream they wait for it, and then the next one is
issued. The bus carries one stream at a time. The first stream of a step is there when the step
begins, because the step before, which waits for it at its end, has brought it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memory_planner.plan import Plan
from memory_planner.stream_slots import stream_points
from memory_planner.target import Link, TargetSpec
from memory_planner.tile_time import pieces_cycles
from sim.op_cycles import OpCycles
from toolchain.model.program import Op, Program


@dataclass(frozen=True, slots=True)
class StreamCycles:
    """One stream, in cycles of the step: it travels from `start` to `end`; the cores want it at
    `needed` and wait for `exposed` cycles.
    """

    index: int
    op: str  # that waits for it
    size: int  # bytes
    start: int
    end: int
    needed: int
    exposed: int

    @property
    def travel(self) -> int:
        """Cycles on the bus."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Waits:
    """The streams of a step in order, and what each op waits: before each of its parts (one but
    for a head in several streams), and behind it for the first stream of the next step.
    """

    streams: tuple[StreamCycles, ...]
    before: Mapping[str, tuple[int, ...]]
    behind: int  # of the last op

    def of(self, op: str) -> int:
        """Cycles that an op waits before and between its parts."""
        return sum(self.before.get(op, ()))


def stream_link(plan: Plan, target: TargetSpec) -> Link | None:
    """The link of the streams, if there are any."""
    if plan.streams is None:
        return None
    return target.link_between(plan.streams.region, plan.placements[plan.streams.buffer].region)


def stream_waits(
    program: Program, plan: Plan, target: TargetSpec, cycles: Sequence[OpCycles]
) -> Waits:
    """The streams of a step whose ops take `cycles`, in order."""
    if plan.streams is None or plan.streams.count == 0:
        return Waits((), {}, 0)
    bus = Bus(plan, target)
    before: dict[str, list[int]] = {}
    points = stream_points(program, plan.streams)
    now = 0
    for op, index, length in stream_pieces(program.ops, points, cycles):
        if index is not None:
            waited = bus.wait(index, op, now)
            before.setdefault(op.id, []).append(waited)
            now += waited
            bus.issue((index + 1) % plan.streams.count, now)
        now += length
    behind = bus.wait(plan.streams.count, program.ops[-1], now)
    waits = {name: tuple(each) for name, each in before.items()}
    return Waits(tuple(bus.streams), waits, behind)


def stream_pieces(
    ops: Sequence[Op], points: Mapping[str, int], cycles: Sequence[OpCycles]
) -> Iterator[tuple[Op, int | None, int]]:
    """(op, stream that it waits for, cycles until the next wait) in order."""
    for op, each in zip(ops, cycles, strict=True):
        index, left = points.get(op.id), round(each.total)
        if index is not None and each.parts:
            for number, (_, length) in enumerate(each.parts):
                yield op, index + number, round(length)
                left -= round(length)
            index = None
        yield op, index, left


class Bus:
    """What is on its way from off-chip memory; stream 0 of the next step has the index `count`."""

    def __init__(self, plan: Plan, target: TargetSpec) -> None:
        link = stream_link(plan, target)
        assert plan.streams is not None
        assert link is not None
        self.plan, self.link = plan.streams, link
        self.free = 0
        self.travelling: dict[int, tuple[int, int]] = {}
        self.streams: list[StreamCycles] = []

    def issue(self, index: int, now: int) -> None:
        """Have a stream follow those that travel already."""
        stream = self.plan.stream(index)
        if stream:
            start = max(now, self.free)
            cycles = pieces_cycles(self.link, stream.size, self.plan.max_transfer)
            self.free = start + round(cycles)
            self.travelling[index or self.plan.count] = start, self.free

    def wait(self, index: int, op: Op, now: int) -> int:
        """Cycles until the stream has arrived."""
        if index not in self.travelling:
            return 0
        start, end = self.travelling.pop(index)
        stream = self.plan.stream(index % self.plan.count)
        assert stream is not None
        exposed = max(0, end - now)
        self.streams.append(
            StreamCycles(stream.index, op.id, stream.size, start, end, now, exposed)
        )
        return exposed
