"""The values that the planner returns: where every byte lives and how weights move.

Offsets are bytes from the start of the region. A region holds, in this order: reserved bytes
(stacks, code), one read-only blob, one arena of mutable buffers. Time is the *folded* timeline:
roles in execution order with the blocks laid on top of each other (docs/planning.md), because
equal blocks share their activation buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memory_planner.engine_plan import ChainPlan, EnginePlan


@dataclass(frozen=True, slots=True)
class Placement:
    """One buffer: a weight, a constant, a state, an activation, a scratch or a tile buffer."""

    name: str
    region: str
    offset: int  # from the region's base
    size: int  # bytes, before padding to the alignment
    first: int  # folded time of the first op that touches it; 0 for permanent data
    last: int  # one past the last op that touches it; the timeline's length for permanent data


@dataclass(frozen=True, slots=True)
class Transfer:
    """One DMA transfer of whole weight records into a slot of the op's tile buffer."""

    source_offset: int  # in the region that the linear reads from, see Plan.source
    slot: int  # 0 or 1
    first_record: int
    records: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """How one linear reads its weights: in place, or through a tile buffer of one or two slots.

    Of a linear on the engine that is the table of the cores; `ChainPlan` has the rest.
    """

    op: str
    weight: str
    records_per_tile: int  # all of them when in place
    tile_buffer: str | None  # placement of the slots; None: read in place
    slot_size: int  # bytes from slot 0 to slot 1; 0 in place
    transfers: tuple[Transfer, ...]  # empty in place
    slots: int = 2  # 2: transfers overlap with the work; 1: they take turns


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How attention reads the KV cache: in place, or in chunks of positions by DMA."""

    positions_per_chunk: int  # the context when in place
    tile_buffer: str | None
    slot_size: int
    slots: int = 2  # 2: transfers overlap with the work; 1: they take turns


@dataclass(frozen=True, slots=True)
class Stream:
    """One copy from off-chip memory into a slot: the weights of consecutive ops of one block, or
    some records of the head.
    """

    index: int  # in the sequence of a step
    source_offset: int  # in the off-chip region
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Off-chip weights on their way: while the cores work out of one slot, the next stream fills
    the other one.

    A step has `count` streams, an even number; `streams` are those that move something. First
    come those of the blocks, one at each role of `cuts` that a block has, then those of the head.
    Stream n uses slot n mod 2, is waited for where its first reader begins, and then stream n + 1
    is started, after the last one stream 0 of the next step. The record of an off-chip embedding
    passes through slot 1 in front of the blocks.
    """

    region: str  # the off-chip region
    buffer: str  # placement of both slots
    slot_size: int  # bytes from slot 0 to slot 1
    max_transfer: int  # bytes: a longer range is moved in pieces of so many
    cuts: tuple[str, ...]
    head: int  # index of the head's first stream: those of all blocks are in front of it
    part_records: int  # records of the head in one stream; 0: the head is on chip
    count: int
    streams: tuple[Stream, ...]  # in order of their indices
    # The first stream of every block, where some blocks lack a part; empty: each has all cuts.
    begins: tuple[int, ...] = ()

    def of_block(self, layer: int) -> range:
        """Indices of the streams of a block; none of one that `begins` does not have."""
        if not self.begins:
            first = layer * len(self.cuts)
            return range(first, first + len(self.cuts))
        ends = (*self.begins[1:], self.head)
        return range(self.begins[layer], ends[layer]) if layer < len(ends) else range(0)

    def stream(self, index: int) -> Stream | None:
        """The stream of an index, if it moves anything."""
        return next((stream for stream in self.streams if stream.index == index), None)

    def slot(self, index: int) -> int:
        """Offset of a stream's slot in the buffer."""
        return index % 2 * self.slot_size


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """How prompts run in batches: activations of the blocks once per token of a batch.

    Token t of a batch has tensor x at t * stride + offsets[x] in the buffer. Where the engine's
    jobs serve all tokens of a batch, `chains` has them for all blocks, in schedule order.
    """

    batch: int  # tokens, 2 or more
    buffer: str  # placement of batch * stride bytes
    stride: int
    offsets: Mapping[str, int]
    chains: tuple[ChainPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where an op reads a weight from."""

    region: str
    offset: int


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """Use of one memory region, in bytes. used = reserved + blob + arena; free = the rest."""

    name: str
    capacity: int
    reserved: int
    blob_base: int
    blob_size: int
    arena_base: int
    arena_size: int
    peak: int  # arena bytes that the schedule needs at its fullest step (lower bound)
    proven: bool = False  # no smaller arena exists, even where it exceeds the peak

    @property
    def used(self) -> int:
        """Bytes that are taken for the whole run."""
        return self.reserved + self.blob_size + self.arena_size

    @property
    def free(self) -> int:
        """Bytes left."""
        return self.capacity - self.used


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the memory report; the rows of a region sum to its `used`."""

    region: str
    category: str  # weights, scales, kv_cache, constants, activations, scratch, dma_buffers, ...
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A complete placement of one program on one target."""

    target: str
    cores: int
    roles: tuple[str, ...]  # the folded timeline
    placements: Mapping[str, Placement]
    linears: Mapping[str, LinearPlan]  # by op id
    attention: AttentionPlan
    regions: tuple[RegionPlan, ...]
    rows: tuple[Row, ...]
    blob_headers: Mapping[str, int]  # region -> bytes before the first tensor of its blob
    streams: StreamPlan | None = None  # None: no weight of a block is off chip
    engine: EnginePlan | None = None  # None: every linear is on the cores
    prefill: PrefillPlan | None = None  # None: prompts run token by token

    def region(self, name: str) -> RegionPlan:
        """The region called `name`."""
        return next(region for region in self.regions if region.name == name)

    def source(self, weight: str, layer: int) -> Source:
        """Where an op of `layer` (-1 outside the blocks) reads a weight: its place, or its copy.

        Of a head in several streams it is the copy of the first one.
        """
        place, streams = self.placements[weight], self.streams
        if streams is None or place.region != streams.region:
            return Source(place.region, place.offset)
        indices = streams.of_block(layer) if layer >= 0 else range(streams.count)
        found = next(
            stream
            for stream in streams.streams
            if stream.index in indices
            and stream.source_offset <= place.offset < stream.source_offset + stream.size
        )
        buffer = self.placements[streams.buffer]
        slot = buffer.offset + streams.slot(found.index)
        return Source(buffer.region, slot + place.offset - found.source_offset)
