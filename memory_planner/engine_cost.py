"""Modelled cycles of a linear on the engine and on the cores, before anything is placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_planner.engine_chains import CHANNEL_STEP
from memory_planner.engine_jobs import LinearJob, linear_shape
from memory_planner.engine_time import job_cycles
from memory_planner.fused_costs import row_cycles
from memory_planner.target import EngineSpec, TargetSpec
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
    jobs = _jobs_cycles(layout, windows, engine)
    stage = stage_cycles(layout.engine_columns, target)
    finish = finish_cycles(layout, layout.rows, windows, target, fused=fused)
    ends = (_finished([(layout, jobs, finish)], target, n) for n in range(1, parts + 1))
    rest = stage + engine.issue_cycles + 2 * target.costs.barrier
    return EngineCost(stage, jobs + engine.cycles.wake, finish, rest + min(ends))


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
    silu = costs.work["silu"] if gated and costs is not None else 0.0
    works = []
    for layout in layouts:
        finish = finish_cycles(layout, layout.rows, windows, target, fused=True)
        finish += 0.0 if works else silu * -(-layout.rows // target.cores)
        works.append((layout, _jobs_cycles(layout, windows, engine), finish))
    start = stage_cycles(layouts[0].engine_columns, target) + engine.issue_cycles
    ends = (_finished(works, target, count) for count in range(1, parts + 1))
    return start + min(ends) + 3 * target.costs.barrier


def _jobs_cycles(layout: EngineLayout, windows: int, engine: EngineSpec) -> int:
    shape = linear_shape(LinearJob(layout, layout.channels, windows))
    return layout.groups * job_cycles(shape, engine.cycles)


def _finished(
    works: Sequence[tuple[EngineLayout, float, float]], target: TargetSpec, parts: int
) -> float:
    """When linears are finished in up to `parts` parts each, in cycles of the engine and the cores.

    While the engine computes a part, the cores finish the one before. The parts of the last linear
    become as much shorter as the cores are faster, those of the others are equal.
    """
    engine = target.engine
    assert engine is not None
    each = target.costs.barrier + engine.piece_cycles
    now = done = 0.0
    for number, (layout, jobs, finish) in enumerate(works, start=1):
        steps = -(-layout.channels // CHANNEL_STEP)
        ratio = min(1.0, finish / jobs) if number == len(works) else 1.0
        sizes = [max(ratio**part, 1 / steps) for part in range(min(parts, steps))]
        for size in sizes:
            done += jobs * size / sum(sizes)
            now = max(now, done + engine.cycles.wake) + finish * size / sum(sizes) + each
    return now


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
