"""The registers of every job, once weights and buffers have addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memory_planner.engine_chains import CHANNEL_STEP, Chain, chains_of, sums_size
from memory_planner.engine_jobs import LinearJob, acc_geometry, linear_job, linear_shape
from memory_planner.engine_plan import ChainPlan, EngineLinear, EnginePlan, JobPlan, PiecePlan
from memory_planner.engine_registers import job_registers
from memory_planner.engine_schedule import chain_times
from memory_planner.engine_time import job_cycles
from memory_planner.footprint import ENGINE_INPUT, ENGINE_SUMS
from memory_planner.fused_ops import fits_function
from memory_planner.plan import Plan
from memory_planner.target import EngineSpec, TargetSpec, align_up
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import Op, Program

MOST_TILES = 8  # jobs into which a run of linears is divided, per group of columns


@dataclass(frozen=True, slots=True)
class Run:
    """Linears of a chain whose words follow each other in memory, so that one job covers them."""

    ops: tuple[Op, ...]
    layouts: tuple[EngineLayout, ...]
    words: int  # register 0 of the first word

    @property
    def channels(self) -> int:
        """Engine channels of all."""
        return sum(layout.channels for layout in self.layouts)


@dataclass(frozen=True, slots=True)
class Tile:
    """Channels [first, last) of a run, one job per group of columns."""

    run: Run
    first: int
    last: int
    sums: int  # offset in the accumulator buffer


def plan_engine(program: Program, target: TargetSpec, plan: Plan) -> EnginePlan | None:
    """All chains with their jobs; `plan` says where weights and buffers are, and how tables move.

    The channels of a run are divided among as many jobs, up to `MOST_TILES`, as give the shortest
    chain by the cost model: the cores finish the rows of one while the engine computes the next.
    """
    chains = chains_of(program, target)
    if target.engine is None or not chains:
        return None
    engine = target.engine
    names = dict.fromkeys((*engine.weights, engine.activations))
    best: dict[tuple[object, ...], int] = {}
    planned = []
    for chain in chains:
        runs = runs_of(program, target, plan, chain)
        tables = tuple(plan.placements[plan.linears[op.id].weight].region for op in chain.ops)
        key = chain.layouts, chain.windows, tuple(len(run.ops) for run in runs), tables
        if key not in best:
            best[key] = _best_count(program, target, plan, (chain, runs))
        planned.append(chain_plan(program, target, plan, (chain, runs, best[key])))
    addresses = {name: target.region(name).base for name in names}
    return EnginePlan(engine.name, engine.weight_base, addresses, tuple(planned))


def _best_count(
    program: Program, target: TargetSpec, plan: Plan, parts: tuple[Chain, list[Run]]
) -> int:
    """The number of tiles per run with the shortest chain, the fewest of equal ones.

    Linears of a block can only run with their neighbours as one function in few tiles, which saves
    more than many tiles do.
    """
    chain, runs = parts
    steps = max(-(-run.channels // CHANNEL_STEP) for run in runs)
    most = 1 if chain.tile_channels else min(MOST_TILES, steps)

    def cycles(count: int) -> tuple[bool, float]:
        candidate = chain_plan(program, target, plan, (chain, runs, count))
        pairs = zip(candidate.linears, chain.layouts, strict=True)
        jobs = len(candidate.jobs)
        alone = any(not fits_function(linear, layout, jobs) for linear, layout in pairs)
        end = chain_times(program, target, plan, candidate).linears[-1].span.end
        return alone and chain.ops[0].layer >= 0, end

    return min(range(1, most + 1), key=cycles)


def chain_plan(
    program: Program, target: TargetSpec, plan: Plan, parts: tuple[Chain, list[Run], int]
) -> ChainPlan:
    """A chain whose runs have so many tiles, unless sums take turns in two slots."""
    engine = target.engine
    assert engine is not None
    chain, runs, count = parts
    tiles = list(_tiles(chain, runs, count, target))
    base = target.region(engine.activations).base
    input_at = base + plan.placements[chain.buffer(ENGINE_INPUT)].offset
    sums_at = base + plan.placements[chain.buffer(ENGINE_SUMS)].offset
    jobs = tuple(
        job for tile in tiles for job in _jobs(chain, tile, (input_at, sums_at + tile.sums), engine)
    )
    linears = tuple(
        EngineLinear(
            op.id,
            program.weight_of(op).name,
            op.inputs[-1],
            tuple(_pieces(chain, tiles, op, layout)),
        )
        for op, layout in zip(chain.ops, chain.layouts, strict=True)
    )
    return ChainPlan(
        chain.buffer(ENGINE_INPUT), chain.input_stride, chain.buffer(ENGINE_SUMS), linears, jobs
    )


def runs_of(program: Program, target: TargetSpec, plan: Plan, chain: Chain) -> list[Run]:
    """Linears whose words are contiguous and alike, together; each group of columns on its own."""
    engine = target.engine
    assert engine is not None
    runs: list[Run] = []
    for op, layout in zip(chain.ops, chain.layouts, strict=True):
        place = plan.placements[program.weight_of(op).name]
        words = target.region(place.region).base + place.offset - engine.weight_base
        last = runs[-1] if runs else None
        if last and layout.groups == 1 and layout.bits == last.layouts[0].bits:
            end = last.words + sum(other.size for other in last.layouts)
            if words == end:
                runs[-1] = Run((*last.ops, op), (*last.layouts, layout), last.words)
                continue
        runs.append(Run((op,), (layout,), words))
    return runs


def _tiles(chain: Chain, runs: list[Run], count: int, target: TargetSpec) -> Iterator[Tile]:
    engine = target.engine
    assert engine is not None
    align = target.region(engine.activations).align
    cursor = index = 0
    for run in runs:
        layout = run.layouts[0]
        if chain.tile_channels:
            slot = align_up(sums_size(layout, chain.windows, chain.tile_channels), align)
            for first in range(0, run.channels, chain.tile_channels):
                last = min(first + chain.tile_channels, run.channels)
                yield Tile(run, first, last, index % 2 * slot)
                index += 1
            continue
        steps = -(-run.channels // CHANNEL_STEP)
        size = -(-steps // count) * CHANNEL_STEP
        for first in range(0, run.channels, size):
            last = min(first + size, run.channels)
            yield Tile(run, first, last, cursor)
            cursor += sums_size(layout, chain.windows, last - first)


def _jobs(
    chain: Chain, tile: Tile, addresses: tuple[int, int], engine: EngineSpec
) -> Iterator[JobPlan]:
    """One job per group of columns; `addresses` of the input buffer and of the tile's sums."""
    layout, count = tile.run.layouts[0], tile.last - tile.first
    wide = acc_geometry(layout, _width(chain, tile), chain.windows)
    job = LinearJob(layout, count, chain.windows)
    cycles = job_cycles(linear_shape(job), engine.cycles) + engine.cycles.wake
    for group in range(layout.groups):
        words = tile.run.words + group * layout.words_size + tile.first * layout.channel_size
        staged = addresses[0] + group * chain.input_stride
        placed = linear_job(job, words, staged, addresses[1] + group * wide.size)
        output = replace(placed.output, pixel=wide.pixel, row=wide.width * wide.pixel)
        yield JobPlan(job_registers(replace(placed, output=output)), cycles)


def _width(chain: Chain, tile: Tile) -> int:
    """Channels for which a tile has room: with several tokens, equally many in all tiles, so that a
    token's sums lie equally far behind those of the first one.
    """
    return tile.last - tile.first if chain.tokens == 1 else chain.tile_channels


def _pieces(chain: Chain, tiles: list[Tile], op: Op, layout: EngineLayout) -> Iterator[PiecePlan]:
    """The parts of a linear that the chain's tiles compute."""
    total = sum(tile.run.layouts[0].groups for tile in tiles)
    done = 0
    for tile in tiles:
        groups = tile.run.layouts[0].groups
        after = min(total, done + 2 * groups) if chain.tile_channels else total
        free = chain.tokens > 1 and done == 0  # nobody reads the second slot yet
        before = done + groups if chain.tile_channels and not free else after
        done += groups
        if op not in tile.run.ops:
            continue
        index = tile.run.ops.index(op)
        base = sum(other.channels for other in tile.run.layouts[:index])
        first, last = max(tile.first, base), min(tile.last, base + layout.channels)
        if first >= last:
            continue
        geometry = acc_geometry(layout, _width(chain, tile), chain.windows)
        yield PiecePlan(
            first_channel=first - base,
            channels=last - first,
            accumulators=tile.sums + 4 * (first - tile.first),
            pixel_stride=geometry.pixel,
            group_stride=geometry.size,
            needed=done,
            before=before,
            after=after,
        )
