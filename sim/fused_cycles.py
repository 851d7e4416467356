"""Cycles of ops that run as one function (memory_planner/fused_ops.py), phase by phase.

A phase is work of the cores: cycles per element, row or head of the fullest core, and what the
phase costs whatever its size. The engine's jobs run beside the phases behind their start, as in the
generated code; where rows need a job that is not done, the cores wait. Every phase belongs to one
op, so that the cycles of the ops add up to those of the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memory_planner.engine_chains import windows_of
from memory_planner.engine_plan import QUEUE_DEPTH, ChainPlan
from memory_planner.engine_registers import shape_of
from memory_planner.engine_schedule import JobTimes, LinearTimes, Phase, Span
from memory_planner.engine_time import job_cycles, weight_words
from memory_planner.fused_costs import row_cycles
from memory_planner.fused_ops import FusedKind, FusedOp, FusedPart
from memory_planner.target import ENGINE_PORT
from sim.cycle_model import attention_cycles, chain_of, stalls
from sim.op_cycles import Context, OpCycles, port_of
from toolchain.model.engine_packing import WORD_SIZE
from toolchain.model.program import Op, OpKind


def fused_cycles(context: Context, fused: FusedOp, ops: Sequence[Op]) -> tuple[OpCycles, ...]:
    """The estimate of each of the ops of one fused function; phases count from its start."""
    return _Run(context, fused, ops).results()


class _Run:
    """The clock of the cores, and the engine's queue, which a core apart from them fills."""

    def __init__(self, context: Context, fused: FusedOp, ops: Sequence[Op]) -> None:
        costs, engine = context.target.costs.fused, context.target.engine
        assert costs is not None
        assert engine is not None
        self.context, self.fused, self.ops = context, fused, ops
        self.unit, self.fixed = costs.unit(context.program.arithmetic), costs.fixed
        self.engine = engine.cycles
        self.cores = context.target.cores
        self.now = self.engine_free = 0.0
        self.queue: list[JobTimes] = []  # of the chain that runs
        self.done = self.allowed = 0  # jobs of it
        self.phases: dict[str, list[Phase]] = {op.id: [] for op in ops}
        self.jobs: dict[str, list[JobTimes]] = {op.id: [] for op in ops}
        self.waited = {op.id: 0.0 for op in ops}  # for the engine
        self.attention: OpCycles | None = None
        {
            FusedKind.ATTENTION: self._attention,
            FusedKind.MLP: self._mlp,
            FusedKind.NORM_ROWS: self._norm_rows,
            FusedKind.ROWS_RESIDUAL: self._rows_residual,
            FusedKind.HEAD: self._head,
        }[fused.kind]()

    def results(self) -> tuple[OpCycles, ...]:
        """By op; the span of each begins where those before it end in sum."""
        found: list[OpCycles] = []
        start = 0.0
        for op in self.ops:
            found.append(self._result(op, start))
            start += found[-1].total
        return tuple(found)

    def _result(self, op: Op, start: float) -> OpCycles:
        if self.attention and op.kind is OpKind.ATTENTION:
            return self.attention
        phases, jobs = tuple(self.phases[op.id]), tuple(self.jobs[op.id])
        compute = sum(phase.span.cycles for phase in phases)
        total = compute + self.waited[op.id]
        return OpCycles(
            compute=compute,
            dma=0.0,
            total=total,
            moved=self._moved(op, jobs),
            overhead=sum(phase.barriers for phase in phases),
            times=LinearTimes(op.id, Span(start, start + total), phases, (), jobs),
            on_engine=op.kind is OpKind.LINEAR,
        )

    def _moved(self, op: Op, jobs: Sequence[JobTimes]) -> tuple[tuple[str, int], ...]:
        """Words at the engine's port, and the table, unless it is beside the cores."""
        if op.kind is not OpKind.LINEAR:
            return ()
        plan, words = self.context.plan, WORD_SIZE * sum(job.words for job in jobs)
        table = plan.linears[op.id].weight
        port = port_of(self.context.target, plan.placements[table].region)
        size = self.context.program.tensors[table].size
        return (*(((port.name, size),) if port else ()), (ENGINE_PORT, words))

    # ---- functions

    def _attention(self) -> None:
        linears, (rope, append, attend, merge) = self.fused.linears, self.ops[4:8]
        shape, unit = self.context.program.shape, self.unit
        heads = self._share(shape.heads)
        self._norm(linears[:3])
        self._meet(self.ops[3])
        queries, rows = max((self._heads(core) for core in range(self.cores)), key=sum)
        self._work(rope, "rotate and quantize", queries, self.fixed["append"])
        self._work(append, "rotate, quantize and store", rows)
        self._meet(append)
        attention = attention_cycles(self._scoring(), attend, self.fixed["attention"])
        self.attention = replace(attention, total=round(attention.total))
        self.now += self.attention.total
        merged = heads * (unit["merge_head"] + shape.head_dim * unit["merge"])
        self._work(merge, "merge", merged, self.fixed["merge"])
        self._meet(merge)
        self._stage(linears[3], heads * shape.head_dim)
        moved = self.context.plan.attention.tile_buffer is not None
        code = self.fixed["return"] if moved else 0.0
        self._work(self._op(linears[3]), "return to rows", 0.0, code)
        self._add(linears[3])

    def _scoring(self) -> Context:
        """With the price of a score in the program's arithmetic."""
        context = self.context
        costs = context.target.costs
        assert costs.fused is not None
        saving = costs.fused.score_saving(context.program.arithmetic)
        if not saving:
            return context
        costs = replace(costs, attention_score=costs.attention_score - saving)
        return replace(context, target=replace(context.target, costs=costs))

    def _mlp(self) -> None:
        (gate, up, down), swiglu = self.fused.linears, self.ops[3]
        elements = self._share(self.context.program.shape.ffn)
        self._norm((gate, up), (self.unit["silu"], 0.0))
        self._meet(self._op(up))
        product = elements * self.unit["product"]
        self._work(swiglu, "product", product, self.fixed["product"])
        self._meet(swiglu)
        self._stage(down, elements)
        self._add(down)

    def _norm_rows(self) -> None:
        self._norm(self.fused.linears)
        self._meet(self.ops[-1])

    def _rows_residual(self) -> None:
        layout = self.context.program.engine_layout_of(self.ops[0])
        assert layout is not None
        (part,) = self.fused.linears
        self._stage(part, self._share(layout.columns))
        self._work(self.ops[0], "return to rows", 0.0, self.fixed["return"])
        self._add(part)

    def _head(self) -> None:
        """Every core keeps its best row while it finishes them."""
        costs, argmax = self.context.target.costs, self.ops[2]
        self._norm(self.fused.linears, (costs.argmax,))
        self._meet(self.ops[1])
        self._work(argmax, "argmax", costs.reduction)
        self._meet(argmax)

    # ---- phases

    def _norm(self, parts: Sequence[FusedPart], more: Sequence[float] = ()) -> None:
        """Norm, staging and rows; the norm's scale is computed while the engine begins.

        `more`: cycles of a row of each part beside those of requantization.
        """
        op, elements = self.ops[0], self._share(self.context.program.shape.hidden)
        if self.fused.measures:
            self._work(op, "measure", elements * self.unit["residual"])
            self._meet(op)
        self._work(op, "norm", elements * self.unit["norm"], self.fixed["norm"])
        self._meet(op)
        self._stage(parts[0], elements)
        self._work(op, "scale", 0.0, self.fixed["scale"])
        for part, extra in zip(parts, more or (0.0,) * len(parts), strict=True):
            self._rows(part, extra)

    def _stage(self, part: FusedPart, elements: int) -> None:
        """Every core quantizes elements into the engine's input; jobs begin when all have."""
        op, chain = self._op(part), self._chain_of(part)
        cycles = elements * self.unit[f"stage_{_mode(op)}"]
        self._work(op, "stage the vector", cycles, self.fixed["stage"])
        self.queue, self.done, self.allowed = [], 0, chain.linears[0].pieces[0].before
        self._start(chain)

    def _start(self, chain: ChainPlan) -> None:
        """As many jobs as may be under way; each runs when the one before it has ended."""
        while len(self.queue) < min(self.allowed, self.done + QUEUE_DEPTH):
            shape = shape_of(chain.jobs[len(self.queue)].registers)
            begin = max(self.now, self.engine_free)
            self.engine_free = begin + job_cycles(shape, self.engine)
            label = f"job {len(self.queue) + 1} of {len(chain.jobs)}: {shape.channels} channels"
            self.queue.append(JobTimes(label, Span(begin, self.engine_free), weight_words(shape)))

    def _wait(self, op: Op, chain: ChainPlan, jobs: int) -> None:
        """Until the next jobs are done."""
        self._work(op, "look for the engine", 0.0, self.fixed["wait"])
        for _ in range(jobs):
            job = self.queue[self.done]
            self.jobs[op.id].append(job)
            left = max(0.0, job.span.end + self.engine.wake - self.now)
            self.waited[op.id] += left
            self.now += left
            self.done += 1
            self._start(chain)

    def _rows(self, part: FusedPart, more: float = 0.0) -> None:
        """Outputs of accumulators, by the table where it lies; `more`: cycles of a row beside."""
        op, context, chain = self._op(part), self.context, self._chain_of(part)
        layout = context.program.engine_layout_of(op)
        assert layout is not None
        assert op.mode is not None
        table = context.plan.placements[context.plan.linears[op.id].weight].region
        extra = context.target.extra_load(table)
        row = row_cycles(self.unit, layout, op.mode, windows_of(op), extra) + more
        linear = next(each for each in chain.linears if each.op == op.id)
        if part.begins and not part.first:
            self._meet(op)  # the sums take the place of others
        fixed = self.fixed["rows"]
        for jobs, piece in zip(part.waits, linear.pieces, strict=False):
            self.allowed = max(self.allowed, piece.before)
            self._start(chain)
            if jobs:
                self._wait(op, chain, jobs)
            self.allowed = max(self.allowed, piece.after)
            self._start(chain)
            rows = layout.shared * piece.channels if part.by_piece else layout.rows
            rows = min(rows, layout.rows)
            self._work(op, f"{rows} rows", self._share(rows) * row, fixed)
            fixed = 0.0

    def _add(self, part: FusedPart) -> None:
        """Rows that join the residual stream."""
        self._rows(part, self.unit["residual"])
        self._meet(self.ops[-1])

    # ---- what phases are made of

    def _work(self, op: Op, label: str, cycles: float, fixed: float = 0.0) -> None:
        """Whole cycles; the first phase of an op waits for its operands in slower memory."""
        late = 0.0 if self.phases[op.id] else stalls(self.context, op)
        start, self.now = self.now, self.now + round(cycles + fixed + late)
        self.phases[op.id].append(Phase(label, Span(start, self.now), fixed))

    def _meet(self, op: Op) -> None:
        """A barrier."""
        self._work(op, "meet", 0.0, self.context.target.costs.barrier)

    def _op(self, part: FusedPart) -> Op:
        return self.ops[part.place - self.fused.first]

    def _chain_of(self, part: FusedPart) -> ChainPlan:
        chain = chain_of(self.context.plan, self._op(part))
        assert chain is not None
        return chain

    def _share(self, units: int) -> int:
        """Units of the core that has most."""
        return -(-units // self.cores)

    def _heads(self, core: int) -> tuple[float, float]:
        """A core's work with queries, and with the cache: the last cores have the keys."""
        shape, unit = self.context.program.shape, self.unit
        queries = self._of_core(core, shape.heads)
        keys = self._of_core(self.cores - 1 - core, shape.kv_heads)
        values = self._of_core(core, shape.kv_heads)
        return (
            queries * (unit["query_head"] + shape.head_dim * unit["query"]),
            (keys + values) * (unit["cache_head"] + shape.head_dim * unit["cache"]),
        )

    def _of_core(self, core: int, units: int) -> int:
        share = self._share(units)
        return min(share, max(0, units - core * share))


def _mode(op: Op) -> str:
    """Of a linear: how wide its vector is."""
    assert op.mode is not None
    return op.mode.value
