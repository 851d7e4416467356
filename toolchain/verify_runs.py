"""What `edgec verify` builds of a bundle, and how it starts what it built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from codegen.bundle import LoadedBundle
from toolchain.c_tools import (
    Build,
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_simulator,
    run_make,
)
from toolchain.verify_report import RunReport

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
RV32_OPTIMIZE = "-O3"
PROGRAMS = ("runner", "tracer")
# Tokens of a prompt at most, by team: the first is as long as the test program allows.
PROMPTS = (256, 5, 3)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What all runs of one verification share."""

    bundle: LoadedBundle
    steps: int
    weights: int  # of the model, for the time limits
    scratch: Path
    progress: Progress


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One team size on one runner: how to start its programs, and its traced run."""

    report: RunReport  # of a comparison that is still to come
    runner: tuple[str, ...]
    tracer: tuple[str, ...]
    prompter: tuple[str, ...]  # the traced program on prompts of `prompt` tokens
    prompt: int
    dump: Path

    @property
    def prompt_dump(self) -> Path:
        """Of the traced prompts."""
        return self.dump.with_suffix(".prompts")

    @property
    def name(self) -> str:
        """For messages."""
        cores = "1 core" if self.report.cores == 1 else f"{self.report.cores} cores"
        return f"{self.report.runner} with {cores}"


def host_runs(task: Task, teams: Sequence[int], *, sanitize: bool) -> list[Run]:
    """The programs built for this machine, to be started with each team."""
    compiler = find_host_compiler()
    out = task.scratch / "host"
    task.progress(f"building for the host with {compiler.name}")
    flags = SANITIZERS if sanitize else ()
    run_make(Build(task.bundle.directory, out, "host", compiler, PROGRAMS, flags))
    runner, tracer = (str(out / f"{task.bundle.prefix}_{kind}") for kind in PROGRAMS)
    runs = []
    for count, most in zip(teams, cycle(PROMPTS), strict=False):
        prompt = min(most, task.steps)
        traced = (tracer, str(count), str(task.steps))
        runs.append(
            Run(
                RunReport("host", count, compiler.name, None, 0, 0, None, None),
                (runner, str(count)),
                traced,
                (*traced, str(prompt)),
                prompt,
                out / f"{count}.dump",
            )
        )
    return runs


def rv32_run(task: Task) -> Run:
    """The programs built for RV32, which take no arguments there, and how a simulator runs them."""
    compiler = find_rv32_compiler()
    simulator = find_rv32_simulator(task.scratch)
    out = task.scratch / "rv32"
    task.progress(f"building for rv32 with {compiler.name}")
    flags = (f"-D{task.bundle.prefix.upper()}_RV32_LINUX",) if simulator.linux else ()
    build = Build(task.bundle.directory, out, "rv32", compiler, ("runner",), flags, RV32_OPTIMIZE)
    run_make(build)
    run_make(replace(build, targets=("tracer",), steps=task.steps))  # it takes no arguments there
    prompts = out.with_name("rv32-prompts")
    prompt = min(PROMPTS[0], task.steps)
    run_make(replace(build, out=prompts, targets=("tracer",), steps=task.steps, prompt=prompt))
    runner, tracer = (str(out / f"{task.bundle.prefix}_{kind}") for kind in PROGRAMS)
    return Run(
        RunReport("rv32", 1, compiler.name, simulator.name, 0, 0, None, None),
        (*simulator.command, runner),
        (*simulator.command, tracer),
        (*simulator.command, str(prompts / f"{task.bundle.prefix}_tracer")),
        prompt,
        out / "tracer.dump",
    )
