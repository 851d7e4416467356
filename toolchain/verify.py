"""`edgec verify`: builds the C of a bundle, runs it, and compares every tensor of every op.

The expected values are not those of the golden files alone: the byte-true simulator runs the same
tokens again from the bundle's blobs and plan, and goes on behind them, so that the cache is read
in several chunks; the golden files themselves are checked against it. The same tokens run once more
in prompts. The self-test and runs to the end of the context follow, without trace. Nothing is
written to the bundle.
"""

from __future__ import annotations

import math
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.golden import op_specs
from sim.compare import Comparison
from sim.dump import Dump, StepResult, read_dump
from sim.prefill import parts_of
from toolchain.c_tools import ProgramRun, check_tools, run_program
from toolchain.model.errors import BundleError, ConfigError, MismatchError, Problem
from toolchain.model.program import Kind, is_prompt_words
from toolchain.verify_report import ContextReport, PromptReport, RunReport, VerifyReport
from toolchain.verify_runs import PROMPTS, Progress, Run, Task, host_runs, rv32_run
from toolchain.verify_steps import (
    DumpFile,
    PromptFile,
    check_selftest,
    compare_with_simulator,
    steps_to_compare,
)

RUNNERS = ("host", "rv32")
HOST_CORES = (1, 3, 8)
CONTEXT_FULL = 11  # runtime/include/edgec_types.h
# A run that takes longer than this hangs: far below what any machine of today computes.
BASE_SECONDS = 60.0
WEIGHTS_PER_SECOND = {"host": 20e6, "rv32": 2e6}
CONTEXT_WORK = 10**10  # weights times positions of a run to the end of the context


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How much to try."""

    cores: tuple[int, ...] = HOST_CORES  # team sizes on the host
    steps: int | None = None  # None: into the third chunk of the KV cache
    sanitize: bool = False  # build for the host with address and undefined-behaviour sanitizers


DEFAULTS = VerifyOptions()


def verify_bundle(
    build_dir: Path,
    runners: Sequence[str] = ("host",),
    options: VerifyOptions = DEFAULTS,
    progress: Progress = lambda _: None,
) -> VerifyReport:
    """Verify a bundle on `runners`.

    A difference is in the report, not an exception. Raises BundleError for a damaged bundle,
    MismatchError when golden files, self-test or the end of the context disagree with simulator or
    C, or a program hangs, ToolError when a compiler or simulator is missing or the C does not
    build, ConfigError for an unknown runner or steps outside 1..context.
    """
    unknown = [runner for runner in runners if runner not in RUNNERS]
    if unknown:
        problems = [Problem("--runner", runner, ", ".join(RUNNERS)) for runner in unknown]
        raise ConfigError("no such runner", problems)
    progress("reading the bundle")
    bundle = load_bundle(build_dir)
    count = steps_to_compare(bundle, options.steps)
    check_selftest(bundle)
    prefix = "edgec-verify-"
    with _orderly_end(), tempfile.TemporaryDirectory(prefix=prefix) as scratch:
        check_tools(runners, Path(scratch))
        task = Task(bundle, count, _weights(bundle), Path(scratch), progress)
        return _verify(task, tuple(dict.fromkeys(runners)), options)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that children and scratch files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _weights(bundle: LoadedBundle) -> int:
    tensors = bundle.program.tensors.values()
    stored = (each for each in tensors if each.kind is Kind.WEIGHT and not is_prompt_words(each))
    return sum(math.prod(tensor.shape) for tensor in stored)


def _verify(task: Task, runners: Sequence[str], options: VerifyOptions) -> VerifyReport:
    runs = []
    if "host" in runners:
        runs += host_runs(task, options.cores, sanitize=options.sanitize)
    runs += [rv32_run(task)] if "rv32" in runners else []
    traced = [_trace(task, run) for run in runs]
    prompted = [_trace_prompts(task, run) for run in runs]
    task.progress(f"simulating {task.steps} steps")
    ops = op_specs(task.bundle.program)
    behind = len(ops) - len(parts_of(task.bundle.program).behind)
    files = [DumpFile(run.dump, ops) for run in runs]
    prompts = [PromptFile(run.prompt_dump, ops, run.prompt, behind) for run in runs]
    try:
        nexts = compare_with_simulator(task.bundle, task.steps, [*files, *prompts])
        comparisons = [file.finish() for file in files]
        of_prompts = [file.finish() for file in prompts]
    except BundleError as error:
        raise MismatchError("a traced program wrote no dump", error.problems) from error
    reports = []
    for index, run in enumerate(runs):
        report = _finish(task, run, traced[index], comparisons[index])
        if report.passed:
            report = _finish_prompts(run, report, prompted[index], of_prompts[index])
        reports.append(report)
    context = _context_run(task, runs, reports, nexts)
    reports.sort(key=lambda report: runners.index(report.runner))
    return VerifyReport(task.steps, tuple(reports), context)


def _limit(task: Task, runner: str, steps: int) -> float:
    """Seconds after which a run of so many steps counts as hanging."""
    return BASE_SECONDS + steps * task.weights / WEIGHTS_PER_SECOND[runner]


def _trace(task: Task, run: Run) -> ProgramRun:
    """Run the traced program; its dump goes to a file."""
    task.progress(f"running on {run.name}")
    limit = _limit(task, run.report.runner, task.steps)
    what = f"the traced program on {run.name}"
    return run_program(run.tracer, what=what, seconds=limit, output=run.dump)


def _trace_prompts(task: Task, run: Run) -> ProgramRun:
    """Run the traced program on prompts."""
    task.progress(f"running prompts of {run.prompt} tokens on {run.name}")
    limit = _limit(task, run.report.runner, task.steps)
    what = f"the traced program with prompts on {run.name}"
    return run_program(run.prompter, what=what, seconds=limit, output=run.prompt_dump)


def _finish_prompts(
    run: Run, report: RunReport, traced: ProgramRun, comparison: Comparison
) -> RunReport:
    """The report with what prompts gave."""
    divergence = comparison.first_divergence
    if divergence is None and (traced.exit_code != 0 or not comparison.complete):
        problem = Problem(
            "dump",
            f"{comparison.missing} records missing, {comparison.unexpected} unexpected",
            f"all records of prompts of {run.prompt} tokens",
        )
        what = f"the traced program with prompts on {run.name}"
        raise MismatchError(_ending(what, traced), [problem])
    prompts = PromptReport(run.prompt, comparison.ops_compared, comparison.ops_equal, divergence)
    return replace(report, prompts=prompts)


def _finish(task: Task, run: Run, traced: ProgramRun, comparison: Comparison) -> RunReport:
    """The report of a run; the self-test is news only when the trace was equal and complete."""
    report = replace(
        run.report,
        ops_compared=comparison.ops_compared,
        ops_equal=comparison.ops_equal,
        first_divergence=comparison.first_divergence,
    )
    if comparison.first_divergence is not None:
        return report
    if traced.exit_code != 0 or not comparison.complete:
        problem = Problem(
            "dump",
            f"{comparison.missing} records missing, {comparison.unexpected} unexpected",
            f"all records of {task.steps} steps",
        )
        raise MismatchError(_ending(f"the traced program on {run.name}", traced), [problem])
    task.progress(f"self-test on {run.name}")
    steps = _run_untraced(task, run, "the self-test", [0] * len(task.bundle.golden.tokens))
    counts = tuple(step.ticks for step in steps)
    counted = run.report.runner == "rv32" and counts and all(counts)
    return replace(report, instructions=counts if counted else None)


def _run_untraced(
    task: Task, run: Run, name: str, wanted: Sequence[int], arguments: Sequence[str] = ()
) -> tuple[StepResult, ...]:
    """Run the program without trace, self-test first; its steps must have the `wanted` statuses."""
    what = f"{name} on {run.name}"
    limit = _limit(task, run.report.runner, len(wanted) + len(task.bundle.golden.tokens))
    ended = run_program((*run.runner, *arguments), what=what, seconds=limit)
    steps = _dump_of(ended, what).steps
    problems = [
        Problem(f"step {index}", f"status {step.status}", f"status {status}")
        for index, (step, status) in enumerate(zip(steps, wanted, strict=False))
        if step.status != status
    ]
    if not problems and len(steps) != len(wanted):
        problems = [Problem("dump", f"{len(steps)} steps", f"{len(wanted)} steps")]
    if problems or ended.exit_code != 0:
        raise MismatchError(_ending(what, ended), problems[:1])
    return steps


def _context_run(
    task: Task, runs: Sequence[Run], reports: Sequence[RunReport], nexts: Sequence[int]
) -> ContextReport:
    """Fill the context on the host, in the team of the middle size, and ask for one step more."""
    context = task.bundle.program.shape.context
    host = [run for run in runs if run.report.runner == "host"]
    skipped = ""
    if not host:
        skipped = "it runs on the host only"
    elif not all(report.passed for report in reports):
        skipped = "the traced steps differ already"
    elif context * task.weights > CONTEXT_WORK:
        skipped = f"more than {CONTEXT_WORK:.0e} multiplications"
    if skipped:
        return ContextReport(context, None, skipped)
    run = host[len(host) // 2]
    name = "the run to the end of the context"
    task.progress(f"filling the context on {run.name}")
    wanted = [0] * context + [CONTEXT_FULL]
    steps = _run_untraced(task, run, name, wanted, (str(context + 1),))
    for step, (got, want) in enumerate(zip(steps, nexts, strict=False)):
        if got.next != want:
            problem = Problem(f"step {step}", f"next token {got.next}", str(want))
            raise MismatchError(f"{name} on {run.name} differs from the simulator", [problem])
    _context_prompts(task, run, steps[context - 1].next)
    return ContextReport(context, run.report.cores)


def _context_prompts(task: Task, run: Run, wanted: int) -> None:
    """The same tokens in prompts as long as may be: the last one ends as the steps did."""
    context = task.bundle.program.shape.context
    prompt = max(n for n in range(1, min(context, PROMPTS[0]) + 1) if context % n == 0)
    name = "the prompts to the end of the context"
    task.progress(f"filling the context with prompts on {run.name}")
    statuses = [0] * (context // prompt) + [CONTEXT_FULL]
    arguments = (str(context + 1), str(prompt))
    last = _run_untraced(task, run, name, statuses, arguments)[-2]
    if last.next != wanted:
        problem = Problem(f"step {context - 1}", f"next token {last.next}", str(wanted))
        raise MismatchError(f"{name} on {run.name} differ from the steps", [problem])


def _dump_of(run: ProgramRun, what: str) -> Dump:
    try:
        return read_dump(run.output)
    except BundleError as error:
        raise MismatchError(
            f"{what} ended with exit code {run.exit_code} and wrote no dump", error.problems
        ) from error


def _ending(what: str, run: ProgramRun) -> str:
    lines = "\n".join(run.errors.strip().splitlines()[:20])
    return f"{what} failed: exit code {run.exit_code}" + (f"\n{lines}" if lines else "")
