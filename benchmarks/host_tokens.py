"""Tokens per second of the generated C on this machine, beside llama2.c's float program.

    python -m benchmarks.host_tokens [MODEL_DIR] [--llama2c ./run] [--optimize '-O3 -march=native']

Compiles MODEL_DIR (default: the bundled model) for the target `rv32`, whose weights the cores read
in place, with group 32 and A16 or A8 sites; builds the bundle's C for the host and runs `--steps`
tokens, one thread and two. With `--llama2c` (run.c of github.com/karpathy/llama2.c, built with
`gcc -O3 -march=native -fopenmp run.c -lm`) the same weights run there in float32, and ratios are
printed. Every figure is the best of `--repeat` runs.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from codegen.bundle_write import write_bundle
from sim.dump import read_dump
from toolchain.c_tools import Build, find_host_compiler, run_make, run_program
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode
from toolchain.options import bundled_model
from toolchain.pipeline import CompileOptions, compile_model

BLOCK = "model.layers.{}."
MATRICES = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"),
)


def interleaved(weights: npt.NDArray[np.float32], head_dim: int) -> npt.NDArray[np.float32]:
    """Rows of q_proj or k_proj in llama2.c's order: a pair of the rotation is two neighbours."""
    rows, columns = weights.shape
    halves = weights.reshape(rows // head_dim, 2, head_dim // 2, columns)
    return halves.transpose(0, 2, 1, 3).reshape(rows, columns)


def write_llama2c(model: FloatModel, context: int, directory: Path) -> tuple[Path, Path]:
    """(checkpoint, tokenizer) as llama2.c's run.c reads them: float32, its first format.

    The tokenizer has the right number of tokens and no text. Raises ClickException for a model
    that run.c cannot compute: rotation of another base, an untied head is all right.
    """
    config = model.config
    if config.rope.theta != 10000.0 or config.rope.kind != "default":
        raise click.ClickException("run.c knows no other rotation than that of base 10000")
    tied = "lm_head.weight" not in model.tensors
    sizes = (config.hidden_size, config.intermediate_size, config.num_layers)
    heads = (config.num_heads, config.num_kv_heads)
    vocabulary = config.vocab_size if tied else -config.vocab_size
    parts = [struct.pack("<7i", *sizes, *heads, vocabulary, context)]

    def add(name: str) -> None:
        values = model.load(name + ".weight")
        if name.endswith(("q_proj", "k_proj")):
            values = interleaved(values, config.head_dim)
        parts.append(values.astype("<f4").tobytes())

    add("model.embed_tokens")
    for name in ("input_layernorm", *MATRICES):
        for layer in range(config.num_layers):
            add(BLOCK.format(layer) + name)
    add("model.norm")
    parts.append(bytes(4 * context * config.head_dim))  # tables of the rotation, not read
    if not tied:
        add("lm_head")
    checkpoint, tokenizer = directory / "model.bin", directory / "tokenizer.bin"
    checkpoint.write_bytes(b"".join(parts))
    pieces = (f"<{token}>".encode() for token in range(config.vocab_size))
    entries = (struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    tokenizer.write_bytes(struct.pack("<i", 16) + b"".join(entries))
    return checkpoint, tokenizer


def llama2c_speed(program: Path, files: tuple[Path, Path], steps: int, threads: int) -> float:
    """Tokens per second that run.c reports."""
    checkpoint, tokenizer = map(str, files)
    command = [str(program), checkpoint, "-z", tokenizer, "-t", "0", "-n", str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(command, capture_output=True, env=environment, check=False)
    found = re.search(r"achieved tok/s: ([\d.]+)", run.stderr.decode(errors="replace"))
    if run.returncode != 0 or found is None:
        raise click.ClickException(f"{program} failed: {run.stderr[-300:]!r}")
    return float(found.group(1))


def build(model_dir: Path, mode: ActMode, optimize: str, directory: Path) -> Path:
    """The bundle's runner for this machine."""
    options = CompileOptions(modes=dict.fromkeys(SITES, mode))
    compiled = compile_model(model_dir, "rv32", options, lambda _: None)
    bundle, out = directory / "bundle", directory / "out"
    write_bundle(compiled.bundle, bundle)
    run_make(Build(bundle, out, "host", find_host_compiler(), ("runner",), optimize=optimize))
    return next(out.glob("*_runner"))


def speed(runner: Path, steps: int, threads: int) -> float:
    """Tokens per second of the steps themselves, without start and self-test."""
    run = run_program([str(runner), str(threads), str(steps)])
    if run.exit_code != 0:
        raise click.ClickException(f"{runner} failed with exit code {run.exit_code}")
    times = [step.ticks for step in read_dump(run.output).steps]
    return 1e9 * len(times) / sum(times)


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--llama2c", type=click.Path(path_type=Path, exists=True), help="run.c, built.")
@click.option("--optimize", default="-O3 -march=native", show_default=True)
@click.option("--steps", default=256, show_default=True)
@click.option("--repeat", default=5, show_default=True)
def main(
    model_dir: Path | None, llama2c: Path | None, optimize: str, steps: int, repeat: int
) -> None:
    """Print tokens per second of MODEL_DIR on this machine."""
    model_dir = model_dir or bundled_model()
    print(f"{model_dir.name}, {steps} tokens, {find_host_compiler().name} {optimize}")
    with tempfile.TemporaryDirectory() as scratch:
        files = write_llama2c(load_model(model_dir), steps, Path(scratch)) if llama2c else None
        runners = {}
        for mode in (ActMode.A16, ActMode.A8):
            directory = Path(scratch) / mode.value
            directory.mkdir()
            runners[mode] = build(model_dir, mode, optimize, directory)
        for threads in (1, 2):
            line = f"  {threads} thread{'s' * (threads > 1)}:"
            base = 0.0
            if llama2c and files:
                runs = [
                    llama2c_speed(llama2c.resolve(), files, steps, threads) for _ in range(repeat)
                ]
                base = max(runs)
                line += f"  llama2.c float32 {base:.0f} tokens/s"
            for mode, runner in runners.items():
                found = max(speed(runner, steps, threads) for _ in range(repeat))
                line += f"  int4 {mode.value} {found:.0f}"
                line += f" ({found / base:.2f} x)" if base else ""
            print(line)


if __name__ == "__main__":
    main()
