"""`edgec compress` and `edgec recipes`: options in, the pipeline, a table or one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import json_option, print_json

if TYPE_CHECKING:
    from toolchain.compress.place import Place


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--recipe", required=True, metavar="NAME|FILE", help="See `edgec recipes`.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="All stages.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="Another value for an option; STAGE is a kind, or kind#2; may be repeated.",
)
@click.option("--skip", "skips", multiple=True, metavar="STAGE", help="Leave a stage out.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: a GPU where there is one.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; bits may follow.  [default: all]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--eval-text", default="builtin", show_default=True, help="Held-out text: a file.")
@click.option(
    "--eval-windows",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Windows for the perplexity after each stage; 0: none.",
)
@click.option("--eval-tokens", type=click.IntRange(2), help="Per window.  [default: 512 or less]")
@click.option("--target", help="Where to plan every stage, as `edgec fit` does.")
@click.option("--context", type=click.IntRange(1), help="For --target.  [default: the model's]")
@click.option("--region", multiple=True, metavar="NAME=SIZE", help="For --target, as in fit.")
@click.option("--allow-hub", is_flag=True, help="Stages may download what hub: names.")
@click.option("--restart", is_flag=True, help="Delete the stages in the output and begin anew.")
@json_option
def compress(**options: Any) -> None:
    """Run the stages of a recipe on MODEL_DIR; every stage leaves a checkpoint in OUTPUT.

    The name "bundled" is the model that comes with edgec.

    Finished stages are not repeated: run the same command again after an interruption.

    \b
    Example: edgec compress my-model --recipe galavotti -o build/small --set depth.remove=4
             edgec compress my-model --recipe siracusa -o build/small --target siracusa
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from toolchain.compress.recipe import load_recipe
    from toolchain.fit.options import BUNDLED
    from toolchain.options import bundled_model
    from toolchain.tables import stderr

    model_dir = options["model_dir"]
    if model_dir == Path(BUNDLED) and not model_dir.exists():
        model_dir = bundled_model()
    place = read_place(options["target"], options["context"], options["region"])
    recipe = load_recipe(options["recipe"], options["sets"], options["skips"])

    from toolchain.compress.perplexity import Evaluation
    from toolchain.compress.pipeline import Settings, run_recipe
    from toolchain.compress.summary import print_summary, summary_values

    windows = options["eval_windows"]
    evaluation = Evaluation(options["eval_text"], windows, options["eval_tokens"])
    settings = Settings(
        model_dir,
        options["output"],
        options["device"],
        options["seed"],
        options["allow_hub"],
        options["restart"],
        options["threads"],
        evaluation if windows else None,
        place,
    )
    labels = ["input", *(stage.label for stage in recipe.stages)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=stderr(), transient=True) as bar:
        whole = bar.add_task(f"recipe {recipe.name}", total=len(labels))
        step = bar.add_task("", total=None)

        def report(stage: str, what: str, done: int, total: int) -> None:
            bar.update(whole, completed=labels.index(stage))
            text = f"{stage}: {what}"
            bar.update(step, description=text, completed=done, total=total or None)

        rows = run_recipe(recipe, settings, report)
    if options["as_json"]:
        print_json(summary_values(recipe, settings.seed, rows))
    else:
        print_summary(rows, options["target"])


def read_place(target: str | None, context: int | None, regions: tuple[str, ...]) -> Place | None:
    """Where to plan; raises ConfigError for what cannot be, or has no effect without a target."""
    from memory_planner.limits import limited_target
    from memory_planner.target_file import load_target
    from toolchain.compress.place import Place
    from toolchain.model.errors import ConfigError, Problem
    from toolchain.options import parse_region_sizes

    if target is not None:
        limits = parse_region_sizes(regions)
        return Place(limited_target(load_target(target), limits), context)
    given = {"--context": context, "--region": regions}
    problems = [Problem(name, "given", "only with --target") for name in given if given[name]]
    if problems:
        raise ConfigError("some options cannot be used", problems)
    return None


@click.command()
@click.option("--stages", is_flag=True, help="List the stage kinds instead.")
@click.option("--stage", "kind", metavar="KIND", help="List the options of a stage kind.")
@json_option
def recipes(stages: bool, kind: str | None, as_json: bool) -> None:
    """List the built-in recipes, the stage kinds, or the options of one.

    \b
    Example: edgec recipes --stage width
    """
    from toolchain.compress.listing import list_options, list_recipes, list_stages, print_entries

    if kind is not None:
        title, entries = "options", list_options(kind)
    elif stages:
        title, entries = "stages", list_stages()
    else:
        title, entries = "recipes", list_recipes()
    if as_json:
        print_json({title: entries})
    else:
        print_entries(entries)
