"""Cycles of one op: how its work is divided among the cores, and what waits for memory.

Every formula is an estimate from the constants of the target file: cycles of one core per unit of
work, divided as the kernels divide it (rows of a record, heads, or elements; the fullest core
counts). Operands in a memory that is slower than the one in which kernels were measured add the
difference of one load per access.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from memory_planner.engine_plan import ChainPlan
from memory_planner.engine_schedule import chain_times
from memory_planner.footprint import SCRATCH_PREFIX
from memory_planner.plan import Plan, StreamPlan
from memory_planner.target import ENGINE_PORT, Costs
from memory_planner.tile_time import (
    LinearTiles,
    attention_runs,
    core_work,
    linear_tiles,
    overlapped_cycles,
    pieces_cycles,
    sequence_cycles,
)
from sim.op_cycles import Context, OpCycles
from toolchain.model.engine_packing import WORD_SIZE
from toolchain.model.program import Kind, Op, OpKind

# Accesses per unit of work, counted in the kernels' source and rounded up.
ACTIVATION_ACCESSES = 2
SCRATCH_ACCESSES = {OpKind.ATTENTION: 6}
DEFAULT_SCRATCH_ACCESSES = 3
TABLE_LOADS = {OpKind.SWIGLU: 2}


def _pipelined(
    costs: Costs,
    dma: Sequence[float],
    work: Sequence[float],
    rest: float,
    moved: tuple[tuple[str, int], ...],
) -> OpCycles:
    """An op of two slots with a barrier at the end of each tile; `rest` is overhead at its end."""
    total = overlapped_cycles(dma, work) + rest
    overhead = len(work) * costs.barrier + rest
    return OpCycles(
        sum(work) + rest, sum(dma), total, moved, tuple(dma), tuple(work), overhead=overhead
    )


def op_cycles(context: Context, op: Op) -> OpCycles:
    """The estimate of one op, the barrier that ends it included."""
    if op.kind is OpKind.LINEAR:
        return _linear(context, op)
    if op.kind is OpKind.ATTENTION:
        return attention_cycles(context, op, context.target.costs.op_end(op.kind.value))
    streams = context.plan.streams
    if streams and context.plan.placements[op.inputs[0]].region == streams.region:
        return _embed_off_chip(context, op, streams)
    op_end = context.target.costs.op_end(op.kind.value)
    cycles = _elementwise(context, op) + stalls(context, op) + op_end
    return OpCycles(cycles, 0.0, cycles, overhead=op_end)


def _embed_off_chip(context: Context, op: Op, streams: StreamPlan) -> OpCycles:
    """The record of the token travels to the staging buffer, where the cores read it."""
    plan, target = context.plan, context.target
    size = context.program.layout_of(op).record_size
    link = target.link_between(streams.region, plan.placements[streams.buffer].region)
    work = _elementwise(context, op) + stalls(context, op) + target.costs.barrier
    travel = (pieces_cycles(link, size, streams.max_transfer),)
    moved = ((link.name, size),)
    found = _pipelined(target.costs, travel, (work,), target.costs.op_end(op.kind.value), moved)
    return replace(found, off_chip=True)


def kv_bytes(context: Context) -> int:
    """Bytes of KV cache that one ATTENTION op must read, each row and scale once."""
    shape = context.program.shape
    return (context.position + 1) * 2 * shape.kv_heads * (shape.head_dim + 4)


def _share(context: Context, units: int) -> int:
    """Units of the core that has most."""
    return -(-units // context.target.cores)


def _work(context: Context, op: Op) -> int:
    """Units of work of an op: elements, or scores for attention."""
    shape = context.program.shape
    by_kind = {
        OpKind.EMBED: shape.hidden,
        OpKind.ROPE: shape.heads * shape.head_dim,
        OpKind.KV_APPEND: shape.kv_heads * shape.head_dim,
        OpKind.ATTENTION: shape.heads * (context.position + 1),
        OpKind.ATTENTION_MERGE: shape.heads * shape.head_dim,
    }
    return by_kind.get(op.kind, prod(context.program.tensors[op.inputs[0]].shape))


def reduction_cycles(costs: Costs, cost: float, elements: int, cores: int) -> float:
    """Cycles of `elements`, split over the cores, with one exchange between these."""
    return cost * -(-elements // cores) + costs.reduction


def _elementwise(context: Context, op: Op) -> float:
    costs, shape = context.target.costs, context.program.shape
    elements, cores = _work(context, op), context.target.cores
    share = _share(context, elements)
    heads = _share(context, shape.heads) * shape.head_dim
    kv_heads = _share(context, shape.kv_heads) * shape.head_dim
    by_kind = {
        OpKind.EMBED: costs.embed * share,
        OpKind.RMSNORM: reduction_cycles(costs, costs.rmsnorm, elements, cores),
        OpKind.ROPE: (costs.rope + costs.quantize) * heads,
        OpKind.KV_APPEND: (costs.kv_append + costs.quantize) * 2 * kv_heads,
        OpKind.ATTENTION_MERGE: (costs.attention_merge + costs.quantize) * heads + costs.reduction,
        OpKind.RESIDUAL_ADD: costs.residual_add * share,
        OpKind.SWIGLU: reduction_cycles(costs, costs.swiglu, elements, cores),
        OpKind.ARGMAX: reduction_cycles(costs, costs.argmax, elements, cores),
        OpKind.QUANTIZE: reduction_cycles(costs, costs.quantize, elements, cores),
        OpKind.GATHER: costs.gather * share,
    }
    return by_kind[op.kind]


def _linear(context: Context, op: Op) -> OpCycles:
    program, plan, target = context.program, context.plan, context.target
    if program.engine_layout_of(op):
        return _engine_linear(context, op)
    layout, how = program.layout_of(op), plan.linears[op.id]
    region = plan.source(how.weight, op.layer).region
    link = target.link(region)
    moved, op_end = ((link.name, layout.size),), target.costs.op_end(op.kind.value)
    rest = stalls(context, op) + op_end
    if not how.transfers:
        words = layout.size / 4 / target.cores
        rest += words * context.target.extra_load(region)
        compute = core_work(target, layout).cycles(_share(context, layout.records)) + rest
        return OpCycles(compute, 0.0, compute, moved, overhead=op_end)
    tiles = linear_tiles(layout, link, target)
    runs = [tiles.run(1, tile.records) for tile in how.transfers]
    dma, work = tuple(run.transfer for run in runs), tuple(run.work for run in runs)
    parts = tuple(_parts(context, op, tiles))
    tiled = sum(each for _, each in parts) or tiles.cycles(how.records_per_tile, how.slots)
    total = tiled + rest
    overhead = len(work) * target.costs.barrier + op_end
    compute, slots = sum(work) + rest, how.slots
    return OpCycles(compute, sum(dma), total, moved, dma, work, slots, parts, overhead=overhead)


def _parts(context: Context, op: Op, tiles: LinearTiles) -> Iterator[tuple[int, float]]:
    """Tiles and cycles of the records of each stream of a head that is off chip."""
    streams, how = context.plan.streams, context.plan.linears[op.id]
    off_chip = streams and context.plan.placements[how.weight].region == streams.region
    if streams is None or not off_chip or op.layer >= 0:
        return
    for first in range(0, tiles.records, streams.part_records):
        part = replace(tiles, records=min(streams.part_records, tiles.records - first))
        count = -(-part.records // how.records_per_tile)
        yield count, part.cycles(how.records_per_tile, how.slots)


def _engine_linear(context: Context, op: Op) -> OpCycles:
    """The op's part of its chain: what the cores do, what they wait for, the table's transfers."""
    program, plan, target = context.program, context.plan, context.target
    chain = chain_of(plan, op)
    assert chain is not None
    times = chain_times(program, target, plan, chain)
    own = next(each for each in times.linears if each.op == op.id)
    how, rest = plan.linears[op.id], stalls(context, op)
    table: tuple[tuple[str, int], ...] = ()
    if how.transfers:
        link = target.link(plan.placements[how.weight].region)
        table = ((link.name, program.tensors[how.weight].size),)
    words = WORD_SIZE * sum(job.words for job in own.jobs)
    return OpCycles(
        compute=sum(phase.span.cycles for phase in own.phases) + rest,
        dma=sum(span.cycles for span in own.tables),
        total=own.span.cycles + rest,
        moved=(*table, (ENGINE_PORT, words)),
        overhead=sum(phase.barriers for phase in own.phases),
        times=own,
        on_engine=True,
    )


def chain_of(plan: Plan, op: Op) -> ChainPlan | None:
    """The chain of jobs that computes a linear; None when the cores do."""
    chains = plan.engine.chains if plan.engine else ()
    return next((c for c in chains if any(each.op == op.id for each in c.linears)), None)


def attention_cycles(context: Context, op: Op, op_end: float) -> OpCycles:
    """Two passes over the cache: k with its scales, then v with its scales.

    `op_end` are cycles that belong to no score.
    """
    target, shape, how = context.target, context.program.shape, context.plan.attention
    length = context.position + 1
    region = context.plan.placements[op.inputs[2]].region
    near = target.tiling is not None and region == target.tiling.region
    link = target.link(target.placement["state"][0] if near else region)
    moved = () if near else ((link.name, kv_bytes(context)),)
    costs, rest = target.costs, stalls(context, op) + op_end
    if how.tile_buffer is None:
        rest += kv_bytes(context) / target.cores * context.target.extra_load(region)
        runs = attention_runs(shape, link, target, length, length)
        compute = sum(run.work - costs.barrier - costs.attention_chunk for run in runs) + rest
        return OpCycles(compute, 0.0, compute, moved, overhead=op_end)
    runs = attention_runs(shape, link, target, length, how.positions_per_chunk)
    dma = tuple(run.transfer for run in runs for _ in range(run.count))
    work = tuple(run.work for run in runs for _ in range(run.count))
    total = sequence_cycles(runs, how.slots, costs.barrier) + rest
    overhead = len(work) * costs.barrier + op_end
    compute, slots = sum(work) + rest, how.slots
    return OpCycles(compute, sum(dma), total, moved, dma, work, slots, overhead=overhead)


def stalls(context: Context, op: Op) -> float:
    """Cycles of the fullest core for operands outside the fast memory, tiles excepted."""
    plan = context.plan
    total = 0.0
    for name, accesses in _accesses(context, op):
        region = plan.placements[name].region
        if plan.streams and region == plan.streams.region:  # read from its copy
            region = plan.placements[plan.streams.buffer].region
        total += accesses / context.target.cores * context.target.extra_load(region)
    return total


def _accesses(context: Context, op: Op) -> Iterator[tuple[str, int]]:
    """Loads and stores of all cores by buffer; not weights and cache rows, which are moved."""
    program, work = context.program, _work(context, op)
    is_linear = op.kind is OpKind.LINEAR
    on_engine = program.engine_layout_of(op) is not None
    records = program.layout_of(op).records if is_linear and not on_engine else 1
    for name in (*op.inputs, *op.outputs):
        spec = program.tensors[name]
        if spec.kind is Kind.ACTIVATION:
            repeats = records if name in op.inputs else 1
            yield name, prod(spec.shape) * (repeats if is_linear else ACTIVATION_ACCESSES)
        elif not is_linear and (spec.kind is Kind.CONST or op.kind is OpKind.EMBED):
            yield name, work * TABLE_LOADS.get(op.kind, 1)
        elif op.kind is OpKind.KV_APPEND:
            yield name, work
    if SCRATCH_PREFIX + op.role in context.plan.placements:
        yield (
            SCRATCH_PREFIX + op.role,
            work * SCRATCH_ACCESSES.get(op.kind, DEFAULT_SCRATCH_ACCESSES),
        )
