"""Linears on the engine -> tables of the generated code; equal blocks share their entries.

Registers of jobs are those of plan.json, but for register 0, which counts from the first words of
the chain, so that blocks whose weights lie elsewhere have the same jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

from codegen.c_names import dimensions, identifier, mode_suffix, place_text
from codegen.views import (
    BufferView,
    ChainView,
    EngineLinearView,
    EngineMatrixView,
    EngineView,
    EngineWindowView,
    StageView,
    WeightView,
)
from memory_planner.engine_chains import windows_of
from memory_planner.engine_jobs import (
    acc_geometry,
    stage_geometry,
    window_count,
    window_of,
)
from memory_planner.engine_plan import ChainPlan, PiecePlan, chain_members
from memory_planner.plan import Placement, Plan
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import Op, Program
from toolchain.model.requant_table import TABLE_ROWS, requant_layout

REGISTERS_PER_ROW = 6


class EngineTables:
    """Fills the tables as linears are asked for; `batch`: those of jobs for a prompt's tokens."""

    def __init__(self, program: Program, plan: Plan, *, batch: bool = False) -> None:
        self._program, self._plan = program, plan
        self._tokens = plan.prefill.batch if batch and plan.prefill else 1
        self._chains_planned: Sequence[ChainPlan] = plan.engine.chains if plan.engine else ()
        if batch:
            self._chains_planned = plan.prefill.chains if plan.prefill else ()
        self._members = chain_members(self._chains_planned)
        self._stages: dict[StageView, int] = {}
        self._matrices: dict[EngineMatrixView, int] = {}
        self._jobs: list[tuple[str, ...]] = []
        self._first_jobs: dict[tuple[tuple[str, ...], ...], int] = {}
        self._chains: dict[ChainView, int] = {}
        self._pieces: list[PiecePlan] = []
        self._first_pieces: dict[tuple[PiecePlan, ...], int] = {}
        self._linears: dict[EngineLinearView, int] = {}

    def weight(self, op: Op, field: str) -> WeightView:
        """The row of a linear on the engine: where its table lies, and where its chain begins."""
        tensor, table = self._program.weight_of(op), self._program.tensors[op.inputs[-1]]
        words, place = (self._plan.placements[spec.name] for spec in (tensor, table))
        index, base = self.entry(op)
        assert tensor.layout is not None
        packing = f"{tensor.layout.packing.value}{dimensions(tensor.shape)}"
        places = f"{place_text(words)}, table at {place_text(place)}"
        return WeightView(
            field=field,
            comment=f"{tensor.name} {packing} at {places}",
            matrix=0,
            kernel="",
            blob=identifier(place.region).upper(),
            offset=place.offset - self._plan.region(place.region).blob_base,
            shift_index=op.attrs["shift_index"],
            engine=index,
            words=base,
        )

    def entry(self, op: Op) -> tuple[int, int]:
        """Index of the op's entry, and register 0 of the first words of its chain."""
        member = self._members[op.id]
        layout = self._program.tensors[member.linear.weight].layout
        assert isinstance(layout, EngineLayout)
        how, table = self._plan.linears[op.id], requant_layout(layout)
        pieces = member.linear.pieces
        if pieces not in self._first_pieces:
            self._first_pieces[pieces] = len(self._pieces)
            self._pieces += pieces
        words = member.chain.jobs[0].registers[0]
        view = EngineLinearView(
            comment=op.role,
            matrix=self._matrix(layout, self._windows_of(layout, op), table.record_size),
            chain=self._chain(member.chain, layout, op, words),
            first_piece=self._first_pieces[pieces],
            piece_count=len(pieces),
            done=member.done,
            issued=member.issued,
            mode=mode_suffix(op),
            table_rows=how.records_per_tile * TABLE_ROWS if how.tile_buffer else 0,
            slot_size=how.slot_size,
        )
        return self._linears.setdefault(view, len(self._linears)), words

    def _windows_of(self, layout: EngineLayout, op: Op) -> int:
        return window_count(layout, windows_of(op), self._tokens)

    def _matrix(self, layout: EngineLayout, windows: int, record_size: int) -> int:
        view = EngineMatrixView(
            rows=layout.rows,
            groups=layout.groups,
            columns=layout.columns,
            tail=layout.tail,
            slots=layout.shared,
            channels=layout.channels,
            record_size=record_size,
            pixel_row=acc_geometry(layout, 1, windows).width,
        )
        return self._matrices.setdefault(view, len(self._matrices))

    def _chain(self, chain: ChainPlan, layout: EngineLayout, op: Op, words: int) -> int:
        halves = windows_of(op)
        geometry = stage_geometry(layout, self._windows_of(layout, op))
        lower = window_of(layout, halves, 0, halves - 1)
        stage = StageView(
            columns=layout.engine_columns,
            group_size=layout.group_size,
            group_stride=chain.group_stride,
            chunk=geometry.chunk,
            chunk_stride=geometry.stride,
            origins=(geometry.origins[0], geometry.origins[lower]),
        )
        jobs = tuple(_registers(job.registers, words) for job in chain.jobs)
        if jobs not in self._first_jobs:
            self._first_jobs[jobs] = len(self._jobs)
            self._jobs += jobs
        roles = [each.op.partition(".")[2] or each.op for each in chain.linears]
        view = ChainView(
            comment=", ".join(roles),
            stage=self._stages.setdefault(stage, len(self._stages)),
            first_job=self._first_jobs[jobs],
            job_count=len(jobs),
            input=self._arena_offset(chain.input_buffer),
            accumulators=self._arena_offset(chain.accumulator_buffer),
        )
        return self._chains.setdefault(view, len(self._chains))

    def _arena_offset(self, name: str) -> int:
        place = self._plan.placements[name]
        return place.offset - self._plan.region(place.region).arena_base

    def view(self) -> EngineView | None:
        """The tables of all linears that were asked for; None without an engine."""
        engine = self._plan.engine
        if engine is None or not self._chains_planned:
            return None
        buffers = list(dict.fromkeys(chain.input_buffer for chain in self._chains_planned))
        places = [self._plan.placements[name] for name in buffers]
        return EngineView(
            name=engine.name,
            weight_base=f"0x{engine.weight_base:08X}U",
            arena=identifier(places[0].region).upper(),
            windows=self._windows(),
            stages=tuple(self._stages),
            matrices=tuple(self._matrices),
            jobs=tuple(self._jobs),
            chains=tuple(self._chains),
            pieces=tuple(self._pieces),
            linears=tuple(self._linears),
            inputs=tuple(map(self.buffer, places)),
            input_sizes=tuple(place.size for place in places),
        )

    def buffer(self, place: Placement) -> BufferView:
        """Bytes of an image."""
        return BufferView(
            identifier(place.name),
            "uint8_t",
            f"{place.name} {place.size} bytes at {place_text(place)}",
            identifier(place.region).upper(),
            self._arena_offset(place.name),
        )

    def _windows(self) -> tuple[EngineWindowView, ...]:
        """Blobs that hold words, and the arena of inputs and accumulators."""
        engine = self._plan.engine
        assert engine is not None
        chains = engine.chains
        prompts = self._plan.prefill.chains if self._plan.prefill else ()
        names = [each.weight for chain in (*chains, *prompts) for each in chain.linears]
        blobs = dict.fromkeys(self._plan.placements[name].region for name in names)
        arena = self._plan.placements[chains[0].input_buffer].region
        views = []
        for name, base in engine.addresses.items():
            region, macro = self._plan.region(name), identifier(name).upper()
            if name in blobs:
                address = f"0x{base + region.blob_base:08X}U"
                pointer = f"weights_at(context, BLOB_{macro}, 0U)"
                views.append(EngineWindowView(address, region.blob_size, pointer, False))
            if name == arena:
                address = f"0x{base + region.arena_base:08X}U"
                pointer = f"arena_at(context, ARENA_{macro}, 0U)"
                views.append(EngineWindowView(address, region.arena_size, pointer, True))
        return tuple(views)


def _registers(registers: tuple[int, ...], words: int) -> tuple[str, ...]:
    """Rows of C constants, register 0 relative to `words`."""
    relative = ((registers[0] - words) % (1 << 32), *registers[1:])
    constants = [f"0x{word:X}U" for word in relative]
    rows = (
        constants[i : i + REGISTERS_PER_ROW] for i in range(0, len(constants), REGISTERS_PER_ROW)
    )
    return tuple(", ".join(row) for row in rows)
