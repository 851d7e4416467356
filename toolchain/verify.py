"""`edgec verify`: builds the C of a bundle, runs it, and compares every tensor of every op.

The expected values are not those of the golden files alone: the byte-true simulator runs the same
tokens again from the bundle's blobs and plan, so that large tensors are compared element by
element, and the golden files themselves are checked against it. Nothing is written to the bundle.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.golden import build_golden, expected_records, op_specs, selftest_bytes
from codegen.serialize import graph_hash
from sim.compare import Comparison, Divergence, compare_records
from sim.dump import Dump, StepResult, read_dump
from sim.golden import Expected, Golden, OpSpec
from sim.machine import Record, run_steps
from toolchain.c_tools import (
    Build,
    Compiler,
    ProgramRun,
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_simulator,
    run_make,
    run_program,
)
from toolchain.model.errors import BundleError, ConfigError, MismatchError, Problem

RUNNERS = ("host", "rv32")
HOST_CORES = (1, 3, 8)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
RV32_OPTIMIZE = "-O3"
PROGRAMS = ("runner", "tracer")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of the traced program, and of the self-test."""

    runner: str
    cores: int
    compiler: str
    simulator: str | None
    ops_compared: int  # (step, op) pairs
    ops_equal: int
    first_divergence: Divergence | None
    instructions: tuple[int, ...] | None  # per step, without trace; None: not counted

    @property
    def passed(self) -> bool:
        """True when every op was equal."""
        return self.first_divergence is None

    @property
    def instructions_per_token(self) -> float | None:
        """Mean over the steps; None where the runner cannot count."""
        if not self.instructions:
            return None
        return sum(self.instructions) / len(self.instructions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "runner": self.runner,
            "cores": self.cores,
            "compiler": self.compiler,
            "simulator": self.simulator,
            "ops_compared": self.ops_compared,
            "ops_equal": self.ops_equal,
            "first_divergence": asdict(self.first_divergence) if self.first_divergence else None,
            "instructions_per_token": self.instructions_per_token,
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All runs of one verification."""

    tokens: int
    runs: tuple[RunReport, ...]

    @property
    def passed(self) -> bool:
        """True when every run was equal."""
        return all(run.passed for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        runs = [run.to_dict() for run in self.runs]
        return {"passed": self.passed, "tokens": self.tokens, "runs": runs}


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What all runners of one verification share."""

    bundle: LoadedBundle
    ops: tuple[OpSpec, ...]
    expected: tuple[Expected, ...]
    scratch: Path
    progress: Progress

    def program(self, out: Path, kind: str) -> str:
        return str(out / f"{self.bundle.prefix}_{kind}")


def verify_bundle(
    build_dir: Path,
    runners: Sequence[str] = ("host",),
    *,
    cores: Sequence[int] = HOST_CORES,
    sanitize: bool = False,
    progress: Progress = lambda _: None,
) -> VerifyReport:
    """Verify a bundle on `runners`; `cores` are the team sizes tried on the host.

    A difference is in the report, not an exception. Raises BundleError for a damaged bundle,
    MismatchError when golden files or self-test disagree with simulator or C, ToolError when a
    compiler or simulator is missing or the C does not build, ConfigError for an unknown runner.
    """
    unknown = [runner for runner in runners if runner not in RUNNERS]
    if unknown:
        problems = [Problem("--runner", runner, ", ".join(RUNNERS)) for runner in unknown]
        raise ConfigError("no such runner", problems)
    progress("reading the bundle")
    bundle = load_bundle(build_dir)
    progress("simulating the golden tokens")
    trace = list(run_steps(bundle.program, bundle.plan, bundle.blobs, bundle.golden.tokens))
    check_golden(bundle, trace)
    expected = tuple(expected_records(bundle.program, trace))
    with tempfile.TemporaryDirectory(prefix="edgec-verify-") as scratch:
        task = _Task(bundle, op_specs(bundle.program), expected, Path(scratch), progress)
        runs: list[RunReport] = []
        for runner in dict.fromkeys(runners):
            if runner == "host":
                runs += _verify_host(task, cores, sanitize)
            else:
                runs.append(_verify_rv32(task))
    return VerifyReport(len(bundle.golden.tokens), tuple(runs))


def check_golden(bundle: LoadedBundle, trace: Sequence[Record]) -> None:
    """Raise MismatchError unless the golden files say what the simulator computes."""
    golden = bundle.golden
    program = bundle.program
    fresh = build_golden(program, graph_hash(program, bundle.plan), golden.tokens, trace)
    stored = (bundle.directory / "golden" / "selftest.bin").read_bytes()
    problems = []
    if fresh != golden:
        problems.append(_golden_problem(fresh, golden))
    if selftest_bytes(fresh) != stored:
        problems.append(Problem("golden/selftest.bin", "other tokens or logits", "the simulator's"))
    if problems:
        raise MismatchError(
            "the golden files disagree with the simulator",
            problems,
            fix="compile the model again with this edgec",
        )


def _golden_problem(fresh: Golden, stored: Golden) -> Problem:
    for want, got in zip(fresh.records, stored.records, strict=False):
        if want != got:
            op = fresh.ops[want.op]
            where = f"golden.json: step {want.step}, {op.id}, {op.outputs[want.output].tensor}"
            return Problem(where, f"CRC-32 {got.crc32:08x}", f"{want.crc32:08x}")
    return Problem("golden.json", "other tokens, ops or records", "the simulator's")


def _verify_host(task: _Task, cores: Sequence[int], sanitize: bool) -> list[RunReport]:
    compiler = find_host_compiler()
    out = task.scratch / "host"
    task.progress(f"building for the host with {compiler.name}")
    flags = SANITIZERS if sanitize else ()
    run_make(Build(task.bundle.directory, out, "host", compiler, PROGRAMS, flags))
    reports = []
    for count in cores:
        task.progress(f"running on the host with {count} cores")
        comparison = _run_tracer(task, [task.program(out, "tracer"), str(count)])
        _run_selftest([task.program(out, "runner"), str(count)], comparison)
        reports.append(_report("host", count, compiler, comparison))
    return reports


def _verify_rv32(task: _Task) -> RunReport:
    compiler = find_rv32_compiler()
    simulator = find_rv32_simulator(task.scratch)
    out = task.scratch / "rv32"
    task.progress(f"building for rv32 with {compiler.name}")
    flags = (f"-D{task.bundle.prefix.upper()}_RV32_LINUX",) if simulator.linux else ()
    build = Build(task.bundle.directory, out, "rv32", compiler, PROGRAMS, flags, RV32_OPTIMIZE)
    run_make(build)
    task.progress(f"running on rv32 in {simulator.name}")
    comparison = _run_tracer(task, [*simulator.command, task.program(out, "tracer")])
    steps = _run_selftest([*simulator.command, task.program(out, "runner")], comparison)
    counts = tuple(step.instructions for step in steps)
    return replace(
        _report("rv32", 1, compiler, comparison),
        simulator=simulator.name,
        instructions=counts if all(counts) else None,
    )


def _run_tracer(task: _Task, command: Sequence[str]) -> Comparison:
    """Run a traced program and compare its dump; it must be complete to count as a comparison."""
    run = run_program(command)
    dump = _dump_of(run)
    comparison = compare_records(dump, task.ops, task.expected)
    if comparison.first_divergence is None and (run.exit_code != 0 or not comparison.complete):
        problem = Problem(
            "dump",
            f"{comparison.missing} records missing, {comparison.unexpected} unexpected",
            f"{len(task.expected)} records",
        )
        raise MismatchError(_ending("the traced program", run, dump), [problem])
    return comparison


def _run_selftest(command: Sequence[str], comparison: Comparison) -> tuple[StepResult, ...]:
    """Run the self-test and the timed steps. Its failure is news only when the trace was equal."""
    run = run_program(command)
    dump = _dump_of(run)
    if run.exit_code != 0 and comparison.first_divergence is None:
        raise MismatchError(_ending("the self-test", run, dump))
    return dump.steps


def _dump_of(run: ProgramRun) -> Dump:
    try:
        return read_dump(run.output)
    except BundleError as error:
        raise MismatchError(
            f"the program ended with exit code {run.exit_code} and wrote no dump", error.problems
        ) from error


def _ending(what: str, run: ProgramRun, dump: Dump) -> str:
    status = next((f", status {s.status} in step {s.step}" for s in dump.steps if s.status), "")
    lines = "\n".join(run.errors.strip().splitlines()[:20])
    return f"{what} failed: exit code {run.exit_code}{status}" + (f"\n{lines}" if lines else "")


def _report(runner: str, cores: int, compiler: Compiler, comparison: Comparison) -> RunReport:
    return RunReport(
        runner=runner,
        cores=cores,
        compiler=compiler.name,
        simulator=None,
        ops_compared=comparison.ops_compared,
        ops_equal=comparison.ops_equal,
        first_divergence=comparison.first_divergence,
        instructions=None,
    )
