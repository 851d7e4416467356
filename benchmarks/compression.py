"""What each compression step costs in perplexity, in float and on the packed integer build.

    python benchmarks/compression.py MODEL_DIR WORK_DIR [--text FILE] [--windows 16]

Without --text: the built-in calibration text, and the held-out chapters of the bundled model. With
it: the first half of FILE calibrates and trains, the second half judges. Every row is a recipe run
below WORK_DIR, so that an interrupted benchmark goes on where it was. The integer column is `edgec
compile` and the fast simulator on the result, or on the last stage that compile reads, which the
row then names. Prints a Markdown table; figures.json in WORK_DIR
has the same. Needs the extra `compress`.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from sim.session import Session, read_constants
from toolchain.compress.checkpoint import write_json
from toolchain.compress.perplexity import Evaluation, is_float
from toolchain.compress.pipeline import Settings, run_recipe
from toolchain.compress.recipe import Recipe, load_recipe, parse_recipe
from toolchain.compress.texts import TextCache, cut_windows, heldout_file, window_length
from toolchain.fit.design import Design, build_program
from toolchain.fit.sizes import packed_size
from toolchain.model.bits_file import apply_bits
from toolchain.model.coded_settings import apply_codes
from toolchain.model.config import ModelConfig, read_config
from toolchain.model.errors import EdgecError
from toolchain.model.lora import base_directory
from toolchain.model.quant_settings import QuantConfig
from toolchain.pipeline import CompileOptions, compile_model

Stage = dict[str, Any]
SAMPLES = 32


@dataclass(frozen=True, slots=True)
class Case:
    """A row: a name and its stages, or a built-in recipe with overrides."""

    name: str
    stages: tuple[Stage, ...] = ()
    recipe: str = ""
    sets: tuple[str, ...] = ()
    group_size: int = 32  # of the compile, where the checkpoint says nothing


def gptq(group_size: int, **more: Any) -> Stage:
    """A GPTQ stage of 4 bits."""
    return {"kind": "quantize", "group_size": group_size, "samples": SAMPLES} | more


def cases(config: ModelConfig) -> list[Case]:
    """All rows for a model; sizes follow its shape."""
    rank = min(16, config.num_kv_heads * config.head_dim // 2)
    eora = {"kind": "eora", "rank": rank, "samples": SAMPLES}
    lora = {"kind": "lora", "samples": 64, "epochs": 4}
    rows = []
    for size, name in ((-1, "per channel"), (32, "group 32")):
        rtn = {"kind": "quantize", "method": "rtn", "group_size": size}
        rows += [
            Case(f"RTN int4 {name}", (rtn,), group_size=size),
            Case(f"GPTQ int4 {name}", (gptq(size),), group_size=size),
            Case(f"GPTQ int4 {name}, clipped", (gptq(size, clip=True),), group_size=size),
            Case(f"GPTQ int4 {name} + EoRA {rank}", (gptq(size), eora), group_size=size),
        ]
    for pattern in ("1:8", "2:4", "4:8", "8:16"):
        width = {"kind": "width", "pattern": pattern, "samples": SAMPLES}
        rows.append(Case(f"Wanda {pattern}", (width,)))
        if pattern == "2:4":
            rows += [
                Case("Wanda 2:4 + LoRA", (width, lora)),
                Case("Wanda 2:4 + LoRA + GPTQ group 32", (width, lora, gptq(32))),
                Case("Wanda 2:4 + LoRA + GPTQ + EoRA", (width, lora, gptq(32), eora)),
            ]
    silenced = {"kind": "structured", "attention": 1, "samples": SAMPLES}
    depth = ("depth.remove=1", "depth.protect_first=1", "depth.protect_last=1")
    half = _budget(config)
    common = (f"quantize.samples={SAMPLES}",)
    return [
        *rows,
        Case("recipe galavotti", (), "galavotti", (*depth, f"eora.rank={rank}", *common)),
        Case("recipe sheared-lora", (), "sheared-lora"),
        Case("recipe midllamai", (), "midllamai", common),
        Case("recipe module-specific", (), "module-specific"),
        Case("recipe franken", (), "franken"),
        Case(
            f"recipe siracusa, {half // 1024} KiB",
            (),
            "siracusa",
            (f"allocate-bits.budget={{mram={half}}}", *common),
            -1,
        ),
        Case("2SSP, one attention module", (silenced,)),
        Case("2SSP, one attention module + LoRA", (silenced, lora)),
    ]


def _budget(config: ModelConfig) -> int:
    """Half of what 8-bit weights of the whole model take."""
    quant = QuantConfig(bits=8, group_size=-1)
    size = packed_size(build_program(Design(config, quant, config.max_position_embeddings)))
    return size // 2 // 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bench:
    """One model and its texts."""

    model: Path
    work: Path
    calibration: str
    heldout: str
    windows: int
    tokens: int

    def float_and_integer(self, case: Case, number: int) -> dict[str, Any]:
        """Run a case and measure its last checkpoint."""
        out = self.work / f"{number:02d}"
        evaluation = Evaluation(self.heldout, self.windows, self.tokens)
        settings = Settings(self.model, out, seed=0, threads=1, evaluation=evaluation)
        rows = run_recipe(self.recipe(case), settings, lambda *_: None)
        last = rows[-1]
        found = {
            "name": case.name,
            "perplexity": last.perplexity,
            "packed_bytes": last.packed_bytes,
            "disk_bytes": last.disk_bytes,
            "seconds": sum(row.seconds or 0 for row in rows),
        }
        for row in reversed(rows[1:]):
            value = self.integer(out / row.directory, case.group_size)
            if value is not None:
                of = "" if row is last else row.stage
                return found | {"integer_perplexity": value, "integer_of": of}
        return found | {"integer_perplexity": None, "integer_of": ""}

    def recipe(self, case: Case) -> Recipe:
        """The stages with this bench's calibration text."""
        if case.recipe:
            names = [stage.label for stage in load_recipe(case.recipe).stages]
            sets = [*case.sets, *(f"{n}.calibration={self.calibration}" for n in names)]
            return load_recipe(case.recipe, [s for s in sets if _applies(case, s)])
        stages = [stage | {"calibration": self.calibration} for stage in case.stages]
        for stage in stages:
            if stage.get("method") == "rtn":
                del stage["calibration"]
        return parse_recipe(case.name, {"stage": stages})

    def integer(self, directory: Path, group_size: int) -> float | None:
        """Perplexity of a build on the simulator; None where compile refuses the checkpoint."""
        try:
            base = base_directory(directory)
            quant = apply_bits(base, QuantConfig(group_size=group_size), ())
            options = CompileOptions(apply_codes(base, quant, ()), self.tokens, {})
            compiled = compile_model(directory, "siracusa", options, lambda _: None)
        except EdgecError:
            if is_float(directory):
                raise
            return None
        with tempfile.TemporaryDirectory() as folder:
            build = Path(folder) / "build"
            write_bundle(compiled.bundle, build)
            bundle = load_bundle(build)
            session = Session(
                bundle.program, read_constants(bundle.program, bundle.plan, bundle.blobs)
            )
        total, count = 0.0, 0
        for window in self.token_windows():
            session.reset()
            logits = session.forward(window)[:-1] / 65536.0
            top = logits.max(-1, keepdims=True)
            norm = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
            total += float((norm - logits[np.arange(len(logits)), window[1:]]).sum())
            count += len(logits)
        return float(np.exp(total / count))

    def token_windows(self) -> Any:
        """The windows of the float perplexity."""
        path = heldout_file() if self.heldout == "builtin" else Path(self.heldout)
        texts = TextCache()
        ids = texts.ids(self.model, path.read_text(encoding="utf-8"))
        return cut_windows(self.model, ids, self.tokens)[: self.windows].numpy()


def _applies(case: Case, text: str) -> bool:
    """Whether a stage of the recipe looks at text, for settings of `calibration`."""
    _, name = text.partition("=")[0].split(".")
    if name != "calibration":
        return True
    try:
        load_recipe(case.recipe, [*case.sets, text])
    except EdgecError:
        return False
    return True


def _split(text: Path, work: Path) -> tuple[str, str]:
    content = text.read_text(encoding="utf-8")
    middle = content.index("\n", len(content) // 2) + 1
    parts = work / "calibration.txt", work / "heldout.txt"
    for path, part in zip(parts, (content[:middle], content[middle:]), strict=True):
        path.write_text(part, encoding="utf-8")
    return str(parts[0]), str(parts[1])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path, exists=True))
@click.argument("work_dir", type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path, exists=True))
@click.option("--windows", default=16, show_default=True)
@click.option("--tokens", default=256, show_default=True)
def main(model_dir: Path, work_dir: Path, text: Path | None, windows: int, tokens: int) -> None:
    """Print the table of MODEL_DIR."""
    work_dir.mkdir(parents=True, exist_ok=True)
    calibration, heldout = ("builtin", "builtin") if text is None else _split(text, work_dir)
    length = window_length(model_dir, tokens)
    bench = Bench(model_dir, work_dir, calibration, heldout, windows, length)
    echo = partial(click.echo, err=True)
    found = []
    for number, case in enumerate(cases(read_config(model_dir)), start=1):
        echo(case.name)
        try:
            found.append(bench.float_and_integer(case, number))
        except EdgecError as error:
            found.append({"name": case.name, "error": str(error)})
            echo(str(error))
    first = json.loads((work_dir / "01" / "input.json").read_text(encoding="utf-8"))
    title = (
        f"{model_dir.name}: {windows} windows of {length} tokens, float {first['perplexity']:.2f}; "
        "int4 as compile rounds by itself, on the integer build: group 32 "
        f"{_number(bench.integer(model_dir, 32))}, "
        f"per channel {_number(bench.integer(model_dir, -1))}"
    )
    lines = [
        title,
        "",
        "| | perplexity | integer build | packed bytes |",
        "|---|---:|---:|---:|",
    ]
    for row in found:
        if "error" in row:
            lines.append(f"| {row['name']} | refused | | |")
            continue
        of = f" (of {row['integer_of']})" if row["integer_of"] else ""
        packed = "-" if row["packed_bytes"] is None else f"{row['packed_bytes']:,}"
        integer = _number(row["integer_perplexity"]) + of
        lines.append(f"| {row['name']} | {_number(row['perplexity'])} | {integer} | {packed} |")
    write_json(work_dir / "figures.json", found)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
