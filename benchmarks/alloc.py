"""Heights and times on published allocation instances: edgec, its greedy orders, OR-tools.

    python benchmarks/alloc.py DATA_DIR [--nodes 20000] [--ortools-seconds 60]

DATA_DIR holds `minimalloc/*.csv` (google/minimalloc, capacity in the file name) and
`idealloc/*.csv`. edgec is asked for the lowest height, and for the capacity first where one is
known. CP-SAT runs when `ortools` is installed: one worker, fixed seed, feasibility at the
capacity. Prints Markdown.
"""

from __future__ import annotations

import csv
from pathlib import Path
from time import perf_counter

import click

from memory_planner.allocate import Allocation, Buffer, allocate, greedy_results


def read_instance(path: Path) -> tuple[list[Buffer], int | None]:
    """Buffers of a CSV file (id, lower, upper, size) and the capacity in its name, if any."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = sorted({int(row[key]) for row in rows for key in ("lower", "upper")})
    rank = {time: index for index, time in enumerate(times)}
    buffers = [
        Buffer(row["id"], int(row["size"]), rank[int(row["lower"])], rank[int(row["upper"])])
        for row in rows
    ]
    parts = path.name.split(".")
    return buffers, int(parts[1]) if parts[1].isdigit() else None


def by_edgec(buffers: list[Buffer], capacity: int | None, nodes: int) -> tuple[Allocation, float]:
    """The allocation and its seconds."""
    started = perf_counter()
    return allocate(buffers, 1, capacity, limit=nodes), perf_counter() - started


def by_ortools(buffers: list[Buffer], capacity: int, seconds: float) -> tuple[str, float]:
    """The same question to CP-SAT (AddNoOverlap2D), with its time limit."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return "not installed", float("nan")
    model = cp_model.CpModel()
    spans, ranges = [], []
    for buffer in buffers:
        offset = model.new_int_var(0, capacity - buffer.size, buffer.name)
        ranges.append(model.new_fixed_size_interval_var(offset, buffer.size, f"y{buffer.name}"))
        length = buffer.last - buffer.first
        spans.append(model.new_fixed_size_interval_var(buffer.first, length, f"x{buffer.name}"))
    model.add_no_overlap_2d(spans, ranges)
    model.add_cumulative(spans, [buffer.size for buffer in buffers], capacity)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    started = perf_counter()
    status = solver.solve(model)
    solved = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return "fits" if solved else "open", perf_counter() - started


def row_of(path: Path, nodes: int, ortools_seconds: float) -> list[str]:
    """One line of the table; the greedy orders in percent above the bound."""
    buffers, capacity = read_instance(path)
    greedy = list(greedy_results(buffers, 1))
    bound = greedy[0].bound
    result, seconds = by_edgec(buffers, capacity, nodes)
    other, other_seconds = by_ortools(buffers, capacity or bound, ortools_seconds)
    return [
        path.name.removesuffix(".csv"),
        str(len(buffers)),
        f"{bound:,}",
        *(f"{100 * one.gap / bound:.1f}" for one in greedy),
        f"{result.height:,}",
        f"{result.gap:,}",
        "yes" if result.proven else "no",
        f"{seconds:.2f}",
        other,
        f"{other_seconds:.2f}",
    ]


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--nodes", default=20_000, show_default=True)
@click.option("--ortools-seconds", default=60.0, show_default=True)
def main(data: Path, nodes: int, ortools_seconds: float) -> None:
    """Print one table over all instances in DATA."""
    orders = [f"{result.method}, %" for result in greedy_results([Buffer("any", 1, 0, 1)], 1)]
    columns = ["instance", "buffers", "bound", *orders]
    columns += ["edgec", "gap", "proven", "s", "CP-SAT", "s"]
    for row in (columns, ["---"] * len(columns)):
        print("|", " | ".join(row), "|")
    for path in sorted(data.glob("*/*.csv")):
        print("|", " | ".join(row_of(path, nodes, ortools_seconds)), "|", flush=True)


if __name__ == "__main__":
    main()
