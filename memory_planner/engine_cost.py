"""Modelled cycles of a linear on the engine and on the cores, before anything is placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def engine_cost(layout: EngineLayout, windows: int, target: TargetSpec) -> EngineCost:
    """The linear as one job per group, nothing of which overlaps."""
    engine = target.engine
    assert engine is not None
    job = LinearJob(layout, layout.channels, windows)
    jobs = layout.groups * job_cycles(linear_shape(job), engine.cycles) + engine.cycles.wake
    stage = stage_cycles(layout.engine_columns, target)
    finish = finish_cycles(layout, layout.rows, windows, target)
    barriers = 3 * target.costs.barrier
    return EngineCost(stage, jobs, finish, stage + engine.issue_cycles + jobs + finish + barriers)


def shared_cost(layouts: Sequence[EngineLayout], windows: int, target: TargetSpec) -> float:
    """Cycles of linears that read one staged vector; those of equal bits share a job."""
    engine = target.engine
    assert engine is not None
    channels: dict[int, int] = {}
    for layout in layouts:
        channels[layout.bits] = channels.get(layout.bits, 0) + layout.channels
    jobs = 0.0
    for layout in {layout.bits: layout for layout in layouts}.values():
        job = LinearJob(layout, channels[layout.bits], windows)
        jobs += layout.groups * job_cycles(linear_shape(job), engine.cycles)
    stage = stage_cycles(layouts[0].engine_columns, target)
    finish = sum(finish_cycles(layout, layout.rows, windows, target) for layout in layouts)
    barriers = (1 + 2 * len(layouts)) * target.costs.barrier
    return stage + engine.issue_cycles + engine.cycles.wake + jobs + finish + barriers


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
    tail = windows * layout.tail * target.costs.mac["byte"]
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
