"""Time of `edgec fit` from shell to prompt, and what planning the 135M shape takes.

    python benchmarks/fit.py [--target siracusa] [--runs 10] [--shape NAME]...

Every built-in shape is a new process of the console script beside this Python: the least wall time
of all runs, and the least processor time of user and system, which other load disturbs less. Set
PYTHONDONTWRITEBYTECODE=1 without byte code to see what a first run takes. Planning (the choice of
the engine, the plan, its check) and its peak memory are those of one process after the imports.
Prints Markdown.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import click

LIMIT = 0.5  # seconds from shell to prompt
PLANNED = "smollm2-135m"
CONTEXT = 256  # positions: with those of training its KV cache alone is larger than the chip


def run_times(command: list[str], runs: int) -> tuple[float, float]:
    """The least wall and processor seconds of a command, its output thrown away."""
    walls, processors = [], []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        walls.append(perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls), min(processors)


def planning(target_name: str, context: int) -> tuple[float, float]:
    """Seconds, and MiB at the peak of this process."""
    from memory_planner.target_file import load_target
    from toolchain.fit.design import Design
    from toolchain.fit.planning import plan_design
    from toolchain.fit.shapes import load_shape
    from toolchain.model.quant_settings import QuantConfig

    design = Design(load_shape(PLANNED).config, QuantConfig(), context)
    target = load_target(target_name)
    started = perf_counter()
    plan_design(design, target)
    seconds = perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.command()
@click.option("--target", default="siracusa", show_default=True)
@click.option("--runs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--shape", "shapes", multiple=True, metavar="NAME", help="Instead of all.")
def main(target: str, runs: int, shapes: tuple[str, ...]) -> None:
    """Print the tables; exit code 1 when a shape takes longer than it may."""
    from toolchain.fit.shapes import list_shapes

    script = Path(sys.executable).with_name("edgec")
    print(f"| `edgec fit NAME --target {target}` | wall, s | processor, s |\n|---|---|---|")
    slow = []
    for name in shapes or list_shapes():
        command = [str(script), "fit", name, "--target", target]
        wall, processor = run_times(command, runs)
        print(f"| {name} | {wall:.3f} | {processor:.3f} |", flush=True)
        if wall > LIMIT:
            slow.append(name)
    print(f"\n| planning {PLANNED} | s | peak, MiB |\n|---|---|---|")
    for context in (CONTEXT, 8192):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, peak = pool.submit(planning, target, context).result()
        print(f"| context {context} | {seconds:.3f} | {peak:.0f} |")
    load = os.getloadavg()[0]
    if slow:
        print(f"\nslower than {LIMIT} s (load of the machine {load:.1f}): {', '.join(slow)}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
