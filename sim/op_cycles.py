"""What the cycle model says of one op, and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.engine_schedule import LinearTimes
from memory_planner.plan import Plan
from memory_planner.target import CORES, Link, TargetSpec
from toolchain.model.program import Program


@dataclass(frozen=True, slots=True)
class OpCycles:
    """Cycles of one op; `moved` are bytes by link, `total` is what the step waits for.

    `transfers[i]` and `work[i]` are those of tile i, both empty when the op moves nothing. What
    `compute` has beyond the sum of `work` comes after the last tile. A head whose weights come in
    several streams has `parts`, the number of tiles and the cycles of each.
    """

    compute: float
    dma: float
    total: float
    moved: tuple[tuple[str, int], ...] = ()
    transfers: tuple[float, ...] = ()
    work: tuple[float, ...] = ()
    slots: int = 2  # of the tile buffer
    parts: tuple[tuple[int, float], ...] = ()
    off_chip: bool = False  # the transfer comes from outside the chip
    overhead: float = 0.0  # of `compute`: barriers and cold code
    times: LinearTimes | None = None  # of a linear on the engine, of an op that runs with others
    on_engine: bool = False  # the engine multiplies

    @property
    def engine_busy(self) -> float:
        """Cycles of the engine with the jobs for which the op waits."""
        return sum(job.span.cycles for job in self.times.jobs) if self.times else 0.0

    @property
    def engine_words(self) -> int:
        """Of these the cycles in which a word of weights is read."""
        return sum(job.words for job in self.times.jobs) if self.times else 0


@dataclass(frozen=True, slots=True)
class Context:
    """What the formulas look at."""

    program: Program
    plan: Plan
    target: TargetSpec
    position: int  # of the token: attention reads position + 1 rows


def port_of(target: TargetSpec, region: str) -> Link | None:
    """The link on which the cores reach a region; None for their own memory."""
    destination = target.tiling.region if target.tiling else CORES
    return next(
        (k for k in target.links if region in k.sources and k.destination == destination), None
    )
