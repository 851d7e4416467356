"""Cycles of a prompt: batches of tokens through the blocks, the head for the last token alone.

The same formulas as for one token (sim/step.py). Within a batch an op right behind its like of
another token saves fetches of code, tiles of a core linear travel once, and so do the off-chip
weights of the blocks. Jobs of the engine that serve all tokens of a batch save what their chains
take less than those of single tokens. Long prompts are sampled: between evenly spread positions the
cycles of a token grow linearly but for rounding and the last, partial chunk of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from memory_planner.prefill import warm_saving
from memory_planner.prefill_jobs import saved_by_jobs
from memory_planner.stream_slots import stream_points
from memory_planner.tile_time import Run, sequence_cycles
from sim.op_cycles import OpCycles
from sim.prefill import parts_of, prompt_order
from sim.step import Step
from sim.streams import Bus, stream_pieces
from toolchain.model.program import Op

Piece = tuple[Op, int | None, int]  # op, stream that it waits for, cycles


EXACT = 64  # tokens in front of the last batch of which each is counted
SAMPLES = 32  # tokens of longer prompts, at least


def prefill_cycles(step: Step, tokens: int) -> int:
    """Cycles of the first `tokens` tokens of a context as one prompt; `step` is one of them.

    Of more than `EXACT` tokens in front of the last batch, batches of `SAMPLES` tokens are counted,
    four at least, and the others interpolated.
    """
    plan = step.context.plan
    size = plan.prefill.batch if plan.prefill else 1
    before = (tokens - 1) // size  # batches without a head, all of them full
    samples = max(4, SAMPLES // size)

    def at(batch: int) -> int:
        return _batch(step, range(batch * size, (batch + 1) * size), is_last=False)

    last = _batch(step, range(before * size, tokens), is_last=True)
    if before * size <= EXACT or before <= samples:
        return sum(map(at, range(before))) + last
    places = [(before - 1) * index // (samples - 1) for index in range(samples)]
    counted = [(place, at(place)) for place in places]
    cycles = counted[-1][1] + last
    for (begin, low), (end, high) in pairwise(counted):  # `begin` counted, `end` not
        length = end - begin
        cycles += length * low + (high - low) * (length - 1) // 2
    return cycles


def _batch(step: Step, positions: range, *, is_last: bool) -> int:
    """Cycles of tokens that go through the blocks together; behind the last one comes the head."""
    plan, program = step.context.plan, step.context.program
    by_token = [step.cycles_at(position) for position in positions]
    pieces = list(_blocks(step, by_token))
    if is_last:
        behind, points = parts_of(program).behind, stream_points(program, plan.streams)
        pieces += stream_pieces(behind, points, by_token[-1][-len(behind) :])
    return _with_streams(step, pieces, is_last=is_last)


def _blocks(step: Step, by_token: Sequence[Sequence[OpCycles]]) -> Iterator[Piece]:
    """The ops of a batch up to the end of the blocks; `by_token` has the cycles of each token."""
    program, plan, target = step.context.program, step.context.plan, step.context.target
    index = {op.id: number for number, op in enumerate(program.ops)}
    points = stream_points(program, plan.streams)
    costs = target.costs.batch if plan.prefill else None
    jobs = plan.prefill.chains if plan.prefill else ()
    chains = {chain.linears[0].op: chain for chain in jobs}
    for places, schedule in prompt_order(program, plan, len(by_token)):
        first = places[0]
        for op in schedule:
            point = points.get(op.id) if first == 0 else None
            each = by_token[first][index[op.id]]
            cycles = each.total
            if jobs and len(places) > 1:
                cycles = sum(one[index[op.id]].total for one in by_token)
            elif len(places) > 1:
                cycles = _batched_linear(step, op, each, len(places))
            elif first and costs and len(schedule) == 1 and not jobs:
                cycles -= warm_saving(target, op)
            if costs and op is schedule[0]:
                cycles += costs.select_token * (len(places) if jobs else 1)
            if op.id in chains:
                cycles -= saved_by_jobs(program, target, plan, [chains[op.id]], len(by_token))
            yield op, point, round(cycles)


def _batched_linear(step: Step, op: Op, one: OpCycles, count: int) -> float:
    """A linear of the cores for `count` vectors, of which each tile serves all."""
    costs = step.context.target.costs
    pairs = zip(one.transfers, one.work, strict=True)
    runs = [Run(1, travel, work) for travel, work in pairs]
    scaled = [
        Run(1, run.transfer, count * (run.work - costs.barrier) + costs.barrier) for run in runs
    ]
    tiled = sequence_cycles(runs, one.slots, costs.barrier)
    outside = one.total - tiled - costs.op_end(op.kind.value)  # operands in slower memory
    together = sequence_cycles(scaled, one.slots, costs.barrier)
    return together + count * outside + costs.op_end(op.kind.value)


def _with_streams(step: Step, pieces: Sequence[Piece], *, is_last: bool) -> int:
    """Cycles from the first stream being there to its being there again."""
    plan, target = step.context.plan, step.context.target
    streams = plan.streams
    if streams is None or streams.count == 0 or (streams.head == 0 and not is_last):
        return sum(length for _, _, length in pieces)
    bus, now = Bus(plan, target), 0
    end = streams.count if is_last else streams.head
    for op, index, length in pieces:
        if index is not None:
            now += bus.wait(index, op, now)
            following = index + 1 if index + 1 < end else 0
            if (index ^ following) & 1:
                bus.issue(following, now)
        now += length
    if not is_last and streams.head % 2:
        bus.issue(0, now)
    return now + bus.wait(streams.count, pieces[-1][0], now)
