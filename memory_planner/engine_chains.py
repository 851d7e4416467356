"""Linears on the engine as chains of jobs: which linears share a staged vector, and their buffers.

Chains follow from the program and the target alone, so that the arenas can ask how large the
buffers are before anything has an address; engine_job_plan.py writes the registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memory_planner.allocate import Buffer
from memory_planner.engine_jobs import (
    StageGeometry,
    acc_geometry,
    stage_geometry,
    window_count,
)
from memory_planner.footprint import (
    ENGINE_INPUT,
    ENGINE_PREFIX,
    ENGINE_SUMS,
    PREFILL_PREFIX,
)
from memory_planner.target import TargetSpec, align_up
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import ActMode, Op, Program
from toolchain.model.requant_table import TABLE_ROWS, RequantLayout, requant_layout

CHANNEL_STEP = 32  # output channels that the engine works on at a time
SHARE = 4  # of the activations' region: what sums of one chain, or one table, may take at most


@dataclass(frozen=True, slots=True)
class Chain:
    """Linears of one block that read the same vector in the same arrangement, in schedule order.

    `tile_channels` is 0 when the sums of all channels have room at the same time; else tiles of so
    many channels take turns in two slots. For one token such a chain has a single linear. A job of
    several tokens of a prompt (memory_planner/prefill_jobs.py) has a window, or two, for each.
    `in_turn`: the sums of a linear have room when the rows of the one before it are finished.
    """

    ops: tuple[Op, ...]
    layouts: tuple[EngineLayout, ...]
    stage: StageGeometry  # of one group of columns
    input_stride: int  # bytes from one group's part of the input buffer to the next
    tile_channels: int
    sums_size: int  # bytes of all accumulators, of both slots, or of the largest linear in turn
    tokens: int = 1
    in_turn: bool = False

    @property
    def windows(self) -> int:
        """Vectors that a job computes with: int16 activations are two, upper and lower halves."""
        return window_count(self.layouts[0], windows_of(self.ops[0]), self.tokens)

    @property
    def input_size(self) -> int:
        """Bytes of the input buffer."""
        return self.layouts[0].groups * self.input_stride

    def buffer(self, what: str) -> str:
        """Name of a buffer. Arrangements differ in which bytes stay zero, so each has its own."""
        layout, role = self.layouts[0], self.ops[0].role
        if what == ENGINE_SUMS:
            return f"{ENGINE_PREFIX}{role}.{what}"
        name = f"{ENGINE_PREFIX if self.tokens == 1 else PREFILL_PREFIX}{role}.{what}"
        tail = f"_{layout.tail}" if layout.tail else ""
        return f"{name}_{layout.taps}_{layout.groups}{tail}"


def windows_of(op: Op) -> int:
    """Vectors of int8 that the engine sees for the one that `op` reads."""
    return 2 if op.mode is ActMode.A16 else 1


def sums_limit(target: TargetSpec) -> int:
    """Bytes that the accumulators of one chain, or one table, may take."""
    assert target.engine is not None
    region = target.region(target.engine.activations)
    return (region.size - region.reserved) // SHARE


def chains_of(program: Program, target: TargetSpec) -> tuple[Chain, ...]:
    """All chains in schedule order; none on a target without an engine."""
    if target.engine is None:
        return ()
    chains: list[Chain] = []
    current: list[Op] = []
    for op in program.ops:
        if current and not _shares_vector(program, current[-1], op):
            chains += _split(program, target, current)
            current = []
        if program.engine_layout_of(op):
            current.append(op)
    return (*chains, *_split(program, target, current))


def _shares_vector(program: Program, one: Op, other: Op) -> bool:
    """Whether two successive ops read the same vector, staged alike."""
    left, right = program.engine_layout_of(one), program.engine_layout_of(other)
    if left is None or right is None or one.layer != other.layer:
        return False
    staged = [(x.packing, x.taps, x.columns, x.group_size, x.tail) for x in (left, right)]
    return one.inputs[:2] == other.inputs[:2] and one.mode is other.mode and staged[0] == staged[1]


def _split(program: Program, target: TargetSpec, ops: list[Op]) -> list[Chain]:
    """One chain; its linears in turn when their sums have no room together; or one chain per linear
    when those of a linear have no room either.
    """
    if not ops:
        return []
    whole, limit = _chain(program, target, ops), sums_limit(target)
    if whole.sums_size <= limit:
        return [whole]
    single = [_chain(program, target, [op]) for op in ops]
    largest = max(chain.sums_size for chain in single)
    if largest <= limit:
        return [replace(whole, sums_size=largest, in_turn=True)]
    return [_tiled(chain, target) for chain in single]


def _chain(program: Program, target: TargetSpec, ops: list[Op]) -> Chain:
    assert target.engine is not None
    layouts = tuple(layout for op in ops if (layout := program.engine_layout_of(op)))
    windows = windows_of(ops[0])
    stage = stage_geometry(layouts[0], windows)
    align = target.region(target.engine.activations).align
    size = sum(sums_size(layout, windows, layout.channels) for layout in layouts)
    return Chain(tuple(ops), layouts, stage, align_up(stage.size, align), 0, size)


def sums_size(layout: EngineLayout, windows: int, channels: int) -> int:
    """Bytes of the accumulators of some channels, all groups."""
    return layout.groups * acc_geometry(layout, channels, windows).size


def _tiled(chain: Chain, target: TargetSpec) -> Chain:
    """The chain as it is if its sums have room, else in tiles of whole steps of channels.

    Rows of a tile must be contiguous for the table, so only layouts with one row per channel can
    have tiles; `can_run` tells which others are not possible.
    """
    assert target.engine is not None
    limit = sums_limit(target)
    layout = chain.layouts[0]
    if chain.sums_size <= limit or layout.shared > 1:
        return chain
    align = target.region(target.engine.activations).align
    per_step = align_up(sums_size(layout, chain.windows, CHANNEL_STEP), align)
    steps = max(1, limit // 2 // per_step)
    channels = steps * CHANNEL_STEP
    size = 2 * align_up(sums_size(layout, chain.windows, channels), align)
    return replace(chain, tile_channels=channels, sums_size=size)


def can_run(layout: EngineLayout, windows: int, target: TargetSpec) -> str | None:
    """Why a linear cannot be on the engine, needed against allowed bytes; None if it can."""
    limit = sums_limit(target)
    step = sums_size(layout, windows, CHANNEL_STEP)
    whole = sums_size(layout, windows, layout.channels)
    if whole > limit and layout.shared > 1:
        return f"sums: {whole} of {limit} B"
    if min(whole, 2 * step) > limit:
        return f"sums: {min(whole, 2 * step)} of {limit} B"
    size = layout.groups * stage_geometry(layout, windows).size
    return f"inputs: {size} of {limit} B" if size > limit else None


def table_records(chain: Chain, layout: EngineLayout, target: TargetSpec) -> int:
    """Records of a linear's table that travel at a time; 0 when the cores read it in place."""
    assert target.tiling is not None
    table = requant_layout(layout)
    if chain.tile_channels:
        count = chain.tile_channels // TABLE_ROWS
        return count if 2 * count * table.record_size <= sums_limit(target) else 0
    return table.records if table.size <= sums_limit(target) else 0


@dataclass(frozen=True, slots=True)
class TableTiles:
    """How the table of one linear travels."""

    layout: RequantLayout
    records: int  # per transfer
    slots: int
    slot_size: int


def table_tiles(program: Program, target: TargetSpec) -> dict[str, TableTiles | None]:
    """By op id of each linear on the engine; None: read in place."""
    if target.tiling is None:
        return {}
    align = target.region(target.tiling.region).align
    found: dict[str, TableTiles | None] = {}
    for chain in chains_of(program, target):
        for op, layout in zip(chain.ops, chain.layouts, strict=True):
            table, records = requant_layout(layout), table_records(chain, layout, target)
            size = align_up(records * table.record_size, align)
            slots = 2 if records < table.records else 1
            found[op.id] = TableTiles(table, records, slots, size) if records else None
    return found


def engine_buffers(
    program: Program, target: TargetSpec, times: Mapping[str, int]
) -> tuple[Buffer, ...]:
    """Inputs and accumulators of all chains; equal roles of different blocks share theirs.

    `times` are the roles on the folded timeline.
    """
    found: dict[str, Buffer] = {}
    for chain in chains_of(program, target):
        first, last = times[chain.ops[0].role], times[chain.ops[-1].role] + 1
        for buffer in (
            Buffer(chain.buffer(ENGINE_INPUT), chain.input_size, 0, len(times)),
            Buffer(chain.buffer(ENGINE_SUMS), chain.sums_size, first, last),
        ):
            known = found.get(buffer.name, buffer)
            found[buffer.name] = Buffer(
                buffer.name,
                max(known.size, buffer.size),
                min(known.first, buffer.first),
                max(known.last, buffer.last),
            )
    return tuple(found.values())


def requant_layout_of(program: Program, op: Op) -> RequantLayout:
    """The table of a linear on the engine."""
    layout = program.engine_layout_of(op)
    assert layout is not None
    return requant_layout(layout)
