"""Cycles of a prompt: the ops of the blocks for every token, the head for the last one.

The same formulas as for one token (sim/step.py); off-chip weights travel for every token, those
of the head once. Long prompts are sampled: between evenly spread positions the cycles of a token
grow linearly but for rounding and the last, partial chunk of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from memory_planner.stream_slots import stream_points
from sim.cycle_model import OpCycles
from sim.prefill import parts_of
from sim.step import Step
from sim.streams import Bus, stream_pieces
from toolchain.model.program import Op

EXACT = 64  # tokens in front of the last one of which each is counted
SAMPLES = 16  # of longer prompts


def prefill_cycles(step: Step, tokens: int) -> int:
    """Cycles of the first `tokens` tokens of a context as one prompt; `step` is one of them.

    Of more than `EXACT` tokens in front of the last, `SAMPLES` are counted and the others
    interpolated.
    """
    parts = parts_of(step.context.program)
    before, last = tokens - 1, len(parts.every)

    def at(position: int) -> int:
        return _blocks(step, parts.every, step.cycles_at(position)[:last])

    if before <= EXACT:
        cycles = sum(map(at, range(before)))
    else:
        places = [(before - 1) * index // (SAMPLES - 1) for index in range(SAMPLES)]
        samples = [(place, at(place)) for place in places]
        cycles = samples[-1][1]
        for (begin, low), (end, high) in pairwise(samples):  # `begin` counted, `end` not
            length = end - begin
            cycles += length * low + (high - low) * (length - 1) // 2
    return cycles + step.at(before).total


def _blocks(step: Step, ops: Sequence[Op], cycles: Sequence[OpCycles]) -> int:
    """One token without a head, from the first stream being there to its being there again."""
    plan, target = step.context.plan, step.context.target
    streams = plan.streams
    if streams is None or streams.head == 0:
        return sum(round(each.total) for each in cycles)
    bus, points = Bus(plan, target), stream_points(step.context.program, streams)
    now = 0
    for op, index, length in stream_pieces(ops, points, cycles):
        if index is not None:
            now += bus.wait(index, op, now)
            following = index + 1 if index + 1 < streams.head else 0
            if (index ^ following) & 1:
                bus.issue(following, now)
        now += length
    if streams.head % 2:
        bus.issue(0, now)
    return now + bus.wait(streams.count, ops[-1], now)
