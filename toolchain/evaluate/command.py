"""The commands `eval`, `export-onnx` and `sensitivity`: options in, text, JSON or CSV out.

Everything heavy is imported inside the commands: reading this module costs nothing, because
`edgec --help` does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import QUANT_OPTIONS, json_option, print_json, read_model_options

if TYPE_CHECKING:
    from toolchain.options import ModelOptions

Command = Callable[..., None]
NETWORK_OPTIONS = (
    *QUANT_OPTIONS,
    click.option(
        "--activations", default="a16", show_default=True, help="Of the integer run, as in compile."
    ),
)
QUANT_NAMES = (
    "bits",
    "group_size",
    "embed_bits",
    "head_bits",
    "layers",
    "context",
    "activations",
)


def quant_options(command: Command) -> Command:
    """Adds the settings of a quantization, those of `edgec compile` without a target."""
    for option in reversed(NETWORK_OPTIONS):
        command = option(command)
    return command


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


@click.command("export-onnx")
@click.argument(
    "model", metavar="[MODEL_OR_BUILD]", required=False, type=click.Path(path_type=Path)
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file.")
@click.option("--text", type=click.Path(path_type=Path), help="Compare perplexities on this text.")
@click.option("--limit", type=click.IntRange(1), help="Windows of the text.")
@click.option("--window", type=int, help="Tokens per window.  [default: 512, or the context]")
@quant_options
@json_option
@click.pass_context
def export_onnx(
    ctx: click.Context,
    /,
    model: Path | None,
    output: Path,
    text: Path | None,
    limit: int | None,
    window: int | None,
    as_json: bool,
    **quant: Any,
) -> None:
    """Write the quantized model as ONNX (opset 21, int4 and int8 behind DequantizeLinear).

    A build exports the integers of its blobs; a checkpoint is quantized first. With --text, ONNX
    Runtime referees: perplexity of the file, of the same weights in float, and of the integers.

    \b
    Example: edgec export-onnx build/stories -o stories.onnx --text stories.txt --limit 8
    """
    from importlib.util import find_spec

    from toolchain.commands import progress_bar
    from toolchain.model.errors import ToolError

    check_text(text, {"--limit": limit, "--window": window})
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise ToolError("onnx or onnxruntime is not installed", fix="pip install 'edgec[onnx]'")
    from toolchain.evaluate import export
    from toolchain.evaluate.data_files import read_text

    content = None if text is None else read_text(text)
    with progress_bar() as bar:
        task = bar.add_task("reading the model", total=None)
        opened = export.open_quantized(model, given_quantization(ctx, model, quant))
        windows = None if content is None else export.text_windows(opened, content, window, limit)
        bar.update(task, description="building the graph")
        serialized = export.export_onnx(opened)
        bar.update(task, description="comparing perplexities")
        judged = None if windows is None else export.referee(opened, serialized, windows)
    export.write_file(output, serialized)
    report = {"output": str(output), "bytes": len(serialized), "referee": judged}
    if as_json:
        print_json(report)
    else:
        export.print_export(report)


@click.command("sensitivity")
@click.argument("model", metavar="[MODEL_DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), help="Calibration text.  [default: own]")
@click.option(
    "--limit", type=click.IntRange(1), default=4, show_default=True, help="Windows of the text."
)
@click.option("--window", type=int, help="Tokens per window.  [default: 512, or the context]")
@quant_options
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per matrix.")
@json_option
@click.pass_context
def sensitivity(
    ctx: click.Context,
    /,
    model: Path | None,
    text: Path | None,
    limit: int,
    window: int | None,
    as_csv: bool,
    as_json: bool,
    **quant: Any,
) -> None:
    """Measure what quantization does to each matrix, and what one bit more or less changes.

    Signal-to-noise ratios, stored bytes and loss per matrix on calibration text, and the perplexity
    of the float, the quantized and the integer model. Needs no torch.

    \b
    Example: edgec sensitivity my-model --text sample.txt --bits 4 --group-size -1
    """
    check_output(as_csv, as_json)
    from toolchain.commands import progress_bar
    from toolchain.evaluate.sensitivity_report import print_report, to_csv
    from toolchain.evaluate.sensitivity_run import run_sensitivity

    check_text(text, {})
    options = read_quantization(ctx, model, quant)
    with progress_bar() as bar:
        task = bar.add_task("reading the model", total=None)
        report = run_sensitivity(
            model, options, text, (window, limit), lambda step: bar.update(task, description=step)
        )
    if as_json:
        print_json(report)
    elif as_csv:
        click.echo(to_csv(report), nl=False)
    else:
        print_report(report)


def given_quantization(
    ctx: click.Context, model: Path | None, values: dict[str, Any]
) -> ModelOptions | None:
    """Settings for a checkpoint; None for a build, when none was given."""
    from codegen.bundle import MANIFEST

    typed = click.core.ParameterSource.COMMANDLINE
    given = any(ctx.get_parameter_source(name) is typed for name in QUANT_NAMES)
    if model is not None and (model / MANIFEST).is_file() and not given:
        return None
    return read_quantization(ctx, model, values)


def read_quantization(
    ctx: click.Context, model: Path | None, values: dict[str, Any]
) -> ModelOptions:
    """The settings, parsed, as `edgec compile` has them; the target is not used."""
    return read_model_options({"target": "", **values}, ctx, model)


def check_text(text: Path | None, needing: dict[str, object]) -> None:
    """Raise ConfigError for a text that is no file, and for options that need one."""
    from toolchain.model.errors import ConfigError, Problem

    problems = [
        Problem(name, "no --text", "only with --text FILE")
        for name, value in needing.items()
        if text is None and value is not None
    ]
    if text is not None and not text.is_file():
        problems.append(Problem("--text", str(text), "a text file"))
    if problems:
        raise ConfigError("some options cannot be used", problems)


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
