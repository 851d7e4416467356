"""When the jobs of a chain run, and what the cores do beside them, by the cost model.

The same order as in the firmware (edgec_engine_linear_run.c): stage, issue what the queue takes,
and per piece wait, meet, issue what the piece frees, finish the rows. Cycles count from the start
of the chain's first op; nothing else runs on the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memory_planner.engine_cost import finish_cycles, stage_cycles
from memory_planner.engine_plan import QUEUE_DEPTH, ChainPlan, EngineLinear, PiecePlan
from memory_planner.plan import LinearPlan, Plan
from memory_planner.target import TargetSpec
from memory_planner.tile_time import transfer_cycles
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.program import ActMode, Op, Program


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
class LinearTimes:
    """One linear of a chain. The chain's jobs run from `ChainTimes.jobs`."""

    op: str
    span: Span  # the op
    stage: float  # cycles of the cores; 0 unless it is the first
    issue: float  # cycles of core 0
    work: tuple[Span, ...]  # of the cores, per piece
    tables: tuple[Span, ...]  # transfers of the table
    engine: float  # cycles of the jobs that no linear before it has waited for


@dataclass(frozen=True, slots=True)
class ChainTimes:
    """A chain from its first to its last op."""

    jobs: tuple[Span, ...]
    linears: tuple[LinearTimes, ...]


def chain_times(program: Program, target: TargetSpec, plan: Plan, chain: ChainPlan) -> ChainTimes:
    """The schedule of one chain."""
    ops = {op.id: op for op in program.ops}
    run = _Run(program, target, plan, chain)
    linears = tuple(run.linear(each, ops[each.op]) for each in chain.linears)
    return ChainTimes(tuple(run.jobs), linears)


class _Run:
    """The clock of the cores, and the engine's queue."""

    def __init__(self, program: Program, target: TargetSpec, plan: Plan, chain: ChainPlan) -> None:
        self.program, self.target, self.plan, self.chain = program, target, plan, chain
        self.now = 0.0
        self.done = 0
        self.spent = 0.0  # on issuing, by the current op
        self.jobs: list[Span] = []

    def linear(self, linear: EngineLinear, op: Op) -> LinearTimes:
        """Advance over one op."""
        assert self.target.engine is not None
        begin, stage = self.now, 0.0
        layout, how = self.program.engine_layout_of(op), self.plan.linears[op.id]
        assert layout is not None
        self.spent = 0.0
        tables: list[Span] = []
        if not self.jobs:
            stage = stage_cycles(layout.engine_columns, self.target)
            self.now += stage + self.target.costs.barrier
        self._move(how, tables, begin)
        first = self.done
        work = [self._piece(piece, op, layout, how, tables) for piece in linear.pieces]
        self.now += self.target.costs.barrier
        span = Span(begin, self.now)
        busy = sum(job.cycles for job in self.jobs[first : self.done])
        return LinearTimes(op.id, span, stage, self.spent, tuple(work), tuple(tables), busy)

    def _piece(
        self,
        piece: PiecePlan,
        op: Op,
        layout: EngineLayout,
        how: LinearPlan,
        tables: list[Span],
    ) -> Span:
        assert self.target.engine is not None
        wake = self.target.engine.cycles.wake
        number = min(len(tables), len(how.transfers))
        self._issue(piece.before)
        while self.done < piece.needed:
            self.now = max(self.now, self.jobs[self.done].end + wake)
            self.done += 1
            self._issue(piece.before)
        if number:
            self.now = max(self.now, tables[number - 1].end)
        self.now += self.target.costs.barrier
        self._issue(piece.after)
        self._move(how, tables, self.now)
        start = self.now
        windows = 2 if op.mode is ActMode.A16 else 1
        rows = min(piece.channels * layout.shared, layout.rows)
        self.now += finish_cycles(layout, rows, windows, self.target)
        return Span(start, self.now)

    def _issue(self, limit: int) -> None:
        """Core 0 fills the queue."""
        engine = self.target.engine
        assert engine is not None
        while len(self.jobs) < min(limit, self.done + QUEUE_DEPTH):
            self.now += engine.issue_cycles
            self.spent += engine.issue_cycles
            start = max(self.now, self.jobs[-1].end if self.jobs else 0.0)
            cycles = self.chain.jobs[len(self.jobs)].cycles - engine.cycles.wake
            self.jobs.append(Span(start, start + cycles))

    def _move(self, how: LinearPlan, tables: list[Span], start: float) -> None:
        """The next transfer of the table, if there is one."""
        if len(tables) < len(how.transfers):
            region = self.plan.placements[how.weight].region
            size = how.transfers[len(tables)].size
            tables.append(Span(start, start + transfer_cycles(self.target.link(region), size)))


def all_chain_times(program: Program, target: TargetSpec, plan: Plan) -> Mapping[str, ChainTimes]:
    """The schedule of every chain, by the id of its first op."""
    chains = plan.engine.chains if plan.engine else ()
    return {chain.linears[0].op: chain_times(program, target, plan, chain) for chain in chains}
