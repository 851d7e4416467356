"""Which region holds each read-only tensor and each state tensor: first fit in program order.

A tensor is never split. When no allowed region has room left, the tensor goes to the last one,
which then exceeds its capacity: the caller finds and reports every such region at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_planner.footprint import blob_header_size
from memory_planner.target import MemoryRegion, TargetSpec, align_up
from toolchain.model.program import Kind, Program, TensorSpec


@dataclass(frozen=True, slots=True)
class Blob:
    """The read-only part of one region. Offsets count from the region's base."""

    region: str
    base: int
    header: int
    offsets: Mapping[str, int]  # in blob order
    size: int  # header and tensors, padded to the alignment; 0 without tensors


def place_blobs(program: Program, target: TargetSpec) -> dict[str, Blob]:
    """The blob of every region: weights first, then constants, each in order of first use."""
    contents: dict[str, list[TensorSpec]] = {region.name: [] for region in target.regions}
    payload = dict.fromkeys(contents, 0)
    for kind, group in ((Kind.WEIGHT, "weights"), (Kind.CONST, "constants")):
        for spec in _in_order_of_use(program, kind):
            free = {}
            for name in target.placement[group]:
                region = target.region(name)
                header = _header_size(region, len(contents[name]) + 1)
                need = header + payload[name] + align_up(spec.size, region.align)
                free[name] = region.size - region.reserved - need
            chosen = _first_with_room(free)
            contents[chosen].append(spec)
            payload[chosen] += align_up(spec.size, target.region(chosen).align)
    return {region.name: _blob(region, contents[region.name]) for region in target.regions}


def place_states(
    program: Program, target: TargetSpec, blobs: Mapping[str, Blob]
) -> dict[str, list[TensorSpec]]:
    """State tensors by region, in what the blobs leave."""
    placed: dict[str, list[TensorSpec]] = {region.name: [] for region in target.regions}
    for spec in _in_order_of_use(program, Kind.STATE):
        free = {}
        for name in target.placement["state"]:
            region = target.region(name)
            arena = sum(align_up(s.size, region.align) for s in [*placed[name], spec])
            free[name] = region.size - region.reserved - blobs[name].size - arena
        placed[_first_with_room(free)].append(spec)
    return placed


def _in_order_of_use(program: Program, kind: Kind) -> list[TensorSpec]:
    used = [name for op in program.ops for name in (*op.inputs, *op.outputs)]
    names = dict.fromkeys([*used, *program.tensors])
    return [program.tensors[name] for name in names if program.tensors[name].kind is kind]


def _first_with_room(free: Mapping[str, int]) -> str:
    """The first region whose free bytes stay at or above 0, else the last."""
    return next((name for name, left in free.items() if left >= 0), list(free)[-1])


def _header_size(region: MemoryRegion, tensors: int) -> int:
    return align_up(blob_header_size(tensors), region.align)


def _blob(region: MemoryRegion, specs: Sequence[TensorSpec]) -> Blob:
    if not specs:
        return Blob(region.name, region.reserved, 0, {}, 0)
    header = _header_size(region, len(specs))
    offsets = {}
    end = region.reserved + header
    for spec in specs:
        offsets[spec.name] = end
        end += align_up(spec.size, region.align)
    return Blob(region.name, region.reserved, header, offsets, end - region.reserved)
