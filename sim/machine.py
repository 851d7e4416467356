"""The byte-true simulator: runs a plan on arrays that stand for the memories of the SoC.

Weights are read from the emitted blobs at their planned addresses, tiles are moved as the plan
says, activations live in the planned arenas. Every byte knows which buffer wrote it last, so a
read of a byte that was never written, or that another buffer overwrote, is a MemoryFaultError.
For speed use sim/session.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from memory_planner.engine_chains import windows_of
from memory_planner.engine_jobs import window_count, window_of
from memory_planner.engine_plan import chain_members
from memory_planner.plan import Placement, Plan
from memory_planner.stream_slots import stream_points
from sim import ops
from sim.engine import (
    EngineMemory,
    accumulators,
    batch_inputs,
    covered_inputs,
    input_buffers,
    joined,
    table_rows,
    words_of,
)
from sim.interpreter import run_op, steps_of
from sim.machine_streams import StreamSlots
from sim.memory import BLOB, NOBODY, PATTERN, Memory
from sim.neureka import run_job
from sim.ops import Ints, KVCache
from sim.prefill import parts_of, prompt_order
from sim.token_buffers import Chosen, decode, encode, token_places
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.matrix_storage import unpack_matrix_records
from toolchain.model.packing import WeightLayout, unpack_records
from toolchain.model.program import SHIFT_BITS, Op, Program, TensorSpec
from toolchain.model.requant_table import RequantLayout
from toolchain.model.silent_parts import cache_slots

Output = tuple[Op, str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One output of one op in one step, in its stored type and shape."""

    step: int
    op: str
    tensor: str
    value: npt.NDArray[np.generic]


class Machine:
    """Memories of one target while it runs one program, one token at a time."""

    def __init__(self, program: Program, plan: Plan, blobs: Mapping[str, bytes]) -> None:
        self.program, self.plan = program, plan
        self.position = self._at = 0  # the second one: of the token that an op works for
        self._written: list[tuple[int, str, npt.NDArray[np.generic]]] = []
        self._chosen = Chosen(token_places(plan, program.tensors))
        tokens = [place.name for each in self._chosen.batch.values() for place in each]
        self._ids = {name: i + 2 for i, name in enumerate([*sorted(plan.placements), *tokens])}
        self._cache_slots = cache_slots(program)
        self._points = stream_points(program, plan.streams)
        self._memories = {region.name: Memory(region.name, region.used) for region in plan.regions}
        for region in plan.regions:
            if region.blob_size:
                blob = np.frombuffer(blobs[region.name], np.uint8)
                self._memories[region.name].write(region.blob_base, blob, BLOB)
        self._chains = chain_members(plan.engine.chains if plan.engine else ())
        self._batch_chains = chain_members(plan.prefill.chains if plan.prefill else ())
        for place in input_buffers(plan):
            self._put(place, 0, np.zeros(place.size, np.uint8))
        buffer = self._ids[plan.streams.buffer] if plan.streams else NOBODY
        self._streams = StreamSlots(plan, self._memories, buffer)

    def step(self, token: int) -> Iterator[Output]:
        """Run one token; yields every output of every op as it is written."""
        for _, output in self._run(self.program.ops, [token], self.position):
            yield output
        self._streams.finish(0)
        self.position += 1

    def prefill(self, tokens: Sequence[int]) -> Iterator[tuple[int, Output]]:
        """Run a prompt of at least one token as the generated code does.

        Yields the position of the token with every output. Raises IndexError when the KV cache
        has fewer free positions.
        """
        if self.position + len(tokens) > self.program.shape.context:
            raise IndexError("the sequence is longer than the context of the program")
        size = self.plan.prefill.batch if self.plan.prefill else 1
        for place in batch_inputs(self.plan):
            self._put(place, 0, np.zeros(place.size, np.uint8))
        for first in range(0, len(tokens), size):
            batch, is_last = tokens[first : first + size], first + size >= len(tokens)
            self._streams.expect_head(is_last)
            for places, schedule in prompt_order(self.program, self.plan, len(batch)):
                self._chosen = replace(self._chosen, tokens=places)
                ids, position = [batch[place] for place in places], self.position + places[0]
                yield from self._run(schedule, ids, position, advance=places[0] == 0)
            if is_last:
                self._chosen = replace(self._chosen, tokens=(len(batch) - 1,))
                position = self.position + len(batch) - 1
                yield from self._run(parts_of(self.program).behind, batch[-1:], position)
            self._streams.finish(0) if is_last else self._streams.rewind()
            self.position += len(batch)
        for place in covered_inputs(self.plan):
            self._put(place, 0, np.zeros(place.size, np.uint8))
        self._chosen = replace(self._chosen, tokens=())

    def _run(
        self, schedule: Sequence[Op], tokens: Sequence[int], position: int, *, advance: bool = True
    ) -> Iterator[tuple[int, Output]]:
        """Run ops for `tokens`, the first of which is at `position`."""
        for op in schedule:
            if advance and op.id in self._points:
                self._streams.advance(self._points[op.id])
            self._written, self._at = [], position
            run_op(op, self.program, self, np.array(tokens, np.int64), position)
            for index, name, value in self._written:
                yield position + index, (op, name, value)

    # Store

    def read(self, name: str) -> Ints:
        """See `Store`."""
        spec, places = self.program.tensors[name], self._chosen.places(self.plan, name)
        return np.stack([decode(self._get(place, 0, spec.size), spec) for place in places])

    def constant(self, name: str) -> Ints:
        """See `Store`."""
        spec, place = self.program.tensors[name], self.plan.placements[name]
        return decode(self._memories[place.region].read(place.offset, spec.size, BLOB, name), spec)

    def write(self, op: Op, name: str, value: Ints) -> None:
        """See `Store`."""
        places = self._chosen.places(self.plan, name)
        for index, (place, one) in enumerate(zip(places, value, strict=True)):
            typed = encode(one, self.program.tensors[name])
            self._put(place, 0, typed)
            self._written.append((index, name, typed))

    def clobber(self, op: Op) -> None:
        """See `Store`: scratch and tile bytes change hands before the op reads its inputs."""
        for name in (f"scratch.{op.role}", f"tile.{op.role}"):
            place = self.plan.placements.get(name)
            if place:
                self._put(place, 0, np.full(place.size, PATTERN, np.uint8))

    def embedding_rows(self, op: Op, tokens: Ints) -> Ints:
        """See `Store`: only the records of the tokens are read."""
        layout, place = self.program.layout_of(op), self.plan.placements[op.inputs[0]]
        lanes = layout.packing.rows
        streams = self.plan.streams
        rows = []
        for token in tokens:
            offset = place.offset + int(token) // lanes * layout.record_size
            memory = self._memories[place.region]
            record = memory.read(offset, layout.record_size, BLOB, op.inputs[0])
            if streams and place.region == streams.region:
                slots = self.plan.placements[streams.buffer]
                self._put(slots, streams.slot(1), record)
                record = self._get(slots, streams.slot(1), layout.record_size)
            data = record.data
            rows.append(unpack_records(data, layout, lanes).values[int(token) % lanes])
        return np.stack(rows).astype(np.int64)

    def linear(self, op: Op, q: Ints, scale: Ints, scaling: int) -> Ints:
        """See `Store`: tile by tile, through the slots that the plan names."""
        if op.id in self._chains:
            return self._engine_linear(op, q, scale, scaling)
        layout, how = self.program.layout_of(op), self.plan.linears[op.id]
        lanes, finish = layout.packing.rows, steps_of(self.program.arithmetic).rows
        parts = []
        for first, count, data in self._tiles(op):
            rows = min(count * lanes, layout.rows - first * lanes)
            weights = unpack_matrix_records(data.data, layout, rows)
            matrix = ops.matrix_of(weights, layout.group_size)
            parts.append(ops.linear(q, scale, matrix, scaling, finish))
        result = np.concatenate(parts, axis=1)
        assert result.shape[1] == layout.rows, f"tiles of {how.op} do not cover it"
        return result

    def _tiles(self, op: Op) -> Iterator[tuple[int, int, npt.NDArray[np.uint8]]]:
        """(first record, records, bytes) of each tile of a linear."""
        how = self.plan.linears[op.id]
        layout = self.program.tensors[how.weight].layout
        assert isinstance(layout, WeightLayout | RequantLayout)
        where = self.plan.source(how.weight, op.layer)
        source, owner = self._memories[where.region], BLOB
        if self.plan.streams and where.region != self.plan.placements[how.weight].region:
            owner = self._ids[self.plan.streams.buffer]
        if how.tile_buffer is None:
            yield 0, layout.records, source.read(where.offset, layout.size, owner, how.weight)
            return
        tile = self.plan.placements[how.tile_buffer]
        streams, part = self.plan.streams, 0
        for transfer in how.transfers:
            if op.layer < 0 and streams and owner != BLOB:
                after = transfer.first_record // streams.part_records
                if after > part:
                    part = after
                    self._streams.advance(streams.head + part)
            data = source.read(transfer.source_offset, transfer.size, owner, how.weight)
            offset = transfer.slot * how.slot_size
            self._put(tile, offset, data)
            moved = self._get(tile, offset, transfer.size)
            yield transfer.first_record, transfer.records, moved

    def _engine_linear(self, op: Op, q: Ints, scale: Ints, scaling: int) -> Ints:
        """Stage the vectors, run the chain's jobs as far as each piece needs them, finish rows."""
        batched = bool(self._chosen.tokens) and op.id in self._batch_chains
        member = (self._batch_chains if batched else self._chains)[op.id]
        layout, how = self.program.tensors[member.linear.weight].layout, self.plan.linears[op.id]
        assert isinstance(layout, EngineLayout)
        tokens = self.plan.prefill.batch if batched and self.plan.prefill else 1
        halves = windows_of(op)
        windows = window_count(layout, halves, tokens)
        memory = EngineMemory(self.plan, self._memories, self._ids, member.chain)
        if member.done == 0:
            memory.stage(layout, q, halves, windows)
        tables, done = self._tiles(op), member.done
        table = table_rows(layout, *next(tables))
        result = np.zeros((len(q), layout.rows), np.int64)
        finish = steps_of(self.program.arithmetic).rows
        for piece in member.linear.pieces:
            for job in member.chain.jobs[done : piece.needed]:
                run_job(job.registers, memory, memory.weight_base)
            done = piece.needed
            if piece.first_channel and len(how.transfers) > 1:
                table = table_rows(layout, *next(tables))
            sums = memory.sums(layout, piece, windows)
            for token, one in enumerate(q):
                own = sums[[window_of(layout, halves, token, half) for half in range(halves)]]
                rows, acc = accumulators(layout, piece, own, table, one)
                total = joined(acc, scaling & SHIFT_BITS)[np.newaxis]
                words = words_of(rows, table)
                result[token, rows] = finish(total, words, scale[token : token + 1], scaling)[0]
        assert next(tables, None) is None, f"the table of {op.id} has rows that no piece needs"
        return result

    def scales_before(self, op: Op) -> tuple[Ints, Ints] | None:
        """See `Store`."""
        if self._at == 0:
            return None
        words = []
        for name in op.outputs[1::2]:
            where = self._cache_range(op, name, (self._at - 1, 1))
            data = self._get(self.plan.placements[name], *where)
            words.append(decode(data, self.program.tensors[name], (-1,)))
        return words[0], words[1]

    def append_rows(self, op: Op, rows: KVCache) -> None:
        """See `Store`."""
        values = (rows.k, rows.k_scale, rows.v, rows.v_scale)
        for name, value in zip(op.outputs, values, strict=True):
            spec = self.program.tensors[name]
            typed = value.reshape(-1).astype(spec.dtype.value)
            self._put(self.plan.placements[name], self._row(op, spec, self._at), typed)
            self._written.append((0, name, typed))

    def cache_rows(self, op: Op, length: int) -> KVCache:
        """See `Store`: two passes of chunks through the slots in turn, as edgec_kv_stream.h does.

        Pass 1 moves rows of k and its scales, pass 2 those of v.
        """
        shape, how = self.program.shape, self.plan.attention
        k, k_scale, v, v_scale = op.inputs[2:6]
        rows = -(-how.positions_per_chunk * shape.kv_heads * shape.head_dim // 4) * 4
        passes = ({k: 0, k_scale: rows}, {v: 0, v_scale: rows})
        starts = range(0, length, how.positions_per_chunk)
        parts: dict[str, list[Ints]] = {}
        for index, (targets, start) in enumerate(product(passes, starts)):
            count = min(how.positions_per_chunk, length - start)
            for name, offset in targets.items():
                slot = index % how.slots * how.slot_size
                parts[name] = parts.get(name, []) if start else []
                parts[name].append(self._cache_chunk(op, name, (start, count), slot + offset))
        heads = (length, shape.kv_heads, shape.head_dim)
        joined = {name: np.concatenate(chunks) for name, chunks in parts.items()}
        return KVCache(
            joined[k].reshape(heads), joined[k_scale], joined[v].reshape(heads), joined[v_scale]
        )

    def _cache_chunk(self, op: Op, name: str, positions: tuple[int, int], tile_offset: int) -> Ints:
        """`positions` = (start, count) of one cache array, by way of the tile if there is one."""
        place, size = self._cache_range(op, name, positions)
        data = self._get(self.plan.placements[name], place, size)
        if self.plan.attention.tile_buffer:
            tile = self.plan.placements[self.plan.attention.tile_buffer]
            self._put(tile, tile_offset, data)
            data = self._get(tile, tile_offset, data.size)
        return decode(data, self.program.tensors[name], (positions[1], -1))

    def _cache_range(self, op: Op, name: str, positions: tuple[int, int]) -> tuple[int, int]:
        """(offset, bytes) of `positions` = (start, count) of one cache array."""
        spec, (start, count) = self.program.tensors[name], positions
        return self._row(op, spec, start), count * spec.shape[2] * spec.dtype.itemsize

    def _row(self, op: Op, spec: TensorSpec, position: int) -> int:
        _, context, width = spec.shape
        return (self._cache_slots[op.layer] * context + position) * width * spec.dtype.itemsize

    def _put(self, place: Placement, offset: int, value: npt.NDArray[np.generic]) -> None:
        data = np.frombuffer(value.tobytes(), np.uint8)
        assert offset + data.size <= place.size, f"{place.name} is written past its end"
        memory = self._memories[place.region]
        memory.write(place.offset + offset, data, self._ids[place.name])

    def _get(self, place: Placement, offset: int, size: int) -> npt.NDArray[np.uint8]:
        assert offset + size <= place.size, f"{place.name} is read past its end"
        memory = self._memories[place.region]
        return memory.read(place.offset + offset, size, self._ids[place.name], place.name)


def run_steps(
    program: Program, plan: Plan, blobs: Mapping[str, bytes], tokens: Sequence[int]
) -> Iterator[Record]:
    """Feed `tokens` to a fresh machine and yield every output of every op of every step."""
    machine = Machine(program, plan, blobs)
    for step, token in enumerate(tokens):
        for op, name, value in machine.step(token):
            yield Record(step, op.id, name, value)
