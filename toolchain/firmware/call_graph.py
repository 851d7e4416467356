"""Worst-case stack of a program from gcc's own account (-fcallgraph-info=su).

gcc writes one graph per object: functions with the bytes of their frames, and their calls. The
worst case is the heaviest path. Frames of unknown size, recursion, and calls through pointers that
nobody has resolved are refused: there would be no bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from toolchain.model.errors import Problem, ToolError

NODE = re.compile(r'^node: \{ title: "([^"]*)" label: "([^"]*)"( shape : ellipse)? \}$', re.M)
EDGE = re.compile(r'^edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', re.M)
FRAME = re.compile(r"\\n(\d+) bytes \((static|dynamic|dynamic,bounded)\)")
INDIRECT = "__indirect_call"


@dataclass(frozen=True, slots=True)
class CallGraph:
    """Frames in bytes by function, and who calls whom. Static functions are `file:function`."""

    frames: Mapping[str, int]
    calls: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Bound:
    """The heaviest path from an entry."""

    size: int  # bytes
    path: tuple[str, ...]


def read_call_graph(files: Iterable[Path]) -> CallGraph:
    """The graph of all objects; ToolError when a frame has no fixed size."""
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    problems = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        for title, label, outside in NODE.findall(text):
            frame = FRAME.search(label)
            if outside or frame is None:
                continue
            if frame[2] == "dynamic":
                problems.append(Problem(title, "a frame of variable size", "a fixed one"))
            frames[title] = max(frames.get(title, 0), int(frame[1]))
        for source, target in EDGE.findall(text):
            calls.setdefault(source, set()).add(target)
    if problems:
        raise ToolError("the stack has no bound", problems)
    return CallGraph(frames, {name: frozenset(targets) for name, targets in calls.items()})


def function_of(title: str) -> str:
    """Name of the function of a node, without file and without what the optimizer appended."""
    return title.rsplit(":", 1)[-1].split(".", 1)[0]


def resolve(graph: CallGraph, pointers: Mapping[str, tuple[str, ...]]) -> CallGraph:
    """Replace calls through pointers by calls of all functions that they may reach.

    `pointers`: pattern of the file or function that calls -> patterns of functions. ToolError when
    a call matches none.
    """
    calls, problems = dict(graph.calls), []
    for caller, targets in graph.calls.items():
        if INDIRECT not in targets:
            continue
        names = [
            name for key, found in pointers.items() if fnmatchcase(caller, key) for name in found
        ]
        reached = {
            title
            for title in graph.frames
            if any(fnmatchcase(function_of(title), name) for name in names)
        }
        if not names:
            problems.append(Problem(caller, "a call through a pointer", "one that edgec knows"))
        calls[caller] = (targets - {INDIRECT}) | reached
    if problems:
        raise ToolError("the stack has no bound", problems)
    return CallGraph(graph.frames, calls)


def reachable(graph: CallGraph, entry: str) -> frozenset[str]:
    """Titles of the functions that `entry` is and may call, directly or not."""
    found: set[str] = set()
    waiting = [title for title in graph.frames if function_of(title) == entry]
    while waiting:
        title = waiting.pop()
        if title not in found:
            found.add(title)
            waiting += graph.calls.get(title, ())
    return frozenset(found)


def stack_bound(graph: CallGraph, entry: str, leaves: Mapping[str, int]) -> Bound:
    """The heaviest path from `entry`; `leaves`: bytes of functions that gcc did not compile.

    Raises ToolError for recursion and for functions that are in neither.
    """
    known: dict[str, Bound] = {name: Bound(size, (name,)) for name, size in leaves.items()}
    return _bound(graph, entry, known, ())


def _bound(graph: CallGraph, name: str, known: dict[str, Bound], above: tuple[str, ...]) -> Bound:
    if name in above:
        cycle = " -> ".join([*above[above.index(name) :], name])
        raise ToolError("the stack has no bound", [Problem(name, cycle, "no recursion")])
    if name not in known:
        if name not in graph.frames:
            caller = above[-1] if above else "nobody"
            problem = Problem(name, f"no frame, called by {caller}", "one that gcc compiled")
            raise ToolError("the stack has no bound", [problem])
        below = [
            _bound(graph, target, known, (*above, name))
            for target in sorted(graph.calls.get(name, ()))
        ]
        worst = max(below, key=lambda bound: bound.size, default=Bound(0, ()))
        known[name] = Bound(graph.frames[name] + worst.size, (name, *worst.path))
    return known[name]
