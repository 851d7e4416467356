"""Runs a recipe: checks everything that can be checked first, then stage after stage.

A stage that is finished with the same options, seed and input is not repeated. After each stage the
masks are compared with the weights, and the perplexity on held-out text is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

from toolchain.compress.checkpoint import Source, write_json
from toolchain.compress.machine import choose_device, circumstances, deterministic
from toolchain.compress.masks import check_masked, check_survived, read_masks
from toolchain.compress.perplexity import Evaluation, evaluate, is_float
from toolchain.compress.place import Place
from toolchain.compress.publish import (
    check_places,
    check_reusable,
    content_hash,
    discard,
    locked,
    partial_directory,
    publish,
    read_record,
    write_record,
)
from toolchain.compress.quantized import check_zeros, open_any
from toolchain.compress.recipe import Recipe, Stage
from toolchain.compress.registry import STAGES
from toolchain.compress.stage import CalibratedOptions, RunContext, StageOptions
from toolchain.compress.summary import Row, make_row, with_fit, write_summary
from toolchain.compress.texts import TextCache, digest, heldout_file, read_text
from toolchain.model.block_copies import copied_blocks
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import ConfigError, EdgecError, Problem, UnsupportedModelError
from toolchain.model.json_fields import read_json_object
from toolchain.model.quant_settings import QuantConfig

Json = dict[str, Any]
Report = Callable[[str, str, int, int], None]  # stage, what, steps done, steps in all
INPUT_FILE = "input.json"  # what was measured of the model as given


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line adds to a recipe."""

    model_dir: Path
    out: Path
    device: str = "auto"
    seed: int = 0
    allow_hub: bool = False
    restart: bool = False
    threads: int | None = None  # of torch on the CPU; None: its own choice
    evaluation: Evaluation | None = None
    place: Place | None = None  # where every checkpoint is planned


def run_recipe(recipe: Recipe, settings: Settings, report: Report) -> list[Row]:
    """All stages; the rows of the summary, the input first. Also written to the output.

    Raises an EdgecError of the stage that fails; the stages before it stay.
    """
    runner = _Runner(
        settings,
        choose_device(settings.device),
        TextCache(settings.allow_hub, settings.model_dir),
        report,
    )
    check_recipe(recipe, settings, runner.texts)
    with locked(settings.out):
        if settings.restart:
            discard(settings.out)
        check_places(settings.out, {s.directory[:2]: s.directory for s in recipe.stages})
        with deterministic(settings.threads):
            first = settings.model_dir
            rows, chain = [with_fit(runner.input_row(), first, settings.place)], [first]
            for stage in recipe.stages:
                row, result = runner.run_or_reuse(stage, tuple(chain))
                rows.append(with_fit(row, result, settings.place))
                chain.append(result)
                write_summary(settings.out, recipe, settings.seed, rows)
    return rows


def check_recipe(recipe: Recipe, settings: Settings, texts: TextCache) -> None:
    """Everything that can be known before work begins; raises ConfigError or CompressionError."""
    source = settings.model_dir
    _check_place(source, settings.out)
    config = Source.open(source).config
    problems = [] if settings.place is None else list(settings.place.misfits(config))
    form = "float"
    for stage in recipe.stages:
        kind = STAGES[stage.kind]
        if form not in kind.takes:
            allowed = f"a {' or '.join(kind.takes)} checkpoint"
            problems.append(Problem(stage.label, f"a {form} checkpoint in front", allowed))
        form = kind.gives
        found = list(stage.options.misfits(config))
        problems += [
            Problem(f"{stage.label}.{problem.where}", problem.found, problem.allowed, problem.fix)
            for problem in found
        ]
        if not found:
            config = stage.options.after(config)
        options = stage.options
        if isinstance(options, CalibratedOptions) and options.needs_text():
            problems += _text_problems(stage, source, options, settings, texts)
    if problems:
        raise ConfigError(f"the recipe {recipe.name} cannot be run on {source}", problems)


def _text_problems(
    stage: Stage, source: Path, options: CalibratedOptions, settings: Settings, texts: TextCache
) -> list[Problem]:
    try:
        texts.windows(source, options, settings.seed)
    except EdgecError as error:
        return [
            Problem(f"{stage.label}: {p.where}", p.found, p.allowed, p.fix) for p in error.problems
        ]
    return []


def _check_place(source: Path, out: Path) -> None:
    inside = out.resolve()
    if inside == source.resolve() or source.resolve() in inside.parents:
        problem = Problem("-o", str(out), "a directory outside of the model's")
        raise ConfigError("the output would change the input", [problem])
    if out.exists() and not out.is_dir():
        raise ConfigError("the output is no directory", [Problem("-o", str(out), "a directory")])


@dataclass(frozen=True, slots=True, eq=False)
class _Runner:
    """One run of a recipe: what every step needs."""

    settings: Settings
    device: str
    texts: TextCache
    report: Report

    def input_row(self) -> Row:
        """The row of the model as given; measured once for the same text."""
        source, notes = self.settings.model_dir, self.settings.out / INPUT_FILE
        check_masked(Source.open(source).model, read_masks(source))
        wanted = {
            "input_hash": content_hash(source),
            "evaluation": self.evaluation(),
            "device": self.device,
        }
        if notes.is_file():
            found = read_json_object(notes)
            value = cast("float | None", found.pop("perplexity", None))
            if found == wanted:
                return make_row("input", source, value, reused=True)
        value = self.perplexity("input", source)
        write_json(notes, wanted | {"perplexity": value})
        return make_row("input", source, value)

    def run_or_reuse(self, stage: Stage, chain: tuple[Path, ...]) -> tuple[Row, Path]:
        """The row of a stage and the directory of its result; its input is the last of `chain`."""
        source = chain[-1]
        self.report(stage.label, "reading the input", 0, 0)
        wanted = self.identity(stage, source)
        final = self.settings.out / stage.directory
        found = read_record(final)
        if found is not None:
            check_reusable(final, found, wanted)
            return self.reused_row(stage, final, found), final
        return self.run(stage, chain, final, wanted), final

    def run(self, stage: Stage, chain: tuple[Path, ...], final: Path, wanted: Json) -> Row:
        """Run a stage; its directory appears only when everything about it is known."""
        source = chain[-1]
        started = perf_counter()
        torch.manual_seed(self.settings.seed)  # the same whether stages before it ran or not
        with partial_directory(final.parent, final.name) as scratch:
            context = self.context(stage, chain[:-1])
            metrics = stage.loaded.run(source, scratch, stage.options, context)
            _check_output(stage, source, scratch)
            value = self.perplexity(stage.label, scratch)
            seconds = round(perf_counter() - started, 3)
            record = wanted | {
                "metrics": dict(metrics.values) | {"perplexity": value},
                "evaluation": self.evaluation(),
                "patterns": _patterns(scratch),
                "layer_order": _layer_order(scratch),
                "record": circumstances(STAGES[stage.kind].needs, self.device, seconds),
            }
            write_record(scratch, record)
            publish(scratch, final.parent, final.name)
        return make_row(stage.label, final, value, seconds=seconds)

    def context(self, stage: Stage, earlier: tuple[Path, ...]) -> RunContext:
        """What the stage is lent."""
        settings, progress = self.settings, partial(self.report, stage.label)
        hub = settings.allow_hub
        return RunContext(self.device, settings.seed, self.texts, progress, hub, earlier)

    def reused_row(self, stage: Stage, final: Path, found: Mapping[str, Any]) -> Row:
        """The row of a finished stage; measured again only if another text is asked for."""
        if found.get("evaluation") == self.evaluation():
            value = found["metrics"]["perplexity"]
        else:
            value = self.perplexity(stage.label, final)
        seconds = found["record"]["seconds"]
        return make_row(stage.label, final, value, seconds=seconds, reused=True)

    def identity(self, stage: Stage, source: Path) -> Json:
        """What a finished stage must have been made from to be used again."""
        texts: Json = {}
        if isinstance(stage.options, CalibratedOptions) and stage.options.needs_text():
            for name, spec in stage.options.texts().items():
                texts[name] = digest(self.texts.text(spec))
        return {
            "kind": stage.kind,
            "options": json_options(stage.options),
            "seed": self.settings.seed,
            "input_hash": content_hash(source),
            "texts": texts,
            "device": self.device,
        }

    def evaluation(self) -> Json | None:
        """The settings of the perplexity as JSON, with the text's own hash."""
        asked = self.settings.evaluation
        if asked is None:
            return None
        text = read_text(asked.text, heldout_file(), self.settings.allow_hub)
        return asdict(asked) | {"text_hash": digest(text)}

    def perplexity(self, label: str, directory: Path) -> float | None:
        """Of a checkpoint, where it can be measured."""
        progress = partial(self.report, label)
        return evaluate(directory, self.settings.evaluation, self.device, self.texts, progress)


def json_options(options: StageOptions) -> Json:
    """Effective options as they come back from JSON."""
    values = asdict(options)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _patterns(directory: Path) -> Json:
    masks = read_masks(directory)
    return {name: mask.pattern for name, mask in masks.items() if mask.pattern}


def _layer_order(directory: Path) -> list[int] | None:
    """For each block the first with the same weights; None when all differ, or cannot be read."""
    try:
        found = copied_blocks(load_model(directory), QuantConfig(), {})
    except UnsupportedModelError:
        return None
    return None if found is None else list(found)


def _check_output(stage: Stage, source: Path, scratch: Path) -> None:
    masks = read_masks(scratch)
    if STAGES[stage.kind].keeps_masks:
        check_survived(read_masks(source), masks)
    if is_float(scratch):
        check_masked(Source.open(scratch).model, masks)
    elif masks:
        check_zeros(open_any(scratch), masks)
