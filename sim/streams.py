"""What streaming the weights of blocks from off-chip memory costs one decode step.

The stream of a block runs beside the block before it, that of the first block beside the ops in
front of the blocks. A block begins when its stream has ended; what it waits for is exposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_planner.plan import Plan
from memory_planner.target import Link, TargetSpec
from memory_planner.tile_time import transfer_cycles
from sim.cycle_model import OpCycles
from toolchain.model.program import Op


@dataclass(frozen=True, slots=True)
class StreamCycles:
    """The stream of one block: how long it travels, and how long the cores wait for it."""

    layer: int
    size: int  # bytes
    travel: float
    exposed: float


def stream_link(plan: Plan, target: TargetSpec) -> Link | None:
    """The link of the streams, if there are any."""
    if plan.streams is None:
        return None
    return target.link_between(plan.streams.region, plan.placements[plan.streams.buffer].region)


def travel_cycles(plan: Plan, link: Link, size: int) -> float:
    """Cycles of one stream of `size` bytes, in as many transfers as it takes."""
    most = plan.streams.max_transfer if plan.streams else size
    pieces = [min(most, size - done) for done in range(0, size, most)]
    return sum(transfer_cycles(link, piece) for piece in pieces)


def stream_cycles(
    plan: Plan, target: TargetSpec, busy: Mapping[int, float]
) -> tuple[StreamCycles, ...]:
    """All streams of a step; `busy` are the cycles of each block, -1: those before the blocks."""
    link = stream_link(plan, target)
    if link is None or plan.streams is None:
        return ()
    streams = []
    for block in plan.streams.blocks:
        travel = travel_cycles(plan, link, block.size)
        exposed = max(0.0, travel - busy.get(block.layer - 1, 0.0))
        streams.append(StreamCycles(block.layer, block.size, travel, exposed))
    return tuple(streams)


def busy_cycles(ops: Sequence[Op], cycles: Sequence[OpCycles]) -> dict[int, float]:
    """Cycles of each block, and at -1 of the ops before the blocks.

    The embedding's own transfer is on the link before the first stream, so it hides nothing.
    """
    busy: dict[int, float] = {-1: 0.0}
    for op, each in zip(ops, cycles, strict=True):
        if op.layer >= 0:
            busy[op.layer] = busy.get(op.layer, 0.0) + each.total
        elif len(busy) == 1:
            busy[-1] += each.total - each.dma
    return busy
