"""Modelled cycles of a linear on the engine and on the cores, before anything is placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_planner.engine_chains import CHANNEL_STEP
from memory_planner.engine_jobs import LinearJob, linear_shape
from memory_planner.engine_time import job_cycles
from memory_planner.target import TargetSpec
from memory_planner.tile_time import core_work
from memory_planner.tiling import linear_sizes
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import WeightLayout


@dataclass(frozen=True, slots=True)
class EngineCost:
    """Cycles of one linear that has the engine to itself."""

    stage: float  # the cores write the input buffer
    engine: float  # jobs, trigger to wake
    finish: float  # the cores turn accumulators into outputs
    cycles: float  # of the op


def engine_cost(
    layout: EngineLayout, windows: int, target: TargetSpec, *, parts: int = 1
) -> EngineCost:
    """The linear by itself, in the best number of equal parts up to `parts`.

    While the engine computes a part, the cores finish the one before.
    """
    engine = target.engine
    assert engine is not None
    job = LinearJob(layout, layout.channels, windows)
    jobs = layout.groups * job_cycles(linear_shape(job), engine.cycles) + engine.cycles.wake
    stage = stage_cycles(layout.engine_columns, target)
    finish = finish_cycles(layout, layout.rows, windows, target)
    each = target.costs.barrier + engine.piece_cycles
    most = min(parts, -(-layout.channels // CHANNEL_STEP))
    both = min(
        max(jobs + finish / n, jobs / n + finish) + (n - 1) * each for n in range(1, most + 1)
    )
    rest = stage + engine.issue_cycles + 3 * target.costs.barrier
    return EngineCost(stage, jobs, finish, rest + both)


def shared_cost(layouts: Sequence[EngineLayout], windows: int, target: TargetSpec) -> float:
    """Cycles of linears that read one staged vector, a job each.

    While the engine computes one, the cores finish the one before.
    """
    engine = target.engine
    assert engine is not None
    done = now = stage_cycles(layouts[0].engine_columns, target) + engine.issue_cycles
    for layout in layouts:
        shape = linear_shape(LinearJob(layout, layout.channels, windows))
        done += layout.groups * job_cycles(shape, engine.cycles)
        finish = finish_cycles(layout, layout.rows, windows, target)
        now = max(now, done + engine.cycles.wake) + finish + 2 * target.costs.barrier
    return now + target.costs.barrier


def stage_cycles(columns: int, target: TargetSpec) -> float:
    """Cycles in which the cores stage a vector."""
    engine = target.engine
    assert engine is not None
    return engine.start_cycles + -(-columns // target.cores) * engine.stage_cycles


def finish_cycles(layout: EngineLayout, rows: int, windows: int, target: TargetSpec) -> float:
    """Cycles in which the cores finish the `rows` rows of a piece: sums, tail, requantization."""
    engine = target.engine
    assert engine is not None
    sums = layout.groups * windows * engine.sum_cycles
    fused = target.costs.fused
    product = fused.work["tail"] if fused else target.costs.mac["byte"]
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
