"""trace.json: valid, ordered, and the same cycles as the latency report."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from codegen.bundle import LoadedBundle
from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits
from memory_planner.target import Pin
from tests.bundles import compile_tiny

Json = dict[str, Any]
NAMES = {"process_name": "name", "thread_name": "name", "thread_sort_index": "sort_index"}
LANES = ("ops", "cores", "dma")


@pytest.fixture(scope="module")
def trace(tiny_bundle: LoadedBundle) -> Json:
    loaded: Json = json.loads((tiny_bundle.directory / "report" / "trace.json").read_bytes())
    return loaded


@pytest.fixture(scope="module")
def latency(tiny_bundle: LoadedBundle) -> Json:
    loaded: Json = json.loads((tiny_bundle.directory / "report" / "latency.json").read_bytes())
    return loaded


def complete(trace: Json) -> list[Json]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def lane(trace: Json, name: str) -> list[Json]:
    thread = next(
        event["tid"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name" and event["args"]["name"] == name
    )
    return [event for event in complete(trace) if event["tid"] == thread]


def test_every_event_has_what_the_format_demands(trace: Json) -> None:
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    for event in complete(trace):
        assert event.keys() == {"ph", "pid", "tid", "name", "cat", "ts", "dur", "args"}
        assert event["ts"] >= 0 and event["dur"] >= 0  # noqa: PT018 - one statement: a time
        assert event["name"] and event["cat"]  # noqa: PT018


def test_events_are_in_order_of_time(trace: Json) -> None:
    starts = [event["ts"] for event in complete(trace)]
    assert starts == sorted(starts)


@pytest.mark.parametrize("name", LANES)
def test_events_of_a_lane_do_not_overlap(trace: Json, name: str) -> None:
    """In cycles and, rounded to nanoseconds, in time: a viewer would nest them otherwise."""
    for one, two in pairwise(lane(trace, name)):
        assert one["args"]["start_cycle"] + one["args"]["cycles"] <= two["args"]["start_cycle"]
        assert round(1000 * (one["ts"] + one["dur"])) <= round(1000 * two["ts"])


def test_time_is_cycles_at_the_clock(trace: Json, latency: Json) -> None:
    for event in complete(trace):
        microseconds = event["args"]["start_cycle"] / latency["clock_hz"] * 1e6
        assert event["ts"] == pytest.approx(microseconds, abs=0.0006)
        microseconds = event["args"]["cycles"] / latency["clock_hz"] * 1e6
        assert event["dur"] == pytest.approx(microseconds, abs=0.0011)


def test_ops_are_those_of_the_report(trace: Json, latency: Json) -> None:
    ops = lane(trace, "ops")
    assert [event["name"] for event in ops] == [op["id"] for op in latency["ops"]]
    assert [event["args"]["cycles"] for event in ops] == [
        op["total_cycles"] for op in latency["ops"]
    ]
    assert trace["otherData"]["cycles_per_token"] == latency["cycles_per_token"]


@pytest.mark.parametrize("name", ["cores", "dma"])
def test_lanes_are_as_busy_as_the_report_says(trace: Json, latency: Json, name: str) -> None:
    events = lane(trace, name)
    busy = sum(event["args"]["cycles"] for event in events)
    assert busy == pytest.approx(latency["lanes"][name], abs=len(events) + len(latency["ops"]))


@pytest.fixture(scope="module", params=["engine", "off chip"])
def full_trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """One with jobs of the engine, one with streams and waits."""
    directory = tmp_path_factory.mktemp("trace")
    if request.param == "engine":
        bundle = compile_tiny(directory, engine=EngineChoice.NEUREKA)
    else:
        outside = MemoryLimits({}, (Pin("*.weight", "hyperram"),))
        bundle = compile_tiny(directory, limits=outside)
    loaded: Json = json.loads((bundle.directory / "report" / "trace.json").read_bytes())
    lanes = {event["cat"] for event in complete(loaded)} & {"engine", "off_chip", "wait"}
    assert lanes == ({"engine"} if request.param == "engine" else {"off_chip", "wait"})
    return loaded


def test_the_rules_of_the_trace_event_format(full_trace: Json) -> None:
    """JSON object format: metadata names every lane, complete events are whole nanoseconds."""
    assert full_trace["displayTimeUnit"] in ("ms", "ns")
    events = full_trace["traceEvents"]
    metadata = [event for event in events if event["ph"] == "M"]
    for event in metadata:
        assert set(event["args"]) == {NAMES[event["name"]]}
    named = {(e["pid"], e["tid"]) for e in metadata if e["name"] == "thread_name"}
    assert {event["pid"] for event in metadata if event["name"] == "process_name"} == {1}
    for event in complete(full_trace):
        assert (event["pid"], event["tid"]) in named
        for time in (event["ts"], event["dur"]):
            assert type(time) in (int, float)
            assert time >= 0
            assert 1000 * time == pytest.approx(round(1000 * time), abs=1e-6)


def test_no_lane_overlaps(full_trace: Json) -> None:
    """A viewer nests events of a thread that overlap: here none do."""
    threads = {event["tid"] for event in complete(full_trace)}
    for thread in threads:
        own = [event for event in complete(full_trace) if event["tid"] == thread]
        for one, two in pairwise(own):
            assert round(1000 * (one["ts"] + one["dur"])) <= round(1000 * two["ts"])
