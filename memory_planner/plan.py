"""The values that the planner returns: where every byte lives and how weights move.

Offsets are bytes from the start of the region. A region holds, in this order: reserved bytes
(stacks, code), one read-only blob, one arena of mutable buffers. Time is the *folded* timeline:
roles in execution order with the blocks laid on top of each other (docs/planning.md), because
equal blocks share their activation buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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

    source_offset: int  # in the weight's region
    slot: int  # 0 or 1
    first_record: int
    records: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """How one linear reads its weights: in place, or through a double-buffered tile."""

    op: str
    weight: str
    records_per_tile: int  # all of them when in place
    tile_buffer: str | None  # placement of both slots; None: read in place
    slot_size: int  # bytes from slot 0 to slot 1; 0 in place
    transfers: tuple[Transfer, ...]  # empty in place


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How attention reads the KV cache: in place, or in chunks of positions by DMA."""

    positions_per_chunk: int  # the context when in place
    tile_buffer: str | None
    slot_size: int


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

    def region(self, name: str) -> RegionPlan:
        """The region called `name`."""
        return next(region for region in self.regions if region.name == name)
