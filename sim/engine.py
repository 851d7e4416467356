"""Linears on the engine in the byte-true machine: what the cores do around its jobs.

Staging, the jobs' view of the memories, and finishing rows from accumulators, each as the plan
says and as the runtime does (edgec_engine_stage_body.h, edgec_engine_rows_body.h).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory_planner.engine_jobs import acc_geometry, stage_geometry, window_of
from memory_planner.engine_plan import ChainPlan, PiecePlan
from memory_planner.footprint import PREFILL_PREFIX
from memory_planner.plan import Placement, Plan
from sim import ops
from sim.memory import BLOB, NOBODY, PATTERN, Memory, MemoryFaultError
from sim.ops import Ints
from toolchain.model.engine_packing import EngineLayout, engine_group_slices
from toolchain.model.errors import Problem
from toolchain.model.packing import WeightInts
from toolchain.model.requant_table import TABLE_ROWS, RequantLayout, unpack_requant_table

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class TableRows:
    """Rows `first` .. of a requantization table."""

    first: int
    rows: WeightInts


def input_buffers(plan: Plan) -> list[Placement]:
    """Every input buffer once; they are zero before the first step."""
    return _inputs(plan, plan.engine.chains if plan.engine else ())


def batch_inputs(plan: Plan) -> list[Placement]:
    """Those of jobs of several tokens, which are zero before a prompt."""
    return _inputs(plan, plan.prefill.chains if plan.prefill else ())


def covered_inputs(plan: Plan) -> list[Placement]:
    """Input buffers of steps that what prompts need lies on: zero again behind a prompt."""
    places = plan.placements.values()
    above = [place for place in places if place.name.startswith(PREFILL_PREFIX)]
    return [
        below
        for below in input_buffers(plan)
        if any(
            one.region == below.region
            and one.offset < below.offset + below.size
            and below.offset < one.offset + one.size
            for one in above
        )
    ]


def _inputs(plan: Plan, chains: Sequence[ChainPlan]) -> list[Placement]:
    return [plan.placements[name] for name in dict.fromkeys(c.input_buffer for c in chains)]


def halves_of(q: Ints, windows: int) -> list[Ints]:
    """q itself, or upper and lower bytes with q = 256 * upper + lower."""
    if windows == 1:
        return [q]
    upper = (q + 128) >> 8
    return [upper, q - 256 * upper]


class EngineMemory:
    """The memories as the jobs of one chain address them; the owner of every byte is checked."""

    def __init__(
        self, plan: Plan, memories: Mapping[str, Memory], ids: Mapping[str, int], chain: ChainPlan
    ) -> None:
        assert plan.engine is not None
        self._engine, self._memories, self._ids = plan.engine, memories, ids
        self._chain = chain
        self._input = plan.placements[chain.input_buffer]
        self._sums = plan.placements[chain.accumulator_buffer]

    @property
    def weight_base(self) -> int:
        """The address that register 0 counts from."""
        return self._engine.weight_base

    def stage(self, layout: EngineLayout, q: Ints, halves: int, windows: int) -> None:
        """Write the vectors (tokens, columns) to the input buffer, each of one window or two;
        accumulators hold nothing any more.
        """
        stage, place = stage_geometry(layout, windows), self._input
        for group, columns in enumerate(engine_group_slices(layout)):
            parts = [
                (half, stage.origins[window_of(layout, halves, token, number)])
                for token, one in enumerate(q)
                for number, half in enumerate(halves_of(one[columns], halves))
            ]
            for half, origin in parts:
                for chunk in range(-(-half.size // stage.chunk)):
                    part = half[chunk * stage.chunk : (chunk + 1) * stage.chunk].astype(np.int8)
                    offset = group * self._chain.group_stride + origin + chunk * stage.stride
                    assert 0 <= offset <= place.size - part.size, f"{place.name} is too small"
                    self._put(place, offset, part.view(np.uint8))
        nothing = np.full(self._sums.size, PATTERN, np.uint8)
        self._memories[self._sums.region].write(self._sums.offset, nothing, NOBODY)

    def _put(self, place: Placement, offset: int, data: Bytes) -> None:
        self._memories[place.region].write(place.offset + offset, data, self._ids[place.name])

    def sums(self, layout: EngineLayout, piece: PiecePlan, windows: int) -> Ints:
        """Accumulators (windows, groups, slots, channels) of a piece, as the engine left them."""
        place = self._sums
        offsets = place.offset + _sum_offsets(layout, piece, windows)
        memory, owner = self._memories[place.region], self._ids[place.name]
        size = 4 * piece.channels
        raw = [memory.read(at, size, owner, place.name) for at in offsets.reshape(-1).tolist()]
        values = np.frombuffer(np.concatenate(raw).tobytes(), "<i4").astype(np.int64)
        return values.reshape(*offsets.shape, piece.channels)

    def _find(self, address: int, size: int) -> tuple[Memory, int]:
        for name, base in self._engine.addresses.items():
            memory = self._memories[name]
            if base <= address and address + size <= base + memory.bytes.size:
                return memory, address - base
        raise MemoryFaultError(
            "a job reaches outside of every memory",
            [Problem(self._engine.name, f"{size} bytes at {address:#x}", "planned bytes")],
        )

    def read(self, address: int, size: int) -> bytes:
        """Bytes of weights, of the staged vector or of accumulators."""
        memory, offset = self._find(address, size)
        owner = BLOB
        for place in (self._input, self._sums):
            if memory.name == place.region and _holds(place, offset, size):
                owner = self._ids[place.name]
        return memory.read(offset, size, owner, "a job's operand").tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Accumulators, inside their buffer."""
        memory, offset = self._find(address, len(data))
        place = self._sums
        if memory.name != place.region or not _holds(place, offset, len(data)):
            found = f"{len(data)} bytes at {memory.name}+{offset}"
            raise MemoryFaultError(
                "a job writes outside of its accumulators", [Problem(place.name, found, str(place))]
            )
        memory.write(offset, np.frombuffer(data, np.uint8), self._ids[place.name])


def _holds(place: Placement, offset: int, size: int) -> bool:
    return place.offset <= offset and offset + size <= place.offset + place.size


def _sum_offsets(layout: EngineLayout, piece: PiecePlan, windows: int) -> Ints:
    """Offsets (windows, groups, slots) of the piece's first channel in the accumulator buffer."""
    geometry = acc_geometry(layout, 1, windows)  # of one channel: offsets in units of a pixel
    unit = geometry.pixel
    origins = np.array(geometry.origins, np.int64)[:, None, None] // unit * piece.pixel_stride
    slots = np.array(geometry.slots, np.int64)[None, None, :] // unit * piece.pixel_stride
    groups = np.arange(layout.groups, dtype=np.int64)[None, :, None] * piece.group_stride
    return piece.accumulators + origins + groups + slots


def table_rows(layout: EngineLayout, first: int, count: int, data: Bytes) -> TableRows:
    """The rows in the bytes of `count` records of the table, from record `first` on."""
    start = first * TABLE_ROWS
    rows = min(count * TABLE_ROWS, layout.rows - start)
    part = RequantLayout(rows, layout.groups, layout.tail)
    return TableRows(start, unpack_requant_table(data.data, part))


def accumulators(
    layout: EngineLayout, piece: PiecePlan, sums: Ints, table: TableRows, q: Ints
) -> tuple[Ints, Ints]:
    """(rows, accumulators (windows, rows)) of a piece: groups combined, the tail of q added.

    `sums` (windows, groups, slots, channels) are those of the engine.
    """
    channels = np.arange(piece.first_channel, piece.first_channel + piece.channels)
    possible = (np.arange(layout.shared)[:, None] * layout.channels + channels).reshape(-1)
    valid = possible < layout.rows
    rows: Ints = possible[valid]
    own = rows - table.first
    multipliers = table.rows.multipliers[own].astype(np.int64)  # (rows, groups)
    tails = table.rows.values[own].astype(np.int64)
    found = []
    halves = halves_of(q[layout.engine_columns :], sums.shape[0])
    for by_group, half in zip(sums, halves, strict=True):
        by_row = by_group.reshape(layout.groups, -1)[:, valid].T
        found.append((by_row * multipliers).sum(axis=1) + tails @ half * multipliers[:, -1])
    return rows, np.stack(found)


def joined(acc: Ints, shift: int) -> Ints:
    """Accumulators (rows,) of both windows, as docs/numerics.md 2 has it."""
    total: Ints = acc[0]
    if len(acc) > 1:
        total = (total << (8 - shift)) + ops.round_shift(acc[1], shift)
    return total


def words_of(rows: Ints, table: TableRows) -> Ints:
    """Requantization words of `rows`."""
    words: Ints = table.rows.requant[rows - table.first].astype(np.int64)
    return words
