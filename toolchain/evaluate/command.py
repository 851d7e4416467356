"""The commands `eval`, `export-onnx` and `sensitivity`: options in, text, JSON or CSV out.

Everything heavy is imported inside the commands: reading this module costs nothing, because
`edgec --help` does it.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from toolchain.cli import json_option, print_json


@click.command("eval")
@click.argument("model", metavar="[MODEL_OR_BUILD]", required=False)
@click.option("--suite", "suites", required=True, help="Comma-separated; see below.")
@click.option("--data", type=click.Path(path_type=Path), help="Directory of the data files.")
@click.option("--text", type=click.Path(path_type=Path), help="File of the suite `text`.")
@click.option("--limit", type=click.IntRange(1), help="Windows or questions per suite.")
@click.option("--window", type=int, help="Tokens per window.  [default: 512, or the context]")
@click.option(
    "--shots", type=int, default=0, show_default=True, help="Examples before a question (mmlu)."
)
@click.option(
    "--device", default="auto", show_default=True, help="auto, numpy, cpu, cuda or cuda:N."
)
@click.option("--allow-hub", is_flag=True, help="Models and data may be downloaded.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per metric.")
@json_option
def evaluate(
    model: str | None,
    suites: str,
    data: Path | None,
    text: Path | None,
    limit: int | None,
    window: int | None,
    shots: int,
    device: str,
    allow_hub: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Measure perplexity and accuracy of a checkpoint, or of a build on the integer simulator.

    Suites: wikitext2, text (any file), triviaqa-closed, triviaqa-open, boolq, rte, hellaswag,
    winogrande, arc_easy, arc_challenge, openbookqa, mmlu, bbh. Without a model, the one that comes
    with edgec. Without --data, files are looked for in data and ../shared/data.

    \b
    Example: edgec eval build/stories --suite text --text stories.txt
             edgec eval my-model --suite wikitext2,boolq,arc_easy --data data --limit 100
    """
    check_output(as_csv, as_json)
    keep_offline(allow_hub)
    from toolchain.commands import progress_bar
    from toolchain.evaluate.results import print_report, to_csv, to_report
    from toolchain.evaluate.run import EvalOptions, check_options, run_suites
    from toolchain.evaluate.subject import open_subject
    from toolchain.evaluate.suites import parse_suites

    options = EvalOptions(parse_suites(suites), data, text, limit, window, shots, allow_hub)
    found = check_options(options)
    with progress_bar() as bar:
        task = bar.add_task("reading the model", total=None)
        subject = open_subject(model_path(model, allow_hub), device)

        def advance(suite: str, done: int, total: int | None) -> None:
            bar.update(task, description=f"{suite}: {done:,}{f' of {total:,}' if total else ''}")

        results = run_suites(subject, options, found, advance)
    report = to_report(subject, results)
    if as_json:
        print_json(report)
    elif as_csv:
        click.echo(to_csv(report), nl=False)
    else:
        print_report(report)


def check_output(as_csv: bool, as_json: bool) -> None:
    """Raise ConfigError when both forms of output are asked for."""
    from toolchain.model.errors import ConfigError, Problem

    if as_csv and as_json:
        problem = Problem("--csv, --json", "both", "one of them")
        raise ConfigError("some options cannot be used together", [problem])


def keep_offline(allow_hub: bool) -> None:
    """Tell the libraries of the hub, before they are imported, that nothing may be downloaded."""
    if not allow_hub:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress is shown here


def model_path(model: str | None, allow_hub: bool) -> Path | None:
    """A local directory, or the snapshot of a hub model where downloads are allowed."""
    if model is None or Path(model).exists() or not allow_hub:
        return None if model is None else Path(model)
    from toolchain.evaluate.hub import snapshot

    return snapshot(model)
