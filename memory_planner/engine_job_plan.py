"""The registers of every job, once weights and buffers have addresses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product

from memory_planner.engine_chains import CHANNEL_STEP, Chain, chains_of, sums_size
from memory_planner.engine_jobs import LinearJob, acc_geometry, linear_job, linear_shape
from memory_planner.engine_plan import ChainPlan, EngineLinear, EnginePlan, JobPlan, PiecePlan
from memory_planner.engine_registers import job_registers
from memory_planner.engine_schedule import chain_times
from memory_planner.engine_time import job_cycles
from memory_planner.footprint import ENGINE_INPUT, ENGINE_SUMS
from memory_planner.fused_ops import MOST_JOBS, fits_function
from memory_planner.plan import Plan
from memory_planner.target import EngineSpec, TargetSpec, align_up
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import Op, Program

LAST_STEPS = (1, 2, 4)  # of channels in the last part of a chain
BETWEEN_TIMES = (0, 2, 4)  # the last part: the one in front of it, or none
Cuts = tuple[tuple[int, ...], ...]  # per run of a chain, the channels where its jobs end


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

    Of the ways to divide chains among jobs the one with the shortest chain by the cost model is
    taken: the cores finish rows of one job while the engine computes the next.
    """
    chains = chains_of(program, target)
    if target.engine is None or not chains:
        return None
    engine = target.engine
    names = dict.fromkeys((*engine.weights, engine.activations))
    best: dict[tuple[object, ...], Cuts] = {}
    vectors = Counter(_vector(chain) for chain in chains)
    planned = []
    for chain in chains:
        runs = runs_of(program, target, plan, chain)
        tables = tuple(plan.placements[plan.linears[op.id].weight].region for op in chain.ops)
        key = chain.layouts, chain.windows, tuple(len(run.ops) for run in runs), tables
        if key not in best:
            whole = vectors[_vector(chain)] == 1
            best[key] = _best_cuts(program, target, plan, (chain, runs), whole)
        planned.append(chain_plan(program, target, plan, (chain, runs, best[key])))
    addresses = {name: target.region(name).base for name in names}
    return EnginePlan(engine.name, engine.weight_base, addresses, tuple(planned))


def _vector(chain: Chain) -> tuple[object, ...]:
    """What the linears of a chain read."""
    return chain.ops[0].layer, *chain.ops[0].inputs[:2]


def _most_tiles(chain: Chain, runs: list[Run]) -> int:
    steps = max(-(-run.channels // CHANNEL_STEP) for run in runs)
    return 1 if chain.tile_channels else min(MOST_JOBS, steps)


def even_cuts(chain: Chain, runs: list[Run], count: int) -> Cuts:
    """Whole steps of channels in `count` tiles per run, or those that take turns in two slots."""
    found = []
    for run in runs:
        steps = -(-run.channels // CHANNEL_STEP)
        size = chain.tile_channels or -(-steps // count) * CHANNEL_STEP
        found.append((*range(size, run.channels, size), run.channels))
    return tuple(found)


def _cuts_in_functions(runs: list[Run]) -> list[Cuts]:
    """Ways to divide the linears of each run among jobs, where they run in one function.

    Jobs end between linears; all but the last may be halved, so that the cores begin early, and the
    last one is divided further: the rows of its last part alone are finished when the engine has
    nothing left to do. With groups or a tail the rows of a linear are finished at once.
    """
    choices = []
    for run in runs:
        ends = tuple(accumulate(layout.channels for layout in run.layouts))
        kept = product((False, True), repeat=len(ends) - 1)
        choices.append([tuple(e for e, k in zip(ends, (*k, True), strict=True) if k) for k in kept])
    found: list[Cuts] = []
    layouts = [layout for run in runs for layout in run.layouts]
    by_piece = all(layout.groups == 1 and not layout.tail for layout in layouts)
    for *others, last in product(*choices):
        first = last[-2] if len(last) > 1 else 0
        parts_of_last = _parts(first, last[-1]) if by_piece else [(last[-1],)]
        for parts, halved in product(parts_of_last, (False, True) if by_piece else (False,)):
            if halved:
                found.append((*map(_halved, others), (*_halved(last[:-1]), *parts)))
            else:
                found.append((*others, (*last[:-1], *parts)))
    return list(dict.fromkeys(found))


def _halved(ends: tuple[int, ...]) -> tuple[int, ...]:
    """Every job as two, where there are channels for two."""
    found: list[int] = []
    for first, end in pairwise((0, *ends)):
        half = first + -(-(end - first) // (2 * CHANNEL_STEP)) * CHANNEL_STEP
        found += [half, end] if half < end else [end]
    return tuple(found)


def _parts(first: int, end: int) -> list[tuple[int, ...]]:
    """Ways to divide channels: as one, or with a short last part, and one between that is some
    times as long, as cores finish rows faster than the engine computes their sums.
    """
    steps = -(-(end - first) // CHANNEL_STEP)
    found: list[tuple[int, ...]] = [(end,)]
    for last, times in product(LAST_STEPS, BETWEEN_TIMES):
        lengths = [last * (1 + times), last] if times else [last]
        if lengths[0] < steps:
            found.append((*(first + (steps - length) * CHANNEL_STEP for length in lengths), end))
    return found


def _best_cuts(
    program: Program, target: TargetSpec, plan: Plan, parts: tuple[Chain, list[Run]], whole: bool
) -> Cuts:
    """The way with the shortest chain, the first one of equal ones.

    A chain of a block that is all that reads its vector (`whole`) runs with its neighbours as one
    function if it fits.
    """
    chain, runs = parts

    def plan_of(cuts: Cuts) -> ChainPlan:
        return chain_plan(program, target, plan, (chain, runs, cuts))

    def is_function(cuts: Cuts) -> bool:
        found = plan_of(cuts)
        pairs = zip(found.linears, chain.layouts, strict=True)
        return all(fits_function(each, layout, len(found.jobs)) for each, layout in pairs)

    ways = []
    if whole and chain.ops[0].layer >= 0 and not chain.tile_channels:
        ways = [cuts for cuts in _cuts_in_functions(runs) if is_function(cuts)]
    in_function = bool(ways)
    ways = ways or [even_cuts(chain, runs, n) for n in range(1, _most_tiles(chain, runs) + 1)]

    def end(cuts: Cuts) -> float:
        times = chain_times(program, target, plan, plan_of(cuts), fused=in_function)
        return times.linears[-1].span.end

    return min(ways, key=end)


def chain_plan(
    program: Program, target: TargetSpec, plan: Plan, parts: tuple[Chain, list[Run], Cuts]
) -> ChainPlan:
    """A chain whose runs are divided so."""
    engine = target.engine
    assert engine is not None
    chain, runs, cuts = parts
    tiles = list(_tiles(chain, runs, cuts, target))
    base = target.region(engine.activations).base
    input_at = base + plan.placements[chain.buffer(ENGINE_INPUT)].offset
    sums_at = base + plan.placements[chain.buffer(ENGINE_SUMS)].offset
    jobs = tuple(
        job for tile in tiles for job in _jobs(chain, tile, (input_at, sums_at + tile.sums), engine)
    )
    linears = tuple(
        EngineLinear(
            op.id,
            program.words_of(op, layout).name,
            op.inputs[-1],
            tuple(_pieces(chain, tiles, op, layout)),
        )
        for op, layout in zip(chain.ops, chain.layouts, strict=True)
    )
    return ChainPlan(
        chain.buffer(ENGINE_INPUT), chain.input_stride, chain.buffer(ENGINE_SUMS), linears, jobs
    )


def runs_of(program: Program, target: TargetSpec, plan: Plan, chain: Chain) -> list[Run]:
    """Linears whose words are contiguous and alike, together; each group of columns on its own, and
    each linear that has to wait for its turn.
    """
    engine = target.engine
    assert engine is not None
    runs: list[Run] = []
    for op, layout in zip(chain.ops, chain.layouts, strict=True):
        place = plan.placements[program.words_of(op, layout).name]
        words = target.region(place.region).base + place.offset - engine.weight_base
        last = runs[-1] if runs else None
        joins = layout.groups == 1 and not chain.in_turn
        if last and joins and layout.bits == last.layouts[0].bits:
            end = last.words + sum(other.size for other in last.layouts)
            if words == end:
                runs[-1] = Run((*last.ops, op), (*last.layouts, layout), last.words)
                continue
        runs.append(Run((op,), (layout,), words))
    return runs


def _tiles(chain: Chain, runs: list[Run], cuts: Cuts, target: TargetSpec) -> Iterator[Tile]:
    engine = target.engine
    assert engine is not None
    align = target.region(engine.activations).align
    cursor = index = 0
    for run, ends in zip(runs, cuts, strict=True):
        layout = run.layouts[0]
        slot = align_up(sums_size(layout, chain.windows, chain.tile_channels), align)
        cursor = 0 if chain.in_turn else cursor
        for first, last in pairwise((0, *ends)):
            yield Tile(run, first, last, index % 2 * slot if chain.tile_channels else cursor)
            cursor += sums_size(layout, chain.windows, last - first)
            index += 1


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
    ends = accumulate(tile.run.layouts[0].groups for tile in tiles)
    ends_of_runs = {tile.run.words: end for tile, end in zip(tiles, ends, strict=True)}
    done = 0
    for tile in tiles:
        groups = tile.run.layouts[0].groups
        total = ends_of_runs[(tile if chain.in_turn else tiles[-1]).run.words]
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
