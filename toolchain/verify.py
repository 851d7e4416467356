"""`edgec verify`: builds the C of a bundle, runs it, and compares every tensor of every op.

The expected values are not those of the golden files alone: the byte-true simulator runs the same
tokens again from the bundle's blobs and plan, and goes on behind them, so that the cache is read
in several chunks; the golden files themselves are checked against it. The self-test and a run to
the end of the context follow, without trace. Nothing is written to the bundle.
"""

from __future__ import annotations

import math
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.golden import op_specs
from sim.compare import Comparison
from sim.dump import Dump, StepResult, read_dump
from toolchain.c_tools import (
    Build,
    ProgramRun,
    check_tools,
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_simulator,
    run_make,
    run_program,
)
from toolchain.model.errors import BundleError, ConfigError, MismatchError, Problem
from toolchain.model.program import Kind
from toolchain.verify_report import ContextReport, RunReport, VerifyReport
from toolchain.verify_steps import (
    DumpFile,
    check_selftest,
    compare_with_simulator,
    steps_to_compare,
)

RUNNERS = ("host", "rv32")
HOST_CORES = (1, 3, 8)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
RV32_OPTIMIZE = "-O3"
PROGRAMS = ("runner", "tracer")
CONTEXT_FULL = 11  # runtime/include/edgec_types.h
# A run that takes longer than this hangs: far below what any machine of today computes.
BASE_SECONDS = 60.0
WEIGHTS_PER_SECOND = {"host": 20e6, "rv32": 2e6}
CONTEXT_WORK = 10**10  # weights times positions of a run to the end of the context

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How much to try."""

    cores: tuple[int, ...] = HOST_CORES  # team sizes on the host
    steps: int | None = None  # None: into the third chunk of the KV cache
    sanitize: bool = False  # build for the host with address and undefined-behaviour sanitizers


DEFAULTS = VerifyOptions()


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What all runs of one verification share."""

    bundle: LoadedBundle
    steps: int
    weights: int  # of the model, for the time limits
    scratch: Path
    progress: Progress


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One team size on one runner: how to start its programs, and its traced run."""

    report: RunReport  # of a comparison that is still to come
    runner: tuple[str, ...]
    tracer: tuple[str, ...]
    dump: Path

    @property
    def name(self) -> str:
        """For messages."""
        cores = "1 core" if self.report.cores == 1 else f"{self.report.cores} cores"
        return f"{self.report.runner} with {cores}"


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
        task = _Task(bundle, count, _weights(bundle), Path(scratch), progress)
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
    return sum(math.prod(tensor.shape) for tensor in tensors if tensor.kind is Kind.WEIGHT)


def _verify(task: _Task, runners: Sequence[str], options: VerifyOptions) -> VerifyReport:
    runs = _host_runs(task, options) if "host" in runners else []
    runs += [_rv32_run(task)] if "rv32" in runners else []
    traced = [_trace(task, run) for run in runs]
    task.progress(f"simulating {task.steps} steps")
    ops = op_specs(task.bundle.program)
    files = [DumpFile(run.dump, ops) for run in runs]
    try:
        nexts = compare_with_simulator(task.bundle, task.steps, files)
        comparisons = [file.finish() for file in files]
    except BundleError as error:
        raise MismatchError("a traced program wrote no dump", error.problems) from error
    reports = []
    for run, ended, comparison in zip(runs, traced, comparisons, strict=True):
        reports.append(_finish(task, run, ended, comparison))
    context = _context_run(task, runs, reports, nexts)
    reports.sort(key=lambda report: runners.index(report.runner))
    return VerifyReport(task.steps, tuple(reports), context)


def _host_runs(task: _Task, options: VerifyOptions) -> list[_Run]:
    compiler = find_host_compiler()
    out = task.scratch / "host"
    task.progress(f"building for the host with {compiler.name}")
    flags = SANITIZERS if options.sanitize else ()
    run_make(Build(task.bundle.directory, out, "host", compiler, PROGRAMS, flags))
    runner, tracer = (str(out / f"{task.bundle.prefix}_{kind}") for kind in PROGRAMS)
    return [
        _Run(
            RunReport("host", count, compiler.name, None, 0, 0, None, None),
            (runner, str(count)),
            (tracer, str(count), str(task.steps)),
            out / f"{count}.dump",
        )
        for count in options.cores
    ]


def _rv32_run(task: _Task) -> _Run:
    compiler = find_rv32_compiler()
    simulator = find_rv32_simulator(task.scratch)
    out = task.scratch / "rv32"
    task.progress(f"building for rv32 with {compiler.name}")
    flags = (f"-D{task.bundle.prefix.upper()}_RV32_LINUX",) if simulator.linux else ()
    build = Build(task.bundle.directory, out, "rv32", compiler, ("runner",), flags, RV32_OPTIMIZE)
    run_make(build)
    run_make(replace(build, targets=("tracer",), steps=task.steps))  # it takes no arguments there
    runner, tracer = (str(out / f"{task.bundle.prefix}_{kind}") for kind in PROGRAMS)
    return _Run(
        RunReport("rv32", 1, compiler.name, simulator.name, 0, 0, None, None),
        (*simulator.command, runner),
        (*simulator.command, tracer),
        out / "tracer.dump",
    )


def _limit(task: _Task, runner: str, steps: int) -> float:
    """Seconds after which a run of so many steps counts as hanging."""
    return BASE_SECONDS + steps * task.weights / WEIGHTS_PER_SECOND[runner]


def _trace(task: _Task, run: _Run) -> ProgramRun:
    """Run the traced program; its dump goes to a file."""
    task.progress(f"running on {run.name}")
    limit = _limit(task, run.report.runner, task.steps)
    what = f"the traced program on {run.name}"
    return run_program(run.tracer, what=what, seconds=limit, output=run.dump)


def _finish(task: _Task, run: _Run, traced: ProgramRun, comparison: Comparison) -> RunReport:
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
    task: _Task, run: _Run, name: str, wanted: Sequence[int], arguments: Sequence[str] = ()
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
    task: _Task, runs: Sequence[_Run], reports: Sequence[RunReport], nexts: Sequence[int]
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
    return ContextReport(context, run.report.cores)


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
