"""The bound of the stack, on graphs written by hand as gcc writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.firmware.call_graph import (
    Bound,
    CallGraph,
    function_of,
    read_call_graph,
    resolve,
    stack_bound,
)
from toolchain.model.errors import ToolError

GRAPH = """graph: { title: "a.c"
node: { title: "main" label: "main\\na.c:1:1\\n16 bytes (static)" }
node: { title: "a.c:deep.isra.0" label: "deep.isra\\na.c:2:1\\n100 bytes (dynamic,bounded)" }
node: { title: "wide" label: "wide\\na.c:3:1\\n32 bytes (static)" }
node: { title: "memcpy" label: "__builtin_memcpy\\n<built-in>" shape : ellipse }
node: { title: "__indirect_call" label: "Indirect Call Placeholder" shape : ellipse }
edge: { sourcename: "main" targetname: "a.c:deep.isra.0" label: "a.c:5:1" }
edge: { sourcename: "main" targetname: "wide" label: "a.c:6:1" }
edge: { sourcename: "wide" targetname: "__indirect_call" label: "a.c:7:1" }
edge: { sourcename: "wide" targetname: "memcpy" label: "a.c:8:1" }
}
"""


def graph_of(tmp_path: Path, text: str) -> CallGraph:
    file = tmp_path / "a.c.ci"
    file.write_text(text, encoding="utf-8")
    return read_call_graph([file])


def test_heaviest_path(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, GRAPH)
    assert graph.frames == {"main": 16, "a.c:deep.isra.0": 100, "wide": 32}
    resolved = resolve(graph, {"wide": ("deep",)})
    bound = stack_bound(resolved, "main", {"memcpy": 0})
    assert bound == Bound(16 + 32 + 100, ("main", "wide", "a.c:deep.isra.0"))
    assert stack_bound(resolved, "wide", {"memcpy": 200}) == Bound(232, ("wide", "memcpy"))
    assert function_of("a.c:deep.isra.0") == "deep"


def test_what_has_no_bound_is_refused(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, GRAPH)
    with pytest.raises(ToolError, match="wide: found a call through a pointer"):
        resolve(graph, {"other": ("deep",)})
    with pytest.raises(ToolError, match="memcpy: found no frame, called by wide"):
        stack_bound(resolve(graph, {"wide": ("deep",)}), "main", {})
    with pytest.raises(ToolError, match="main -> wide -> main"):
        stack_bound(resolve(graph, {"wide": ("main",)}), "main", {"memcpy": 0})
    with pytest.raises(ToolError, match="a frame of variable size"):
        graph_of(tmp_path, GRAPH.replace("32 bytes (static)", "32 bytes (dynamic)"))
