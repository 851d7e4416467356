"""The timeline in the Chrome trace format, which Perfetto and other viewers open.

Times are microseconds at the target's clock, to the nanosecond, which is what viewers keep; whole
cycles are in `args`. One line per event, so that two traces can be compared as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sim.latency import LatencyReport
from sim.timeline import Event, Lane

OPS = "ops"
PROCESS = 1
LANES = (Lane.CORES, Lane.DMA, Lane.OFF_CHIP, Lane.WAIT)
THREADS = {OPS: 1, **{lane.value: thread for thread, lane in enumerate(LANES, start=2)}}
Record = dict[str, object]


def trace_json(latency: LatencyReport, timeline: Sequence[Event]) -> bytes:
    """trace.json: a lane of ops, and below it what cores and DMA do; sorted by start."""
    records = _names(latency)
    events = [*_op_records(latency), *(_event_record(latency, event) for event in timeline)]
    records += [record for _, record in sorted(events, key=lambda pair: pair[0])]
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    head = {
        "estimate": True,
        "target": latency.target,
        "position": latency.position,
        "clock_hz": latency.clock_hz,
        "cycles_per_token": latency.cycles_per_token,
    }
    opening = f'{{"displayTimeUnit":"ns","otherData":{json.dumps(head)},"traceEvents":['
    return f"{opening}\n{lines}\n]}}\n".encode()


def _names(latency: LatencyReport) -> list[Record]:
    title = f"{latency.target}: one token at position {latency.position} (estimate)"
    records: list[Record] = [
        {"ph": "M", "pid": PROCESS, "name": "process_name", "args": {"name": title}}
    ]
    for name, thread in THREADS.items():
        common: Record = {"ph": "M", "pid": PROCESS, "tid": thread}
        records.append({**common, "name": "thread_name", "args": {"name": name}})
        records.append({**common, "name": "thread_sort_index", "args": {"sort_index": thread}})
    return records


def _op_records(latency: LatencyReport) -> list[tuple[tuple[int, int], Record]]:
    records = []
    start = 0
    for op in latency.ops:
        args = {
            "kind": op.kind,
            "compute_cycles": op.compute_cycles,
            "dma_cycles": op.dma_cycles,
            "bound_by": op.bound_by,
        }
        end = start + op.total_cycles
        records.append(_complete(latency, OPS, (op.id, op.kind), (start, end), args))
        start = end
    return records


def _event_record(latency: LatencyReport, event: Event) -> tuple[tuple[int, int], Record]:
    names = (f"{event.op}: {event.label}", event.lane.value)
    args: Record = {"op": event.op}
    if event.tile >= 0:
        args["tile"] = event.tile
    return _complete(latency, event.lane.value, names, (event.start, event.end), args)


def _complete(
    latency: LatencyReport,
    lane: str,
    names: tuple[str, str],
    span: tuple[int, int],
    args: Record,
) -> tuple[tuple[int, int], Record]:
    """Sort key and a complete ("X") event."""
    start, end = (round(cycle * 1e9 / latency.clock_hz) for cycle in span)  # ns
    record: Record = {
        "ph": "X",
        "pid": PROCESS,
        "tid": THREADS[lane],
        "name": names[0],
        "cat": names[1],
        "ts": start / 1000,
        "dur": (end - start) / 1000,
        "args": {**args, "start_cycle": span[0], "cycles": span[1] - span[0]},
    }
    return (span[0], THREADS[lane]), record
