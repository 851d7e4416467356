"""Modelled cycles of a linear on the engine and on the cores, before anything is placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memory_planner.engine_chains import CHANNEL_STEP
from memory_planner.engine_jobs import LinearJob, linear_shape
from memory_planner.engine_time import job_cycles
from memory_planner.fused_costs import row_cycles
from memory_planner.target import TargetSpec
from memory_planner.tile_time import core_work
from memory_planner.tiling import linear_sizes
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import WeightLayout
from toolchain.model.program import ActMode, Arithmetic


@dataclass(frozen=True, slots=True)
class EngineCost:
    """Cycles of one linear that has the engine to itself."""

    stage: float  # the cores write the input buffer
    engine: float  # jobs, trigger to wake
    finish: float  # the cores turn accumulators into outputs
    cycles: float  # of the op


@dataclass(frozen=True, slots=True)
class _Work:
    """A linear on the engine, in cycles."""

    layout: EngineLayout
    jobs: float  # of the engine
    rows: float  # of the cores, besides what a piece costs whatever its size


def engine_cost(
    layout: EngineLayout,
    windows: int,
    target: TargetSpec,
    *,
    parts: int = 1,
    fused: bool = False,
) -> EngineCost:
    """The linear by itself, in the best number of parts up to `parts`; `fused`: in a fused op."""
    engine = target.engine
    assert engine is not None
    stage = stage_cycles(layout.engine_columns, target)
    finish = finish_cycles(layout, layout.rows, windows, target, fused=fused)
    work = _work(layout, windows, target, fused=fused)
    rest = stage + engine.issue_cycles + 2 * target.costs.barrier
    cycles = rest + _finished([work], target, parts, fused=fused)
    return EngineCost(stage, work.jobs + engine.cycles.wake, finish, cycles)


def shared_cost(
    layouts: Sequence[EngineLayout],
    windows: int,
    target: TargetSpec,
    *,
    parts: int = 1,
    gated: bool = False,
) -> float:
    """Cycles of linears of a fused op that read one staged vector, each in up to `parts` parts.

    `gated`: the rows of the first one become those of SiLU in the same pass.
    """
    engine, costs = target.engine, target.costs.fused
    assert engine is not None
    works = [_work(layout, windows, target, fused=True) for layout in layouts]
    if gated and costs is not None:
        silu = costs.work["silu"] * -(-layouts[0].rows // target.cores)
        works[0] = replace(works[0], rows=works[0].rows + silu)
    start = stage_cycles(layouts[0].engine_columns, target) + engine.issue_cycles
    return start + _finished(works, target, parts, fused=True) + 3 * target.costs.barrier


def _work(layout: EngineLayout, windows: int, target: TargetSpec, *, fused: bool) -> _Work:
    engine = target.engine
    assert engine is not None
    shape = linear_shape(LinearJob(layout, layout.channels, windows))
    jobs = layout.groups * job_cycles(shape, engine.cycles)
    rows = finish_cycles(layout, layout.rows, windows, target, fused=fused)
    return _Work(layout, jobs, rows - finish_cycles(layout, 0, windows, target, fused=fused))


def _finished(works: Sequence[_Work], target: TargetSpec, parts: int, *, fused: bool) -> float:
    """When linears are finished in the best number of parts each up to `parts`.

    While the engine computes a part, the cores finish the one before. The parts of the last linear
    become as much shorter as the cores are faster, those of the others are equal.
    """
    engine = target.engine
    assert engine is not None
    each = target.costs.barrier + finish_cycles(works[0].layout, 0, 1, target, fused=fused)
    ends = []
    for most in range(1, parts + 1):
        now = done = 0.0
        for work in works:
            steps = -(-work.layout.channels // CHANNEL_STEP)
            ratio = min(1.0, work.rows / work.jobs) if work is works[-1] else 1.0
            sizes = [max(ratio**part, 1 / steps) for part in range(min(most, steps))]
            for size in sizes:
                done += work.jobs * size / sum(sizes)
                rows = work.rows * size / sum(sizes)
                now = max(now, done + engine.cycles.wake) + rows + each
        ends.append(now)
    return min(ends)


def stage_cycles(columns: int, target: TargetSpec) -> float:
    """Cycles in which the cores stage a vector."""
    engine = target.engine
    assert engine is not None
    return engine.start_cycles + -(-columns // target.cores) * engine.stage_cycles


def finish_cycles(
    layout: EngineLayout, rows: int, windows: int, target: TargetSpec, *, fused: bool = False
) -> float:
    """Cycles in which the cores finish the `rows` rows of a piece: sums, tail, requantization.

    `fused`: inside a fused op, without what it makes of the rows.
    """
    engine, costs = target.engine, target.costs.fused
    assert engine is not None
    if fused and costs is not None:
        mode, unit = ActMode.A16 if windows == 2 else ActMode.A8, costs.unit(Arithmetic.PRECISE)
        row = row_cycles(unit, layout, mode, windows, 0.0)
        return costs.fixed["rows"] + -(-rows // target.cores) * row
    sums = layout.groups * windows * engine.sum_cycles
    product = costs.work["tail"] if costs is not None else target.costs.mac["byte"]
    tail = windows * layout.tail * product
    return engine.piece_cycles + -(-rows // target.cores) * (engine.row_cycles + sums + tail)


def core_cycles(layout: WeightLayout, target: TargetSpec) -> float:
    """Cycles of the linear on the cores with the best tiles, from the preferred weight memory."""
    rest, source = target.costs.barrier, target.placement["weights"][0]
    if target.tiling is None:
        share = -(-layout.records // target.cores)
        words = layout.size / 4 / target.cores
        return core_work(target, layout).cycles(share) + words * target.extra_load(source) + rest
    link = target.link(source)
    return linear_sizes(layout, link, target)[-1].cycles + rest
