"""Instructions per token of the generated C on rv32imc, counted in spike.

    python benchmarks/rv32_tokens.py MODEL_DIR [--first 16] [--last 272]

Compiles MODEL_DIR for the `rv32` target with group 32, for A16 and for A8 sites, verifies every op
against the simulator, and prints the mean instructions per token of positions first .. last-1.
Needs the `[rv32]` extra. For stories260K (karpathy/tinyllamas) the same positions cost llama2.c
3.10 M instructions with an FPU, 54.6 M without one, and 31.7 M with its int8 weights and no FPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from codegen.bundle_write import write_bundle
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import verify_bundle


def measure(model_dir: Path, mode: ActMode, first: int, last: int) -> tuple[float, int, int]:
    """(mean instructions per token, ops equal, ops compared) of one compilation."""
    options = CompileOptions(modes=dict.fromkeys(SITES, mode), golden_steps=last)
    compiled = compile_model(model_dir, "rv32", options, lambda _: None)
    with tempfile.TemporaryDirectory() as scratch:
        build = Path(scratch) / "build"
        write_bundle(compiled.bundle, build)
        run = verify_bundle(build, ("rv32",)).runs[0]
    if run.instructions is None:
        raise SystemExit("instructions are counted in spike only: install the [rv32] extra")
    counted = run.instructions[first:last]
    return sum(counted) / len(counted), run.ops_equal, run.ops_compared


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path, exists=True))
@click.option("--first", default=16, show_default=True)
@click.option("--last", default=272, show_default=True)
def main(model_dir: Path, first: int, last: int) -> None:
    """Print instructions per token of MODEL_DIR on rv32imc."""
    print(f"{model_dir.name}, rv32imc, group 32, mean of positions {first}..{last - 1}")
    for mode in (ActMode.A16, ActMode.A8):
        instructions, equal, compared = measure(model_dir, mode, first, last)
        print(
            f"  {mode.value}: {instructions / 1e6:.3f} M instructions per token "
            f"({equal:,} of {compared:,} ops equal)"
        )


if __name__ == "__main__":
    main()
