"""How much code the blocks of a token run: what the instruction cache should hold.

Hot is every function that may be called between the first and the last block, through functions
that are hot themselves, and the loop of the core that feeds the engine beside them. Rare functions
are not: those that the sources mark (EDGEC_RARE) because the values or shapes that need them are
unusual. gcc places them in `.text.unlikely`, and what only they call is rare as well. What a token
sets up in front of its blocks, its embedding and its head run once and are neither.

A hot function counts as a whole, so that the figure is no less than what runs; lines of the cache
count once, however many functions share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.firmware.call_graph import CallGraph, reachable
from toolchain.firmware.elf import Function, Image, read_functions

RARE_SECTION = ".text.unlikely"


@dataclass(frozen=True, slots=True)
class HotCode:
    """Code of the blocks of a token."""

    hot: int  # bytes of the cache's lines that hold hot functions
    rare: int  # bytes of rare functions
    functions: tuple[tuple[str, int], ...]  # hot ones and their bytes, largest first


def rare_functions(objects: Iterable[Path]) -> frozenset[tuple[str, str]]:
    """Source file (empty: global) and name of the functions that objects keep apart."""
    return frozenset(
        key
        for path in objects
        for key, function in read_functions(path).items()
        if function.section.startswith(RARE_SECTION)
    )


def hot_code(
    graph: CallGraph,
    image: Image,
    rare: frozenset[tuple[str, str]],
    entries: Iterable[str],
    line: int,
) -> HotCode:
    """What the functions `entries` run; calls through pointers are resolved in the graph.

    line: bytes of a line of the cache.
    """
    names = list(entries)
    whole = _reached(graph, image, names, frozenset())
    hot = _reached(graph, image, names, rare)
    lines = {
        address // line
        for each in hot.values()
        for address in range(each.address, each.address + each.size)
    }
    sizes = sorted(((key[1], each.size) for key, each in hot.items()), key=lambda item: -item[1])
    left = sum(each.size for key, each in whole.items() if key not in hot)
    return HotCode(line * len(lines), left, tuple(sizes))


def _reached(
    graph: CallGraph, image: Image, entries: Iterable[str], without: frozenset[tuple[str, str]]
) -> Mapping[tuple[str, str], Function]:
    """Functions of the image that entries may reach without calling some."""
    calls = {
        title: frozenset(target for target in targets if key_of(target) not in without)
        for title, targets in graph.calls.items()
    }
    titles = {t for entry in entries for t in reachable(CallGraph(graph.frames, calls), entry)}
    found = {key_of(title) for title in titles} - without
    return {key: image.code[key] for key in sorted(found) if key in image.code}


def key_of(title: str) -> tuple[str, str]:
    """Source file and name of a node of the graph, as the image has them."""
    file, _, name = title.rpartition(":")
    return Path(file).name, name
