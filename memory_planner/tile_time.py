"""Cycles of a sequence of tiles.

The planner chooses tiles by this formula and sim/cycle_model.py counts them by it, so that the two
cannot disagree.

With two slots tile i+1 travels while tile i is worked on: the first transfer is exposed, then every
tile costs the longer of its work and the next transfer, the last one its work. With one slot
transfer and work take turns, and the cores meet once more before a slot is filled again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from memory_planner.target import Link, SparseCosts, TargetSpec
from toolchain.model.packing import WeightLayout
from toolchain.model.program import ProgramShape
from toolchain.model.sparse_packing import UNIT, SparseLayout

TOGETHER = 4  # rows of v that are weighed at a time


@dataclass(frozen=True, slots=True)
class Run:
    """`count` equal tiles one after the other, at least one; cycles of each."""

    count: int
    transfer: float
    work: float


def sequence_cycles(runs: Sequence[Run], slots: int, barrier: float) -> float:
    """Cycles from the first transfer to the end of the last work; `slots` is 1 or 2."""
    if slots == 1:
        tiles = sum(run.count for run in runs)
        return sum(run.count * (run.transfer + run.work) for run in runs) + barrier * (tiles - 1)
    inside = sum((run.count - 1) * max(run.work, run.transfer) for run in runs)
    between = sum(max(run.work, following.transfer) for run, following in pairwise(runs))
    return runs[0].transfer + inside + between + runs[-1].work


def overlapped_cycles(transfers: Iterable[float], work: Iterable[float]) -> float:
    """Cycles of unequal tiles over two slots."""
    runs = [Run(1, *tile) for tile in zip(transfers, work, strict=True)]
    return sequence_cycles(runs, 2, 0.0)


def transfer_cycles(link: Link, size: int) -> float:
    """Cycles of one DMA transfer of `size` bytes, programming and waiting included."""
    return max(link.min_cycles, link.setup_cycles + size / link.bytes_per_cycle)


def pieces_cycles(link: Link, size: int, most: int) -> float:
    """Cycles of `size` bytes in transfers of at most `most` bytes."""
    pieces = (min(most, size - done) for done in range(0, size, most))
    return sum(transfer_cycles(link, piece) for piece in pieces)


def record_cycles(target: TargetSpec, layout: WeightLayout) -> float:
    """Cycles of one core for one record: all its rows, padding rows included."""
    lanes, costs = layout.packing.rows, target.costs
    if isinstance(layout, SparseLayout):
        return lanes * _sparse_row_cycles(costs.sparse, layout)
    macs = lanes * layout.columns * costs.mac[layout.packing.value]
    groups = lanes * layout.groups * costs.linear_group if layout.groups > 1 else 0.0
    return macs + groups + lanes * costs.linear_row


def _sparse_row_cycles(costs: SparseCosts, layout: SparseLayout) -> float:
    """Removed weights cost nothing; what is behind the last whole unit is slower."""
    inside = layout.pattern.kept_of(layout.columns // UNIT * UNIT)
    kernel = f"{layout.pattern.index_form}_{layout.packing.value}"
    groups = layout.groups * costs.group if layout.groups > 1 else 0.0
    work = inside * costs.kept[kernel] + (layout.kept - inside) * costs.tail
    return work + groups + costs.row


@dataclass(frozen=True, slots=True)
class CoreWork:
    """Cycles of one core for some records of a matrix in one go."""

    record: float
    call: float = 0.0  # what does not depend on the records

    def cycles(self, records: int) -> float:
        """Those of `records` records, 1 or more."""
        return self.call + records * self.record


def core_work(target: TargetSpec, layout: WeightLayout) -> CoreWork:
    """What a core does in a linear; only the dense kernels sum the vector up before they begin."""
    costs, record = target.costs, record_cycles(target, layout)
    once = 0.0 if isinstance(layout, SparseLayout) else layout.columns * costs.linear_column
    return CoreWork(record, costs.linear_call + once)


@dataclass(frozen=True, slots=True)
class LinearTiles:
    """What the time of a tiled linear depends on, besides the size of its tiles."""

    records: int
    record_size: int  # bytes
    work: CoreWork
    link: Link
    cores: int
    barrier: float

    def run(self, count: int, records: int) -> Run:
        """`count` tiles of `records` records, a barrier at the end of each."""
        travel = transfer_cycles(self.link, records * self.record_size)
        return Run(count, travel, self.barrier + self.work.cycles(-(-records // self.cores)))

    def cycles(self, per_tile: int, slots: int) -> float:
        """Cycles of all tiles of `per_tile` records, the last of which may have fewer."""
        full, rest = divmod(self.records, per_tile)
        runs = [self.run(full, per_tile)] if full else []
        if rest:
            runs.append(self.run(1, rest))
        return sequence_cycles(runs, slots, self.barrier)


def linear_tiles(layout: WeightLayout, link: Link, target: TargetSpec) -> LinearTiles:
    """The tiles of a matrix that reaches the cores over `link`."""
    return LinearTiles(
        records=layout.records,
        record_size=layout.record_size,
        work=core_work(target, layout),
        link=link,
        cores=target.cores,
        barrier=target.costs.barrier,
    )


def attention_runs(
    shape: ProgramShape, link: Link, target: TargetSpec, length: int, positions: int
) -> list[Run]:
    """The chunks of attention over `length` cache rows that come over `link`.

    Two passes: k with its scales, then v with its scales. A chunk ends with a barrier.
    """
    costs, heads = target.costs, -(-shape.heads // target.cores)
    visit = heads * (shape.head_dim * costs.attention_mac + costs.attention_score / 2)
    scale, row = 4 * shape.kv_heads, shape.kv_heads * shape.head_dim
    full, rest = divmod(length, positions)
    runs = []
    for chunks, count in ((full, positions), (1 if rest else 0, rest)):
        if chunks:
            travel = sum(transfer_cycles(link, count * size) for size in (row, scale))
            left = count % TOGETHER * shape.head_dim * costs.attention_left / 2
            work = count * visit + heads * (left + costs.attention_head)
            runs.append(Run(chunks, travel, costs.barrier + costs.attention_chunk + work))
    return runs * 2
