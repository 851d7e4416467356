"""Program and Plan -> ModelView: names, offsets and C expressions of the generated code.

Equal blocks share one function per op, so whatever may differ between blocks (place and packing of
the weights) becomes a row of a table, and everything else must be equal; it is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from zlib import crc32

from codegen.c_names import (
    BLOCK_ARRAYS,
    CTYPES,
    block_array,
    describe,
    dimensions,
    identifier,
    mode_suffix,
    place_text,
)
from codegen.engine_tables import EngineTables
from codegen.fused import fuse, fuse_head, fused_jobs, head_jobs
from codegen.op_views import OpViews, weight_table
from codegen.prefill_views import part_of_item, prefill_view
from codegen.views import (
    AttentionView,
    BlockView,
    BufferView,
    CacheView,
    ConstantView,
    FusedView,
    MatrixView,
    ModelView,
    OpView,
    PartView,
    RegionView,
    StreamRow,
    StreamView,
    WeightView,
)
from memory_planner.footprint import PARTIALS, SCRATCH_PREFIX, TILE_PREFIX
from memory_planner.fused_ops import fused_block
from memory_planner.plan import Placement, Plan, RegionPlan, Source
from memory_planner.stream_slots import stream_points
from memory_planner.target import MemoryRegion, TargetSpec
from toolchain.model.adapters import is_of_head
from toolchain.model.errors import InternalError
from toolchain.model.matrix_storage import packing_name
from toolchain.model.program import Kind, Op, OpKind, Program
from toolchain.model.silent_parts import LAST_OF, cache_slots, part_of, silent_in, whole_block
from toolchain.model.sparse_packing import SparseLayout


def model_view(program: Program, plan: Plan, target: TargetSpec, graph: bytes) -> ModelView:
    """Everything that the templates print of a planned program; `graph` is its graph hash."""
    return _Layout(program, plan, target).model(graph)


def region_views(plan: Plan, target: TargetSpec) -> tuple[RegionView, ...]:
    """The regions of the plan that hold something."""
    used = (region for region in plan.regions if region.blob_size or region.arena_size)
    return tuple(_region_view(region, target.region(region.name)) for region in used)


def _region_view(region: RegionPlan, memory: MemoryRegion) -> RegionView:
    field = identifier(region.name).lower()
    arena_section = f".arena_{field}"
    sections = ((region.blob_size, memory.section), (region.arena_size, arena_section))
    return RegionView(
        name=region.name,
        field=field,
        macro=field.upper(),
        section=memory.section,
        arena_section=arena_section,
        sections=tuple(name for size, name in sections if size),
        alignment=memory.align,
        available=region.capacity - region.reserved,
        reserved=region.reserved,
        blob_size=region.blob_size,
        arena_size=region.arena_size,
        crc=crc_constant(region.name),
    )


def crc_constant(name: str) -> str:
    """CRC-32 of a name as a C constant."""
    return f"0x{crc32(name.encode()):08X}U"


def _by_part(
    items: Sequence[FusedView | OpView],
) -> tuple[tuple[str, tuple[FusedView | OpView, ...]], ...]:
    """Items of a block by the part that they belong to; no fused op joins two parts."""
    return tuple((part, tuple(group)) for part, group in groupby(items, part_of_item))


class _Layout:
    """Looks names up in program and plan; holds nothing that changes but the matrix table."""

    def __init__(self, program: Program, plan: Plan, target: TargetSpec) -> None:
        self.program, self.plan, self.target = program, plan, target
        self.matrices: dict[MatrixView, int] = {}
        self.engine = EngineTables(program, plan)
        self.silent = silent_in(program)

    def model(self, graph: bytes) -> ModelView:
        regions = region_views(self.plan, self.target)
        ops = OpViews(self.program, self.plan)
        layers = range(self.program.shape.layers)
        embedding, head = self._embedding(), self._linear(self._op("lm_head"), "lm_head")
        blocks = tuple(self._block(layer) for layer in layers)
        whole = self._block_view("whole", whole_block(self.program))
        engine = self.engine.view()
        found = fused_block(self.program, self.plan)
        items = fuse(found.ops, ops.block, blocks, engine)
        fused = tuple(item for item in items if isinstance(item, FusedView))
        fused_head = fuse_head(found.head, ops.after, head, engine)
        return ModelView(
            shape=asdict(self.program.shape),
            regions=regions,
            blobs=tuple(region for region in regions if region.blob_size),
            arenas=tuple(region for region in regions if region.arena_size),
            embedding=embedding,
            head=head,
            head_adapter=tuple(
                self._linear(op, weight_table(op))
                for op in self.program.ops
                if op.kind is OpKind.LINEAR and is_of_head(op.id)
            ),
            blocks=blocks,
            matrices=tuple(self.matrices),
            constants=tuple(self._constants()),
            buffers=tuple(self._buffers()),
            partials=self._extra_buffer(PARTIALS, "edgec_partial"),
            cache=tuple(self._cache()),
            attention=self._attention(),
            before=ops.before,
            block_ops=ops.block,
            block_items=items,
            block_parts=_by_part(items),
            whole=whole,
            fused=fused,
            fused_jobs=fused_jobs(fused, engine),
            fused_ahead=found.ahead,
            fused_head=fused_head,
            head_jobs=head_jobs(fused_head, engine),
            fused_functions=frozenset(
                op.function for item in (*fused, fused_head) if item for op in item.ops
            ),
            measures=found.measures,
            after=ops.after,
            ops_per_block=len(ops.block),
            graph_hash=_rows_of_bytes(graph),
            off_chip=self._off_chip_blob(),
            streams=self._streams(),
            engine=engine,
            prefill=prefill_view(self.program, self.plan, items, engine),
        )

    def _off_chip_blob(self) -> str:
        outside = self.target.off_chip
        stored = outside is not None and self.plan.region(outside.region).blob_size
        return identifier(outside.region).upper() if outside is not None and stored else ""

    def _streams(self) -> StreamView | None:
        streams = self.plan.streams
        if streams is None:
            return None
        buffer, arena = self._place(streams.buffer)
        base = self._arena_offset(buffer)
        begin = self.plan.region(streams.region).blob_base
        rows = []
        for index in range(streams.count):
            stream, slot = streams.stream(index), base + streams.slot(index)
            source, size = (stream.source_offset - begin, stream.size) if stream else (0, 0)
            rows.append(StreamRow(source, size, slot))
        embed = self._op("embed")
        records = self.plan.placements[embed.inputs[0]].region == streams.region
        record_size = self.program.layout_of(embed).record_size if records else 0
        longest = max([record_size, *(row.size for row in rows)])
        return StreamView(
            comment=f"two slots of {streams.slot_size} bytes at {place_text(buffer)}",
            blob=identifier(streams.region).upper(),
            arena=arena,
            offset=base,
            check_size=min(buffer.size, streams.max_transfer),
            max_transfer=streams.max_transfer,
            pieces=-(-longest // streams.max_transfer),
            rows=tuple(rows),
            record_slot=base + streams.slot(1),
            record_size=record_size,
            head=streams.head,
            head_rows=streams.part_records * self._lanes("lm_head") if streams.part_records else 0,
        )

    def _lanes(self, role: str) -> int:
        return self.program.layout_of(self._op(role)).packing.rows

    def _op(self, role: str) -> Op:
        return next(op for op in self.program.ops if op.role == role)

    def _place(self, name: str) -> tuple[Placement, str]:
        placement = self.plan.placements[name]
        return placement, identifier(placement.region).upper()

    def _blob_offset(self, placement: Placement) -> int:
        return placement.offset - self.plan.region(placement.region).blob_base

    def _arena_offset(self, placement: Placement) -> int:
        return placement.offset - self.plan.region(placement.region).arena_base

    def _matrix(self, op: Op, records_per_tile: int, slot_size: int, slots: int) -> int:
        layout = self.program.layout_of(op)
        matrix = MatrixView(
            rows=layout.rows,
            columns=layout.columns,
            group_size=min(layout.group_size, layout.columns),
            field_bits=layout.packing.field_bits,
            record_size=layout.record_size,
            records_per_tile=records_per_tile,
            slot_size=slot_size,
            has_requant=int(layout.requant),
            slots=slots,
        )
        return self.matrices.setdefault(matrix, len(self.matrices))

    def _embedding(self) -> WeightView:
        op = self._op("embed")
        records = self.program.layout_of(op).records
        return self._weight(op, "embedding", self._matrix(op, records, 0, 0))

    def _linear(self, op: Op, field: str) -> WeightView:
        how = self.plan.linears[op.id]
        if op.mode is None:
            raise InternalError(f"{op.id} has no activation mode")
        if self.program.engine_layout_of(op):
            return self.engine.weight(op, field)
        slots = how.slots if how.tile_buffer else 0
        matrix = self._matrix(op, how.records_per_tile, how.slot_size, slots)
        layout = self.program.layout_of(op)
        kernel = f"linear_{mode_suffix(op)}_w{layout.packing.field_bits}"
        if isinstance(layout, SparseLayout):
            kernel += f"_{layout.pattern.removed}of{layout.pattern.group}"
        return self._weight(op, field, matrix, kernel)

    def _weight(self, op: Op, field: str, matrix: int, kernel: str = "") -> WeightView:
        tensor = self.program.weight_of(op)
        placement, region = self._place(tensor.name)
        offset = self._blob_offset(placement)
        if op.kind is OpKind.EMBED:
            source = Source(placement.region, placement.offset)
        else:
            source = self.plan.source(tensor.name, op.layer)
        if source.region != placement.region:
            region = "STAGED"
            offset = source.offset - self.plan.region(source.region).arena_base
        packing = f"{packing_name(self.program.layout_of(op))}{dimensions(tensor.shape)}"
        return WeightView(
            field=field,
            comment=f"{tensor.name} {packing} at {place_text(placement)}",
            matrix=matrix,
            kernel=kernel,
            blob=region,
            offset=offset,
            shift_index=op.attrs.get("shift_index", 0),
        )

    def _block(self, layer: int) -> BlockView:
        ops = [op for op in self.program.ops if op.layer == layer]
        view = self._block_view(f"l{layer:02d}", ops)
        if not self.silent:
            return view
        parts = tuple(self._part(layer, room) for room in LAST_OF)
        return replace(view, parts=parts, cache=cache_slots(self.program).get(layer, 0))

    def _part(self, layer: int, room: str) -> PartView:
        """Where a part of a block begins in the schedule and in the streams; 0 without it."""
        part = f"l{layer:02d}.{room}"
        ops = [(i, op) for i, op in enumerate(self.program.ops) if part_of(op.id) == part]
        points = stream_points(self.program, self.plan.streams)
        streams = [points[op.id] for _, op in ops if op.id in points]
        number = ops[0][0] if ops else 0
        return PartView(room, part not in self.silent, number, streams[0] if streams else 0)

    def _block_view(self, name: str, ops: Sequence[Op]) -> BlockView:
        arrays = [
            self._constant(op.inputs[1], block_array(op)) for op in ops if op.kind in BLOCK_ARRAYS
        ]
        has_orders = any(op.kind is OpKind.GATHER for op in ops)
        linears = [self._linear(op, identifier(op.role)) for op in ops if op.kind is OpKind.LINEAR]
        return BlockView(name, tuple(arrays), has_orders, tuple(linears))

    def _constant(self, name: str, field: str) -> ConstantView:
        spec = self.program.tensors[name]
        placement, region = self._place(name)
        return ConstantView(
            field=field,
            ctype=CTYPES[spec.dtype],
            comment=describe(spec, placement),
            blob=region,
            offset=self._blob_offset(placement),
        )

    def _constants(self) -> list[ConstantView]:
        """Constants outside the blocks."""
        block_inputs = {name for op in self.program.ops if op.layer >= 0 for name in op.inputs}
        shared = {name for op in self.program.ops if op.layer < 0 for name in op.inputs}
        names = [
            name
            for name, spec in self.program.tensors.items()
            if spec.kind is Kind.CONST
            and spec.layout is None
            and (name in shared or (name in block_inputs and not re.match(r"l\d+\.", name)))
        ]
        return [self._constant(name, identifier(name)) for name in names]

    def _buffers(self) -> list[BufferView]:
        """Activations, then scratch and tiles in schedule order."""
        views = []
        for name, spec in self.program.tensors.items():
            if spec.kind is Kind.ACTIVATION:
                comment = describe(spec, self.plan.placements[name])
                views.append(self._buffer(name, CTYPES[spec.dtype], comment))
        for role in self.plan.roles:
            for prefix, ctype in ((SCRATCH_PREFIX, "int32_t"), (TILE_PREFIX, "uint8_t")):
                if prefix + role in self.plan.placements:
                    views.append(self._extra_buffer(prefix + role, ctype))
        return views

    def _extra_buffer(self, name: str, ctype: str) -> BufferView:
        place = self.plan.placements[name]
        comment = f"{name} {place.size} bytes at {place_text(place)}"
        return self._buffer(name, ctype, comment)

    def _buffer(self, name: str, ctype: str, comment: str) -> BufferView:
        placement, region = self._place(name)
        offset = self._arena_offset(placement)
        return BufferView(identifier(name), ctype, comment, region, offset)

    def _cache(self) -> list[CacheView]:
        views = []
        for name, spec in self.program.tensors.items():
            if spec.kind is not Kind.STATE:
                continue
            placement, region = self._place(name)
            layers, _, width = spec.shape
            views.append(
                CacheView(
                    field=name.removeprefix("kv."),
                    ctype=CTYPES[spec.dtype],
                    comment=describe(spec, placement),
                    arena=region,
                    offset=self._arena_offset(placement),
                    layer_size=spec.size // layers,
                    width=width,
                )
            )
        return views

    def _attention(self) -> AttentionView:
        attrs = self._op("attn.attention").attrs
        how = self.plan.attention
        slots = how.slots if how.tile_buffer else 0
        return AttentionView(how.positions_per_chunk, how.slot_size, slots, **attrs)


def _rows_of_bytes(data: bytes) -> tuple[str, ...]:
    """C constants, eight to a row."""
    rows = (data[i : i + 8] for i in range(0, len(data), 8))
    return tuple(", ".join(f"0x{byte:02X}" for byte in row) for row in rows)
