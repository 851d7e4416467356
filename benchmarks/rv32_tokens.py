"""Instructions per token of the generated C on rv32imc, counted in spike.

    python benchmarks/rv32_tokens.py MODEL_DIR [--first 16] [--last 272]

Compiles MODEL_DIR for the `rv32` target with group 32, for A16 and for A8 sites, verifies every op
against the simulator, and prints the mean instructions per token of positions first .. last-1, with
`-O3` and every compiler for RV32 that is installed (clang of zig, gcc).
Needs the `[rv32]` extra. For stories260K (karpathy/tinyllamas) the same positions cost llama2.c
3.10 M instructions with an FPU, 54.6 M without one, and 31.7 M with its int8 weights and no FPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from codegen.bundle_write import write_bundle
from sim.dump import read_dump
from toolchain.c_tools import (
    Build,
    Compiler,
    find_rv32_compiler,
    find_rv32_gcc,
    find_rv32_simulator,
    run_make,
    run_program,
)
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import verify_bundle
from toolchain.verify_runs import RV32_OPTIMIZE


def compilers() -> list[Compiler]:
    """clang of zig and gcc, those that are there."""
    found = [find_rv32_compiler(), find_rv32_gcc()]
    return list({compiler.name: compiler for compiler in found if compiler}.values())


def count(bundle: Path, compiler: Compiler, first: int, last: int) -> float:
    """Mean instructions per token of a bundle's runner on spike."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        run_make(Build(bundle, out, "rv32", compiler, ("runner",), optimize=RV32_OPTIMIZE))
        simulator = find_rv32_simulator(out)
        if simulator.linux:
            raise SystemExit("instructions are counted in spike only: install the [rv32] extra")
        run = run_program([*simulator.command, str(next(out.glob("*_runner")))])
    counted = [step.ticks for step in read_dump(run.output).steps[first:last]]
    return sum(counted) / len(counted)


def measure(model_dir: Path, mode: ActMode, first: int, last: int) -> None:
    """Compile, verify and print."""
    options = CompileOptions(modes=dict.fromkeys(SITES, mode), golden_steps=last)
    compiled = compile_model(model_dir, "rv32", options, lambda _: None)
    with tempfile.TemporaryDirectory() as scratch:
        build = Path(scratch) / "build"
        write_bundle(compiled.bundle, build)
        run = verify_bundle(build, ("rv32",)).runs[0]
        counts = [
            f"{count(build, compiler, first, last) / 1e6:.3f} M ({compiler.name})"
            for compiler in compilers()
        ]
    equal = f"{run.ops_equal:,} of {run.ops_compared:,} ops equal"
    print(f"  {mode.value}: {', '.join(counts)} instructions per token; {equal}")


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path, exists=True))
@click.option("--first", default=16, show_default=True)
@click.option("--last", default=272, show_default=True)
def main(model_dir: Path, first: int, last: int) -> None:
    """Print instructions per token of MODEL_DIR on rv32imc."""
    print(f"{model_dir.name}, rv32imc, group 32, mean of positions {first}..{last - 1}")
    for mode in (ActMode.A16, ActMode.A8):
        measure(model_dir, mode, first, last)


if __name__ == "__main__":
    main()
