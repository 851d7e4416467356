"""Linears on the engine in the byte-true machine: what the cores do around its jobs.

Staging, the jobs' view of the memories, and finishing rows from accumulators, each as the plan
says and as the runtime does (edgec_engine_stage_body.h, edgec_engine_rows_body.h).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from memory_planner.engine_jobs import acc_geometry, stage_geometry
from memory_planner.engine_plan import ChainPlan, EngineLinear, PiecePlan
from memory_planner.plan import Placement, Plan
from sim import ops
from sim.memory import BLOB, Memory, MemoryFaultError
from sim.ops import Ints
from toolchain.model.engine_packing import EngineLayout, engine_group_slices
from toolchain.model.errors import Problem
from toolchain.model.packing import WeightInts
from toolchain.model.program import ActMode
from toolchain.model.requant_table import TABLE_ROWS, RequantLayout, unpack_requant_table

Bytes = npt.NDArray[np.uint8]


def chains_by_op(plan: Plan) -> dict[str, tuple[ChainPlan, EngineLinear, int]]:
    """By op id: its chain, its part of it, and the jobs that linears before it have waited for."""
    found = {}
    for chain in plan.engine.chains if plan.engine else ():
        done = 0
        for linear in chain.linears:
            found[linear.op] = (chain, linear, done)
            done = linear.pieces[-1].needed
    return found


def input_buffers(plan: Plan) -> list[Placement]:
    """Every input buffer once; they are zero before the first step."""
    chains = plan.engine.chains if plan.engine else ()
    return [plan.placements[name] for name in dict.fromkeys(c.input_buffer for c in chains)]


def windows_of(mode: ActMode) -> int:
    """Vectors that the engine sees: int16 activations are two of int8."""
    return 2 if mode is ActMode.A16 else 1


def halves_of(q: Ints, mode: ActMode) -> list[Ints]:
    """q itself, or upper and lower bytes with q = 256 * upper + lower."""
    if mode is ActMode.A8:
        return [q]
    upper = (q + 128) >> 8
    return [upper, q - 256 * upper]


def staged_bytes(
    layout: EngineLayout, mode: ActMode, q: Ints, group_stride: int
) -> Iterator[tuple[int, npt.NDArray[np.int8]]]:
    """(offset in the input buffer, bytes) of every chunk of q (columns,)."""
    stage = stage_geometry(layout, windows_of(mode))
    for group, columns in enumerate(engine_group_slices(layout)):
        for window, half in enumerate(halves_of(q[columns], mode)):
            for chunk in range(-(-half.size // stage.chunk)):
                part = half[chunk * stage.chunk : (chunk + 1) * stage.chunk]
                offset = group * group_stride + stage.origins[window] + chunk * stage.stride
                yield offset, part.astype(np.int8)


class EngineMemory:
    """The memories as the engine addresses them, with the owner of each byte checked."""

    def __init__(
        self,
        plan: Plan,
        memories: Mapping[str, Memory],
        ids: Mapping[str, int],
        buffers: tuple[Placement, Placement],
    ) -> None:
        assert plan.engine is not None
        self._engine, self._memories, self._ids = plan.engine, memories, ids
        self._staged, self._sums = buffers

    @property
    def weight_base(self) -> int:
        """The address that register 0 counts from."""
        return self._engine.weight_base

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
        for place in (self._staged, self._sums):
            inside = place.offset <= offset and offset + size <= place.offset + place.size
            if memory.name == place.region and inside:
                owner = self._ids[place.name]
        return memory.read(offset, size, owner, "a job's operand").tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Accumulators, inside their buffer."""
        memory, offset = self._find(address, len(data))
        place = self._sums
        inside = place.offset <= offset and offset + len(data) <= place.offset + place.size
        if memory.name != place.region or not inside:
            found = f"{len(data)} bytes at {memory.name}+{offset}"
            raise MemoryFaultError(
                "a job writes outside of its accumulators", [Problem(place.name, found, str(place))]
            )
        memory.write(offset, np.frombuffer(data, np.uint8), self._ids[place.name])


def sum_offsets(layout: EngineLayout, mode: ActMode, piece: PiecePlan) -> Ints:
    """Offsets (windows, groups, slots) of the piece's first channel in the accumulator buffer."""
    windows = windows_of(mode)
    geometry = acc_geometry(layout, 1, windows)  # of one channel: offsets in units of a pixel
    unit = geometry.pixel
    origins = np.array(geometry.origins, np.int64)[:, None, None] // unit * piece.pixel_stride
    slots = np.array(geometry.slots, np.int64)[None, None, :] // unit * piece.pixel_stride
    groups = np.arange(layout.groups, dtype=np.int64)[None, :, None] * piece.group_stride
    return piece.accumulators + origins + groups + slots


def table_rows(layout: EngineLayout, first: int, count: int, data: Bytes) -> tuple[int, WeightInts]:
    """(first row, rows) of `count` records of a table from record `first` on."""
    start = first * TABLE_ROWS
    rows = min(count * TABLE_ROWS, layout.rows - start)
    part = RequantLayout(rows, layout.groups, layout.tail)
    return start, unpack_requant_table(data.data, part)


def finish_piece(
    layout: EngineLayout,
    piece: PiecePlan,
    sums: Ints,
    operands: tuple[tuple[int, WeightInts], Ints],
    scale: Ints,
    shift: int,
) -> tuple[Ints, Ints]:
    """(rows, outputs) of a piece from its accumulators (windows, groups, slots, channels).

    `operands` are the rows of the table that are there, and q (columns,).
    """
    (start, table), q = operands
    channels = np.arange(piece.first_channel, piece.first_channel + piece.channels)
    rows = np.arange(layout.shared)[:, None] * layout.channels + channels
    valid = rows.reshape(-1) < layout.rows
    rows = rows.reshape(-1)[valid]
    multipliers = table.multipliers[rows - start].astype(np.int64)  # (rows, groups)
    mode = ActMode.A16 if sums.shape[0] == 2 else ActMode.A8
    halves = []
    for window, half in enumerate(halves_of(q[layout.engine_columns :], mode)):
        by_row = sums[window].reshape(layout.groups, -1)[:, valid].T
        tail = table.values[rows - start].astype(np.int64) @ half
        halves.append((by_row * multipliers).sum(axis=1) + tail * multipliers[:, -1])
    acc = halves[0]
    if len(halves) == 2:
        acc = (acc << (8 - shift)) + ops.round_shift(halves[1], shift)
    words = table.requant[rows - start].astype(np.int64)
    exponent = ops.signed16(words) - int(scale[0, 1])
    return rows, ops.requantize(acc, (words >> 16) * int(scale[0, 0]), exponent)
