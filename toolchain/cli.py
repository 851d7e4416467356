"""The `edgec` command line: options in, one pipeline function, text or JSON out.

Heavy imports happen inside the commands, so that `edgec --help` answers at once. Every command
takes `--json`; progress goes to stderr. Exit codes are those of toolchain/model/errors.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.fit.options import BUNDLED, FIT_OPTIONS, fit_options

if TYPE_CHECKING:
    from toolchain.options import ModelOptions

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
EXIT_CODES = """\b
Exit codes: 0 done, 2 bad option, 3 does not fit, 4 unsupported model, 5 broken checkpoint,
6 outputs differ, 7 compiler or simulator missing, 8 damaged bundle, 9 cannot be quantized,
10 the system refused (disk, permissions), 11 compression failed, 70 defect of edgec,
1 interrupted."""

Command = Callable[..., None]
# Commands of rooms with an extra of their own, imported when they are named or listed.
LAZY_COMMANDS = {
    "compress": ("toolchain.compress.command", "compress"),
    "recipes": ("toolchain.compress.command", "recipes"),
    "eval": ("toolchain.evaluate.command", "evaluate"),
    "export-onnx": ("toolchain.evaluate.command", "export_onnx"),
    "sizes": ("toolchain.firmware.command", "sizes"),
    "sensitivity": ("toolchain.evaluate.command", "sensitivity"),
}


class EdgecGroup(click.Group):
    """Turns an EdgecError into its text (or JSON) and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the alphabet."""
        return sorted([*super().list_commands(ctx), *LAZY_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if it is one of `LAZY_COMMANDS`."""
        if cmd_name not in LAZY_COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, name = LAZY_COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember whether errors are to be JSON too: they may come before the option is parsed."""
        ctx.meta["edgec.json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; every error that edgec foresees ends here."""
        from toolchain.model.errors import ConfigError, EdgecError, EnvironmentFailureError

        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if not ctx.meta["edgec.json"]:
                raise
            failure: EdgecError = ConfigError(error.format_message())
        except OSError as error:
            failure = EnvironmentFailureError(f"the system refused: {error}")
        except EdgecError as error:
            failure = error
        if ctx.meta["edgec.json"]:
            print_json(failure.to_dict())
        else:
            click.echo(f"edgec: {failure}", err=True)
        raise click.exceptions.Exit(failure.exit_code)


def print_json(value: object) -> None:
    """One JSON document on stdout, keys in the order in which they were built."""
    import json

    click.echo(json.dumps(value, indent=2))


def json_option(command: Command) -> Command:
    """Adds `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


# What every command that quantizes takes.
QUANT_OPTIONS = (
    click.option(
        "--bits",
        multiple=True,
        metavar="[PATTERN=]BITS",
        help="2 to 8, of the projections, or of the op ids that match PATTERN; may be repeated.  "
        "[default: 4]",
    ),
    click.option(
        "--group-size",
        type=int,
        default=32,
        show_default=True,
        help="Inputs that share a scale; -1: one scale per output channel.",
    ),
    click.option("--embed-bits", type=int, help="Of the embedding.  [default: 8]"),
    click.option("--head-bits", type=int, help="Of lm_head.  [default: as the embedding]"),
    click.option(
        "--layer",
        "layers",
        multiple=True,
        metavar="PATTERN=BITS[:GROUP]",
        help="Other bits (and group size) for the op ids that match; may be repeated.",
    ),
    click.option("--context", type=int, help="Positions of the KV cache.  [default: trained]"),
)


def model_options(command: Command) -> Command:
    """Adds what `compile` and `fit` share: target, bits, groups, context, activation widths."""
    options = [
        click.option("--target", default="siracusa", show_default=True, help="Name or TOML file."),
        *QUANT_OPTIONS,
        click.option(
            "--activations",
            default="a16",
            show_default=True,
            help="a16, a8, or SITE=MODE,...; sites: attn_in, o_in, mlp_in, down_in, head_in.",
        ),
        click.option(
            "--pin",
            multiple=True,
            metavar="PATTERN=REGION",
            help="Keep the tensors that match in a region; may be repeated, the last one counts.",
        ),
        click.option(
            "--region",
            multiple=True,
            metavar="NAME=SIZE",
            help="Bytes of a region that the model may use, like l2=512KiB; may be repeated.",
        ),
        click.option("--l1", metavar="SIZE", help="The same as --region l1=SIZE."),
        click.option(
            "--engine",
            type=click.Choice(["auto", "neureka", "cores"]),
            default="auto",
            show_default=True,
            help="What multiplies: the faster for each linear, the engine where it can, or cores.",
        ),
        click.option(
            "--arithmetic",
            type=click.Choice(["precise", "fast"]),
            default="precise",
            show_default=True,
            help="fast: products of 32 bits in linears, logits and gates (docs/numerics.md 11).",
        ),
        click.option(
            "--prefill-batch",
            default="auto",
            metavar="TOKENS",
            show_default=True,
            help="Of a prompt, that go through a block together: 1, 2, 4, 8, 16, or what pays.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=EdgecGroup, context_settings=CONTEXT_SETTINGS, epilog=EXIT_CODES)
@click.version_option(package_name="edgec", prog_name="edgec")
def main() -> None:
    """Compile a Llama-style checkpoint to bit-exact C firmware for small RISC-V SoCs."""


@main.command()
@click.argument("model_dir", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle.")
@click.option("--prefix", default="edgec", show_default=True, help="Of every external C symbol.")
@click.option("--golden-steps", type=int, help="Golden tokens.  [default: 16, or the context]")
@click.option(
    "--sparse",
    multiple=True,
    metavar="[PATTERN=]RULE",
    help="auto: store N:M patterns that are found where that is faster or needed for room "
    "(default); found: wherever it saves bytes; off: all dense; N:M: require N of every M inputs "
    "to be zero. PATTERN names op ids; may be repeated, the last one counts.",
)
@model_options
@json_option
@click.pass_context
def compile(
    ctx: click.Context,
    /,
    model_dir: Path | None,
    output: Path,
    prefix: str,
    golden_steps: int | None,
    as_json: bool,
    **model: Any,
) -> None:
    """Compile MODEL_DIR (Hugging Face layout) into a bundle of C, weights and golden vectors.

    Without MODEL_DIR, or with the name "bundled", it is the model that comes with edgec.

    \b
    Example: edgec compile bundled --target siracusa -o build/demo
    """
    from toolchain.commands import run_compile
    from toolchain.options import CompileRequest

    if model_dir == Path(BUNDLED) and not model_dir.exists():
        model_dir = None
    options = read_model_options(model, ctx, model_dir)
    request = CompileRequest(model_dir, output, prefix, golden_steps, options)
    run_compile(request, as_json)


@main.command()
@click.argument("model", required=False)
@model_options
@fit_options
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the report of the one model as a page, too.",
)
@json_option
@click.pass_context
def fit(
    ctx: click.Context, /, model: str | None, html: Path | None, as_json: bool, **options: Any
) -> None:
    """Say from its shape alone whether MODEL fits the target; exit code 3 when it does not.

    MODEL is a directory, a config.json or the name of a built-in shape; without it, the model that
    comes with edgec. What-ifs (--depth to --layer-order) compose.

    \b
    Example: edgec fit bundled --target siracusa --context 128 --html fit.html
             edgec fit llama-3.2-1b --depth 2 --width 1:8 --context 512
             edgec fit --suggest --params 4M --vocab 2048
    """
    from toolchain.fit.command import run_fit
    from toolchain.fit.parse import parse_fit_options

    own = parse_fit_options({name: options.pop(name) for name in FIT_OPTIONS}, given_names(ctx))
    directory = None if model is None else Path(model)
    shared, draw = read_model_options(options, ctx, directory), None
    if html is not None:
        from toolchain.commands import write_fit_page

        draw = partial(write_fit_page, html)
    run_fit(model, shared, own, draw, as_json)


@main.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--prompt", help="Text to continue.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=100, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 100), default=0.0, show_default=True)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampling."
)
@click.option("--profile", is_flag=True, help="Say where the time and the energy go; no text.")
@click.option(
    "--context", type=int, help="Of the profile: rows of KV cache.  [default: half of the context]"
)
@click.option(
    "--reading",
    default="simulator",
    show_default=True,
    help="Of the profile, where sources differ: simulator or conservative.",
)
@json_option
@click.pass_context
def simulate(ctx: click.Context, /, build: Path, as_json: bool, **options: Any) -> None:
    """Let a compiled model speak: bit-exact text, and the latency estimate.

    \b
    Example: edgec simulate build/demo --prompt "Once upon a time"
             edgec simulate build/demo --profile --context 128
    """
    from toolchain.commands import run_profile, run_simulate
    from toolchain.options import ProfileRequest, parse_simulate_options

    typed = click.core.ParameterSource.COMMANDLINE
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is typed]
    request = parse_simulate_options(build, options, given)
    if isinstance(request, ProfileRequest):
        run_profile(request, as_json)
    else:
        run_simulate(request, as_json)


@main.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option(
    "--runner", "runners", default="host", show_default=True, help="host, rv32, or host,rv32."
)
@click.option(
    "--steps", type=int, help="Steps to compare.  [default: into the third chunk of the KV cache]"
)
@json_option
def verify(build: Path, runners: str, steps: int | None, as_json: bool) -> None:
    """Build the bundle's C, run it, and compare every tensor of every op with the simulator.

    \b
    Example: edgec verify build/demo --runner host,rv32
    """
    from toolchain.commands import run_verify

    run_verify(build, tuple(runners.split(",")), steps, as_json)


@main.command()
@click.argument("dump", type=click.Path(path_type=Path))
@click.argument("golden", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="The dump holds only some of the golden tensors.")
@json_option
def compare(dump: Path, golden: Path, partial: bool, as_json: bool) -> None:
    """Name the first op, step and element where DUMP differs from the GOLDEN folder of a bundle.

    \b
    Example: edgec compare board.dump build/demo/golden
    """
    from toolchain.commands import run_compare

    run_compare(dump, golden, partial, as_json)


@main.command()
@json_option
def targets(as_json: bool) -> None:
    """List the known SoCs and their memories.

    \b
    Example: edgec targets --json
    """
    from toolchain.commands import run_targets

    run_targets(as_json)


def given_names(ctx: click.Context) -> list[str]:
    """Parameters that stand on the command line."""
    typed = click.core.ParameterSource.COMMANDLINE
    return [name for name in ctx.params if ctx.get_parameter_source(name) is typed]


def read_model_options(
    values: dict[str, Any], ctx: click.Context, model_dir: Path | None
) -> ModelOptions:
    """The shared options, parsed, with the bits that a checkpoint directory brings along.

    Those are chosen by allocate-bits or fixed by integer codes. Raises ConfigError naming every bad
    option, and what reading a checkpoint of codes raises.
    """
    from toolchain.options import parse_model_options

    options, given = parse_model_options(**values), given_names(ctx)
    if model_dir is None or not model_dir.exists():
        return options
    from dataclasses import replace

    from toolchain.model.bits_file import apply_bits
    from toolchain.model.coded_settings import apply_codes
    from toolchain.model.lora import base_directory

    if all("=" in text for text in values["bits"]):  # of some matrices: checked like --layer
        given = [name for name in given if name != "bits"]
    model_dir = base_directory(model_dir)
    quant = apply_bits(model_dir, options.quant, given)
    return replace(options, quant=apply_codes(model_dir, quant, given))


if __name__ == "__main__":
    main()
