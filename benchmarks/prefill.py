"""What prompts cost on Siracusa, by the cycle model (an estimate).

    python -m benchmarks.prefill

First table: cycles per token of the first 128 positions, as steps, as one prompt without batches
and in batches. Second table: what the engine is busy per token in the blocks, and what it would be
when its jobs take several vectors: four windows of a 3 x 3 job (four tokens of 8-bit activations,
two of 16-bit ones), or a pixel of a 1 x 1 job per vector, which needs a second copy of the weights
at 8 bits; the planner takes it where it has room and pays. The difference is the most that such
jobs could save: the cores stage vectors and finish rows for every token all the same, partly while
the engine works.

No weights are needed. The streamed model is the 4 MiB shape with 1 MiB in each weight memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.shapes import FOUR_MIB, shapes
from memory_planner.engine_chains import windows_of
from memory_planner.engine_jobs import LinearJob, linear_shape
from memory_planner.engine_registers import PIXELS, JobShape, Mode
from memory_planner.engine_time import job_cycles
from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from sim.prefill_cycles import prefill_cycles
from sim.step import Step, decode_step
from toolchain.fit.design import Design
from toolchain.fit.planning import plan_design
from toolchain.model.config import ModelConfig
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode
from toolchain.model.quant_settings import PER_CHANNEL, QuantConfig

TOKENS = 128
BATCH = 16  # tokens of a pointwise job
WINDOWS = 4
LITTLE = MemoryLimits({"mram": 1 << 20, "tile_sram": 1 << 20})


@dataclass(frozen=True)
class Case:
    """A model in one activation width on one target."""

    name: str
    config: ModelConfig
    mode: ActMode
    engine: EngineChoice
    target: TargetSpec

    def step(self) -> Step:
        """The first token, with the plan of the whole model."""
        design = Design(
            self.config,
            QuantConfig(4, PER_CHANNEL),
            self.config.max_position_embeddings,
            dict.fromkeys(SITES, self.mode),
            engine=self.engine,
        )
        outcome = plan_design(design, self.target)
        assert outcome.fits, self.name
        return decode_step(outcome.program, outcome.plan, self.target, 0)

    @property
    def title(self) -> str:
        """Cells that name the case."""
        return f"{self.name} | {self.mode.value.upper()} | {self.engine.value}"


def row(case: Case, step: Step) -> str:
    """Cycles per token in three ways."""
    plan, program = step.context.plan, step.context.program
    steps = sum(step.at(position).total for position in range(TOKENS)) // TOKENS
    single = decode_step(program, replace(plan, prefill=None), case.target, 0)
    alone, together = prefill_cycles(single, TOKENS), prefill_cycles(step, TOKENS)
    batch = plan.prefill.batch if plan.prefill else 1
    gain = 100 - 100 * together // (steps * TOKENS)
    figures = (f"{n:,}" for n in (steps, alone // TOKENS, together // TOKENS))
    return f"| {case.title} | {batch} | {' | '.join(figures)} | {gain} % |"


def engine_row(case: Case, step: Step) -> str:
    """Busy cycles of the engine per token in the blocks, with more and more vectors in a job."""
    program, plan = step.context.program, step.context.plan
    tokens = prefill_cycles(step, TOKENS) // TOKENS
    one = four = pixels = 0.0
    copy = 0
    for op in program.ops:
        layout = program.engine_layout_of(op)
        if layout is None or op.layer < 0:
            continue
        windows, jobs = windows_of(op), layout.groups
        one += jobs * _cycles(case, linear_shape(LinearJob(layout, layout.channels, windows)))
        shape = linear_shape(LinearJob(layout, layout.channels, WINDOWS))
        four += jobs * _cycles(case, shape) * windows / WINDOWS
        pixels += jobs * _cycles(case, pointwise(layout, BATCH * windows)) / BATCH
        copy += jobs * layout.rows * -(-layout.engine_columns // jobs // 32) * 32
    assert case.target.engine is not None
    room = sum(max(0, plan.region(name).free) for name in case.target.engine.weights)
    saved = [f"{100 * (one - each) / tokens:.1f} %" for each in (four, pixels)]
    busy = [f"{round(each):,}" for each in (one, four, pixels)]
    fits = "yes" if copy <= room else "no"
    cells = (busy[0], busy[1], saved[0], busy[2], saved[1], f"{copy:,}", fits, f"{tokens:,}")
    return f"| {case.title} | {' | '.join(cells)} |"


def _cycles(case: Case, shape: JobShape) -> int:
    assert case.target.engine is not None
    return job_cycles(shape, case.target.engine.cycles)


def pointwise(layout: EngineLayout, vectors: int) -> JobShape:
    """A pixel per vector, from a second copy of the weights at 8 stored bits."""
    return JobShape(
        mode=Mode.POINTWISE,
        bits=layout.bits,
        input_channels=layout.engine_columns // layout.groups,
        channels=layout.rows,
        height=-(-vectors // PIXELS),
        width=min(vectors, PIXELS),
        prefetch=True,
    )


def all_cases() -> list[Case]:
    """The models of benchmarks/engine.py, and one that streams."""
    target = load_target("siracusa")
    configs = shapes()
    found = [
        Case(name, config, mode, engine, target)
        for name, config in configs.items()
        for mode in (ActMode.A16, ActMode.A8)
        for engine in (EngineChoice.CORES, EngineChoice.AUTO)
    ]
    little = limited_target(target, LITTLE)
    large = next(each for each in reversed(found) if each.name == FOUR_MIB)
    streamed = replace(large, name=f"{FOUR_MIB}, streamed", target=little, mode=ActMode.A16)
    return [*found, streamed]


def main() -> None:
    """Print the tables."""
    steps = [(case, case.step()) for case in all_cases()]
    print(f"cycles per token, positions 0 to {TOKENS - 1}, int4 per channel")
    print()
    print("| model | activations | engine | batch | steps | one prompt | in batches | less |")
    print("|---|---|---|---|---|---|---|---|")
    for case, step in steps:
        print(row(case, step))
    print()
    print(
        "| model | activations | engine | busy, one vector per job | four windows | saves at most "
        "| 1 x 1, 16 tokens | saves at most | bytes of the copy | has room | cycles per token |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case, step in steps:
        if case.engine is EngineChoice.AUTO and step.context.plan.engine:
            print(engine_row(case, step))


if __name__ == "__main__":
    main()
