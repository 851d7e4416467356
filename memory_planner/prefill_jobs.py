"""Engine jobs of several tokens: a pass over the weights serves a batch of a prompt.

A 3 x 3 job has room for four windows, two tokens of 16 bits or four of 8; a 1 x 1 job, which needs
a second copy of the words (prompt_words.py), for 16 tokens. Their sums take room, so tiles of
channels take turns in two slots, which lie, like the images of the vectors, in what nothing else
needs until the blocks are done. Sums begin where those of a step do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from memory_planner.allocate import Buffer
from memory_planner.engine_chains import (
    CHANNEL_STEP,
    Chain,
    chains_of,
    sums_limit,
    sums_size,
    windows_of,
)
from memory_planner.engine_job_plan import Run, chain_plan, even_cuts, runs_of
from memory_planner.engine_jobs import stage_geometry
from memory_planner.engine_plan import ChainPlan
from memory_planner.engine_registers import shape_of
from memory_planner.engine_time import job_cycles
from memory_planner.footprint import ENGINE_INPUT, ENGINE_SUMS
from memory_planner.fused_costs import row_cycles
from memory_planner.fused_ops import FusedKind, fused_block
from memory_planner.plan import Placement, Plan
from memory_planner.target import TargetSpec, align_up
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import Program
from toolchain.model.silent_parts import whole_block

MOST_WINDOWS = 4  # of a 3 x 3 job
MOST_TABLES = 12 << 10  # bytes of registers and notes, among code and constants
JOB_SIZE = 96  # 24 registers; equal blocks share them
NOTE_SIZE = 12  # sizeof(edgec_engine_note), for each job of every block
LARGEST_BATCH = 16  # twice as many would save at most a 32nd of what a batch can save
MOST_PIECES = 8  # of a linear, so that its rows need few runs


@dataclass(frozen=True, slots=True)
class BatchChains:
    """The chains of all blocks for jobs of `tokens` tokens."""

    tokens: int
    chains: tuple[Chain, ...]

    def buffers(self, plan: Plan, end: int) -> Iterator[Buffer]:
        """Images, from the first op of a token to `end` in folded time, and sums, which lie where
        those of a step do: a prompt in batches has no others.
        """
        found: dict[str, Buffer] = {}
        for chain in self.chains:
            times = [plan.roles.index(op.role) for op in chain.ops]
            image, sums = chain.buffer(ENGINE_INPUT), chain.buffer(ENGINE_SUMS)
            found[image] = Buffer(image, chain.input_size, 0, end)
            found[sums] = Buffer(sums, chain.sums_size, min(times), max(times) + 1)
        yield from found.values()


def is_one_function(program: Program, plan: Plan) -> bool:
    """Whether attention and feed-forward of a block run as fused ops, and nothing else is in it."""
    if plan.engine is None or plan.streams is not None:
        return False
    ops = fused_block(program, plan).ops
    kinds = [op.kind for op in ops]
    whole = bool(ops) and (ops[0].first, ops[-1].last) == (0, len(whole_block(program)))
    return kinds == [FusedKind.ATTENTION, FusedKind.MLP] and whole


def batch_sizes(program: Program) -> Sequence[int]:
    """Tokens that a job can serve, the largest number first; more from second copies of words."""
    linears = [op for op in program.ops if op.layer >= 0 and program.engine_layout_of(op)]
    most = MOST_WINDOWS // max(map(windows_of, linears))
    if all(map(program.prompt_words_of, linears)):
        most = LARGEST_BATCH
    return [size for size in (16, 8, 4, 2) if size <= min(most, program.shape.context)]


@dataclass(frozen=True, slots=True)
class TiledChain:
    """A chain of several tokens in all tiles that it can have, those with which it ends first."""

    ways: tuple[Chain, ...]

    def within(self, limit: int) -> Chain | None:
        """The best way whose two slots take no more than `limit` bytes."""
        return next((each for each in self.ways if each.sums_size <= limit), None)


def tiled_chains(
    program: Program, target: TargetSpec, plan: Plan, tokens: int
) -> tuple[TiledChain, ...]:
    """The chains of all blocks for jobs of `tokens` tokens."""
    known: dict[tuple[object, ...], list[int]] = {}
    found = []
    for single in chains_of(program, target):
        if single.ops[0].layer < 0:
            continue
        chain = _of_tokens(program, single, tokens, target)
        runs = runs_of(program, target, plan, chain)
        key = chain.ops[0].role, chain.layouts, tuple(len(run.ops) for run in runs)
        if key not in known:
            sizes = {
                size: _unplaced_cycles(program, target, plan, _tiled(chain, size, target), runs)
                for size in _tile_sizes(chain, runs)
                if _tiled(chain, size, target).sums_size <= sums_limit(target)
            }
            known[key] = sorted(sizes, key=lambda size: sizes[size])
        found.append(TiledChain(tuple(_tiled(chain, size, target) for size in known[key])))
    return tuple(found)


def batch_chains(chains: Sequence[TiledChain], tokens: int, limit: int) -> BatchChains | None:
    """Each chain in the tiles with which it ends first; None where two slots take more than `limit`
    bytes in any tiles.
    """
    best = [chain.within(limit) for chain in chains]
    fitting = tuple(chain for chain in best if chain)
    return BatchChains(tokens, fitting) if len(fitting) == len(best) else None


def _of_tokens(program: Program, chain: Chain, tokens: int, target: TargetSpec) -> Chain:
    """A chain for several tokens, without tiles yet; from the second copies of words, if any."""
    assert target.engine is not None
    copies = [program.prompt_words_of(op) for op in chain.ops]
    layouts = tuple(
        each.layout for each in copies if each and isinstance(each.layout, EngineLayout)
    )
    if layouts:
        chain = replace(chain, layouts=layouts)
    chain = replace(chain, tokens=tokens, sums_size=0, in_turn=False)
    stage = stage_geometry(chain.layouts[0], chain.windows)
    align = target.region(target.engine.activations).align
    return replace(chain, stage=stage, input_stride=align_up(stage.size, align))


def _tile_sizes(chain: Chain, runs: Sequence[Run]) -> list[int]:
    """Channels of a tile: one tile per run where a channel has several rows."""
    most = max(-(-run.channels // CHANNEL_STEP) for run in runs)
    if any(layout.shared > 1 for layout in chain.layouts):
        return [most * CHANNEL_STEP]
    longest = max(-(-layout.channels // CHANNEL_STEP) for layout in chain.layouts)
    least = -(-longest // (MOST_PIECES - 1))  # a linear may begin and end within a tile
    return [steps * CHANNEL_STEP for steps in range(least, most + 1)]


def _tiled(chain: Chain, channels: int, target: TargetSpec) -> Chain:
    """The chain with two slots for the sums of so many channels."""
    assert target.engine is not None
    align = target.region(target.engine.activations).align
    size = 2 * align_up(sums_size(chain.layouts[0], chain.windows, channels), align)
    return replace(chain, tile_channels=channels, sums_size=size)


def _unplaced_cycles(
    program: Program, target: TargetSpec, plan: Plan, chain: Chain, runs: list[Run]
) -> float:
    """Modelled cycles of a chain of several tokens, wherever its image lies."""
    image = chain.buffer(ENGINE_INPUT)
    region = plan.placements[chain.buffer(ENGINE_SUMS)].region
    places = {**plan.placements, image: Placement(image, region, 0, 0, 0, 0)}
    parts = chain, runs, even_cuts(chain, runs, 1)
    planned = chain_plan(program, target, replace(plan, placements=places), parts)
    return chain_cycles(program, target, plan, planned, chain.tokens)


def chain_cycles(
    program: Program, target: TargetSpec, plan: Plan, chain: ChainPlan, tokens: int = 0
) -> float:
    """Modelled cycles of the jobs of a chain inside a fused op and of the rows of `tokens` tokens,
    from when the vectors are staged. 0 tokens: jobs of a step, whose rows wait for whole linears.
    """
    costs, batch, engine = target.costs.fused, target.costs.batch, target.engine
    assert costs is not None
    assert batch is not None
    assert engine is not None
    unit = costs.unit(program.arithmetic)
    now, issued, ends = 0.0, 0, [0.0]

    def issue(limit: int) -> None:
        nonlocal issued
        while issued < min(limit, len(chain.jobs)):
            begin = max(now, ends[-1])
            ends.append(begin + job_cycles(shape_of(chain.jobs[issued].registers), engine.cycles))
            issued += 1

    done = 0
    ops = {op.id: op for op in program.ops}
    for linear in chain.linears:
        layout, op = program.tensors[linear.weight].layout, ops[linear.op]
        assert isinstance(layout, EngineLayout)
        assert op.mode is not None
        extra = target.extra_load(plan.placements[plan.linears[op.id].weight].region)
        row = row_cycles(unit, layout, op.mode, windows_of(op), extra)
        for piece in linear.pieces if tokens else linear.pieces[-1:]:
            issue(piece.before)
            if piece.needed > done:
                done = piece.needed
                wake = ends[done] + engine.cycles.wake
                now = max(now + costs.fixed["wait"], wake) + target.costs.barrier
                issue(piece.after)
            rows = min(piece.channels * layout.shared, layout.rows) if tokens else layout.rows
            fixed = costs.fixed["rows"] + (batch.piece if tokens else 0.0)
            now += max(1, tokens) * (-(-rows // target.cores) * row + fixed)
    return now


def saved_by_jobs(
    program: Program, target: TargetSpec, plan: Plan, chains: Sequence[ChainPlan], tokens: int
) -> float:
    """Modelled cycles that `tokens` tokens save together when they go through `chains`."""
    singles = {chain.linears[0].op: chain for chain in plan.engine.chains} if plan.engine else {}
    return sum(
        tokens * chain_cycles(program, target, plan, singles[chain.linears[0].op])
        - chain_cycles(program, target, plan, chain, tokens)
        for chain in chains
    )


def tables_size(program: Program, jobs: int) -> int:
    """Bytes that so many jobs of all blocks take in tables of the generated code."""
    return -(-jobs // program.shape.layers) * JOB_SIZE + jobs * NOTE_SIZE


def jobs_and_savings(
    program: Program, target: TargetSpec, plan: Plan, batch: BatchChains
) -> tuple[int, float]:
    """The number of jobs of all blocks, and the modelled cycles that they save a batch; the
    buffers have addresses in `plan`.
    """
    known: dict[tuple[object, ...], tuple[int, float]] = {}
    jobs, saved = 0, 0.0
    for chain in batch.chains:
        key = chain.ops[0].role, chain.layouts, len(chain.ops), chain.tile_channels
        if key not in known:
            planned = _planned(program, target, plan, chain)
            cycles = saved_by_jobs(program, target, plan, [planned], batch.tokens)
            known[key] = len(planned.jobs), cycles
        jobs, saved = jobs + known[key][0], saved + known[key][1]
    return jobs, saved


def planned_chains(
    program: Program, target: TargetSpec, plan: Plan, batch: BatchChains
) -> tuple[ChainPlan, ...]:
    """The registers of all jobs, once their buffers have addresses in `plan`."""
    return tuple(_planned(program, target, plan, chain) for chain in batch.chains)


def _planned(program: Program, target: TargetSpec, plan: Plan, chain: Chain) -> ChainPlan:
    runs = runs_of(program, target, plan, chain)
    return chain_plan(program, target, plan, (chain, runs, even_cuts(chain, runs, 1)))
