"""The streams of a step: what each moves from off-chip memory into the slots of a placement."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from memory_planner.footprint import STREAM_BUFFER
from memory_planner.off_chip import Outside
from memory_planner.plan import Stream, StreamPlan
from memory_planner.stream_slots import head_of, head_sizes, records_of
from memory_planner.target import TargetSpec
from memory_planner.tile_sizes import best_within
from toolchain.model.program import Program


def streams_of(program: Program, target: TargetSpec, outside: Outside) -> StreamPlan:
    """The streams of a step out of the off-chip blob; at least the slots for an embedding."""
    assert target.off_chip is not None
    offsets = outside.blobs[target.off_chip.region].offsets
    spans = _block_spans(program, outside, offsets)
    begun = [op.layer for op in program.ops if op.layer >= 0 and op.role in outside.cuts]
    used = len(begun)
    first_of_head, part_records = used, 0
    head = head_of(program, offsets.keys())
    if head:
        records, record_size = records_of(program, head)
        base = offsets[program.weight_of(head).name]
        sizes = head_sizes(program, target, head, outside.staging)
        part_records = best_within(sizes, 2 * outside.slot_size).records
        for first in range(0, records, part_records):
            last = min(first + part_records, records)
            spans[used] = base + first * record_size, base + last * record_size
            used += 1
    link = target.link_between(target.off_chip.region, outside.staging)
    return StreamPlan(
        region=target.off_chip.region,
        buffer=STREAM_BUFFER,
        slot_size=outside.slot_size,
        max_transfer=link.max_transfer,
        cuts=outside.cuts,
        head=first_of_head,
        part_records=part_records,
        count=used + used % 2,
        streams=tuple(Stream(n, begin, end - begin) for n, (begin, end) in sorted(spans.items())),
        begins=_begins(begun, program.shape.layers, len(outside.cuts)),
    )


def _begins(begun: Sequence[int], layers: int, cuts: int) -> tuple[int, ...]:
    """`StreamPlan.begins` when streams begin in these blocks, in order."""
    if len(begun) == layers * cuts:
        return ()
    return tuple(bisect_left(begun, layer) for layer in range(layers))


def _block_spans(
    program: Program, outside: Outside, offsets: Mapping[str, int]
) -> dict[int, tuple[int, int]]:
    """[begin, end) in the off-chip region of each stream of a block that moves anything."""
    spans: dict[int, tuple[int, int]] = {}
    index = -1
    for op in program.ops:
        if op.layer < 0:
            continue
        index += op.role in outside.cuts
        for name in op.inputs:
            if name in offsets:
                begin, end = offsets[name], offsets[name] + program.tensors[name].size
                low, high = spans.get(index, (begin, end))
                spans[index] = min(low, begin), max(high, end)
    return spans
