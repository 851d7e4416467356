"""Which region holds each mutable buffer of a step, and at which offset.

Everything begins in the preferred region of activations (L1), state in the region that it was
given. While the preferred region is too small, the largest buffer that is live at its fullest
step and can give way does so: a tile is halved, an activation or scratch moves to the fallback
region. What the user pinned stays. The order depends on sizes and names alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from memory_planner.allocate import Allocation, Buffer, allocate, peak_time
from memory_planner.blobs import Blob
from memory_planner.footprint import (
    MAX_CORES,
    PARTIAL_SIZE,
    PARTIALS,
    SCRATCH_PREFIX,
    TILE_PREFIX,
    scratch_size,
)
from memory_planner.liveness import folded_roles, lifetimes
from memory_planner.target import TargetSpec
from memory_planner.tiling import slot_size, tile_slots
from toolchain.model.program import Kind, OpKind, Program, TensorSpec


@dataclass(frozen=True, slots=True)
class Arenas:
    """Buffers and their allocation by region, and how often the tiles of a role were halved."""

    buffers: Mapping[str, tuple[Buffer, ...]]
    allocations: Mapping[str, Allocation]
    halvings: Mapping[str, int]


def working_buffers(program: Program) -> tuple[Buffer, ...]:
    """Activations, scratch of each role and the partials, in order of name; no tiles."""
    times = {role: index for index, role in enumerate(folded_roles(program))}
    buffers = [
        Buffer(name, program.tensors[name].size, *interval)
        for name, interval in lifetimes(program).items()
    ]
    scratch: dict[str, int] = {}
    for op in program.ops:
        scratch[op.role] = max(scratch.get(op.role, 0), scratch_size(program, op))
    for role, size in scratch.items():
        if size:
            buffers.append(Buffer(SCRATCH_PREFIX + role, size, times[role], times[role] + 1))
    buffers.append(Buffer(PARTIALS, MAX_CORES * PARTIAL_SIZE, 0, len(times)))
    return tuple(sorted(buffers, key=lambda buffer: buffer.name))


def tile_buffers(
    program: Program,
    target: TargetSpec,
    halvings: Mapping[str, int],
    off_chip: Set[str] = frozenset(),
) -> tuple[Buffer, ...]:
    """The slots of each role that moves data, as large as its largest op needs.

    The embedding has one only when it is among the weights `off_chip`.
    """
    sizes: dict[str, int] = {}
    for op in program.ops:
        steps = halvings.get(op.role, 0)
        size = slot_size(program, op, target, steps)
        if op.kind is OpKind.EMBED and op.inputs[0] not in off_chip:
            size = 0
        count = tile_slots(op, program, target, steps) if size else 0
        sizes[op.role] = max(sizes.get(op.role, 0), count * size)
    return tuple(
        Buffer(TILE_PREFIX + role, size, time, time + 1)
        for time, (role, size) in enumerate(sizes.items())
        if size
    )


def plan_arenas(
    program: Program,
    target: TargetSpec,
    blobs: Mapping[str, Blob],
    states: Mapping[str, Sequence[TensorSpec]],
    off_chip: Set[str] = frozenset(),
) -> Arenas:
    """Arenas of all regions. One may exceed its region when nothing is left that can give way."""
    end = len(folded_roles(program))
    home = target.region(target.placement["activations"][0])
    room = home.size - home.reserved - (blobs[home.name].size if home.name in blobs else 0)
    working = working_buffers(program)
    moved: set[str] = set()
    halvings: dict[str, int] = {}
    while True:
        buffers = {
            name: [Buffer(spec.name, spec.size, 0, end) for spec in specs]
            for name, specs in states.items()
        }
        for buffer in working:
            usual = target.placement["activations"][buffer.name in moved]
            buffers[target.pinned(buffer.name) or usual].append(buffer)
        if target.tiling:
            buffers[target.tiling.region] += tile_buffers(program, target, halvings, off_chip)
        height = allocate(buffers[home.name], home.align).height
        yielding = None
        if height > room:
            yielding = _yielding_buffer(program, target, buffers[home.name], halvings)
        if yielding is None:
            return allocate_all(target, buffers, halvings)
        if yielding.name.startswith(TILE_PREFIX):
            role = yielding.name.removeprefix(TILE_PREFIX)
            halvings[role] = halvings.get(role, 0) + 1
        else:
            moved.add(yielding.name)


def allocate_all(
    target: TargetSpec, buffers: Mapping[str, Sequence[Buffer]], halvings: Mapping[str, int]
) -> Arenas:
    """Offsets for the buffers of every region."""
    return Arenas(
        buffers={name: tuple(wanted) for name, wanted in buffers.items()},
        allocations={
            name: allocate(wanted, target.region(name).align) for name, wanted in buffers.items()
        },
        halvings=dict(halvings),
    )


def _yielding_buffer(
    program: Program,
    target: TargetSpec,
    buffers: Sequence[Buffer],
    halvings: Mapping[str, int],
) -> Buffer | None:
    """The largest buffer at the preferred region's peak that can give way; None without one."""
    homes = target.placement["activations"]
    peak = peak_time(buffers, target.region(homes[0]).align)
    once_more = {role: halvings.get(role, 0) + 1 for role in folded_roles(program)}
    halved = {tile.name: tile.size for tile in tile_buffers(program, target, once_more)}

    def can_yield(buffer: Buffer) -> bool:
        if buffer.name in halved:
            return halved[buffer.name] < buffer.size
        if buffer.name.startswith(TILE_PREFIX):
            return False
        spec = program.tensors.get(buffer.name)
        fixed = buffer.name == PARTIALS or (spec is not None and spec.kind is Kind.STATE)
        return len(homes) > 1 and not fixed and target.pinned(buffer.name) is None

    candidates = [b for b in buffers if b.first <= peak < b.last and can_yield(b)]
    return max(candidates, key=lambda buffer: (buffer.size, buffer.name), default=None)
