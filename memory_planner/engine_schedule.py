"""When the jobs of a chain run, and what the cores do beside them, by the cost model.

The same order as in the firmware (edgec_engine_linear_run.c): stage, issue what the queue takes,
and per piece wait, meet, issue what the piece frees, finish the rows. Cycles count from the start
of the chain's first op; nothing else runs on the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.engine_chains import windows_of
from memory_planner.engine_cost import finish_cycles, stage_cycles
from memory_planner.engine_plan import QUEUE_DEPTH, ChainPlan, EngineLinear, PiecePlan
from memory_planner.engine_registers import shape_of
from memory_planner.engine_time import job_cycles, weight_words
from memory_planner.plan import LinearPlan, Plan
from memory_planner.target import EngineSpec, TargetSpec
from memory_planner.tile_time import transfer_cycles
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.names import GATE
from toolchain.model.program import Op, Program


@dataclass(frozen=True, slots=True)
class Span:
    """[start, end) in cycles from the start of the chain."""

    start: float
    end: float

    @property
    def cycles(self) -> float:
        """Duration."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Phase:
    """What the cores do during `span`."""

    label: str
    span: Span
    barriers: float  # cycles of it in which they meet


@dataclass(frozen=True, slots=True)
class JobTimes:
    """A job on the engine."""

    label: str
    span: Span
    words: int  # of weights: one per cycle of it


@dataclass(frozen=True, slots=True)
class LinearTimes:
    """One linear of a chain, and the jobs that no linear before it has waited for."""

    op: str
    span: Span  # the op
    phases: tuple[Phase, ...]
    tables: tuple[Span, ...]  # transfers of the table
    jobs: tuple[JobTimes, ...]


@dataclass(frozen=True, slots=True)
class ChainTimes:
    """A chain from its first to its last op."""

    linears: tuple[LinearTimes, ...]


def chain_times(
    program: Program, target: TargetSpec, plan: Plan, chain: ChainPlan, *, fused: bool = False
) -> ChainTimes:
    """The schedule of one chain, for the reading of `target`; `fused`: as in a fused op."""
    ops = {op.id: op for op in program.ops}
    run = _Run(program, target, plan, chain, fused=fused)
    return ChainTimes(tuple(run.linear(each, ops[each.op]) for each in chain.linears))


class _Run:
    """The clock of the cores, and the engine's queue."""

    def __init__(
        self, program: Program, target: TargetSpec, plan: Plan, chain: ChainPlan, *, fused: bool
    ) -> None:
        assert target.engine is not None
        self.fused = fused
        self.program, self.target, self.plan, self.chain = program, target, plan, chain
        self.engine: EngineSpec = target.engine
        self.now = 0.0
        self.done = 0
        self.jobs: list[JobTimes] = []
        self.phases: list[Phase] = []

    def linear(self, linear: EngineLinear, op: Op) -> LinearTimes:
        """Advance over one op."""
        begin, first, self.phases = self.now, self.done, []
        layout, how = self.program.engine_layout_of(op), self.plan.linears[op.id]
        assert layout is not None
        tables: list[Span] = []
        staging = not self.jobs
        if staging:
            self._work("stage the vector", stage_cycles(layout.engine_columns, self.target))
        self._move(how, tables, begin)
        for piece in linear.pieces:
            self._piece(piece, op, layout, how, tables)
        costs, counted = self.target.costs, self.engine.piece_cycles * len(linear.pieces)
        counted += self.engine.start_cycles if staging else 0.0
        self._work("meet", costs.op_end("linear", counted) - costs.barrier)
        span = Span(begin, self.now)
        jobs = tuple(self.jobs[first : self.done])
        return LinearTimes(op.id, span, tuple(self.phases), tuple(tables), jobs)

    def _piece(
        self,
        piece: PiecePlan,
        op: Op,
        layout: EngineLayout,
        how: LinearPlan,
        tables: list[Span],
    ) -> None:
        arrived = len(tables)
        self._issue(piece.before)
        while self.done < piece.needed:
            self.now = max(self.now, self.jobs[self.done].span.end + self.engine.cycles.wake)
            self.done += 1
            self._issue(piece.before)
        if arrived:
            self.now = max(self.now, tables[arrived - 1].end)
        self._work("meet", 0.0)
        self._issue(piece.after)
        self._move(how, tables, self.now)
        rows = min(piece.channels * layout.shared, layout.rows)
        self._work(f"finish {rows} rows", self._finish(op, layout, rows), meet=False)

    def _finish(self, op: Op, layout: EngineLayout, rows: int) -> float:
        cycles = finish_cycles(layout, rows, windows_of(op), self.target, fused=self.fused)
        costs = self.target.costs.fused
        if self.fused and costs is not None and op.role == GATE:
            cycles += -(-rows // self.target.cores) * costs.work["silu"]  # in the same pass
        return cycles

    def _work(self, label: str, cycles: float, meet: bool = True) -> None:
        barrier = self.target.costs.barrier if meet else 0.0
        start, self.now = self.now, self.now + cycles + barrier
        overhead = barrier + (cycles if label == "meet" else 0.0)
        self.phases.append(Phase(label, Span(start, self.now), overhead))

    def _issue(self, limit: int) -> None:
        """Core 0 fills the queue."""
        while len(self.jobs) < min(limit, self.done + QUEUE_DEPTH):
            number = len(self.jobs)
            cycles = 0.0 if self.fused else self.engine.issue_cycles  # prepared ahead
            self._work(f"issue job {number + 1}", cycles, meet=False)
            start = max(self.now, self.jobs[-1].span.end if self.jobs else 0.0)
            shape = shape_of(self.chain.jobs[number].registers)
            cycles = job_cycles(shape, self.engine.cycles)
            label = f"job {number + 1} of {len(self.chain.jobs)}: {shape.channels} channels"
            self.jobs.append(JobTimes(label, Span(start, start + cycles), weight_words(shape)))

    def _move(self, how: LinearPlan, tables: list[Span], start: float) -> None:
        """The next transfer of the table, if there is one."""
        if len(tables) < len(how.transfers):
            region = self.plan.placements[how.weight].region
            size = how.transfers[len(tables)].size
            tables.append(Span(start, start + transfer_cycles(self.target.link(region), size)))
