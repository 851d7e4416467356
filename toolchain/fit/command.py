"""What `edgec fit` does with its options: one of four reports, as tables, JSON or CSV.

What only one of them needs is imported there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from memory_planner.limits import limited_target, without_off_chip
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from toolchain.cli import print_json
from toolchain.fit.design import Design, WhatIf, check_design
from toolchain.fit.parse import FitOptions
from toolchain.fit.planning import Outcome, plan_design
from toolchain.fit.report import fit_report
from toolchain.fit.shapes import Subject, find_model, list_shapes, load_shape
from toolchain.fit.sizes import config_parameters
from toolchain.model.errors import DoesNotFitError
from toolchain.options import ModelOptions

if TYPE_CHECKING:
    from toolchain.fit.remedies import Remedy
    from toolchain.model.checkpoint import FloatModel

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A model on a target: the plan for those who draw it, the report for those who read it."""

    subject: Subject
    target: TargetSpec
    outcome: Outcome
    report: Json


Draw = Callable[[Analysis], str]


def analyse(model: str | None, options: ModelOptions, what_if: WhatIf) -> Analysis:
    """Plan a model; of weights that are there only zeros, copies and codes count.

    Raises ConfigError for options that cannot be used.
    """
    subject = find_model(model)
    target = limited_target(load_target(options.target), options.limits)
    design = make_design(subject, options, what_if)
    if subject.model is not None:
        design = _with_patterns(design, subject.model, target)
    outcome = plan_design(design, target)
    return Analysis(subject, target, outcome, fit_report(outcome, _remedies(outcome)))


def _with_patterns(design: Design, model: FloatModel, target: TargetSpec) -> Design:
    """The design with the N:M patterns of its weights, stored as a compile stores them."""
    from toolchain.fit.storage import choose_storage
    from toolchain.model.sparsity import find_patterns
    from toolchain.model.weight_facts import facts_of

    patterns = find_patterns(model, design.quant)
    if not patterns:
        return design
    facts = facts_of(model, design.quant, patterns)
    chosen = choose_storage(replace(design, patterns=patterns, facts=facts), target)
    return replace(chosen, facts=facts_of(model, design.quant, chosen.patterns))


def _remedies(outcome: Outcome) -> list[Remedy]:
    if outcome.fits:
        return []
    from toolchain.fit.remedies import find_remedies

    return find_remedies(outcome.design, outcome.target)


def make_design(subject: Subject, options: ModelOptions, what_if: WhatIf) -> Design:
    """The checked design that the options ask for."""
    config = subject.config
    context = config.max_position_embeddings if options.context is None else options.context
    design = Design(
        config,
        options.quant,
        context,
        options.modes,
        what_if,
        engine=options.engine,
        arithmetic=options.arithmetic,
        batch=options.batch,
    )
    check_design(design)
    if subject.model is None:
        return design
    from toolchain.model.weight_facts import facts_of

    return replace(design, facts=facts_of(subject.model, options.quant, {}))


def run_fit(
    model: str | None, options: ModelOptions, fit: FitOptions, draw: Draw | None, as_json: bool
) -> None:
    """Print the chosen report; SystemExit with code 3 when a single model does not fit.

    `draw` makes the page of a single model and says what it wrote.
    """
    if fit.action == "shapes":
        _run_shapes(as_json)
    elif fit.action == "suggest":
        _run_suggest(model, options, fit, as_json)
    elif fit.action == "table":
        _run_table(model, options, fit, as_json)
    else:
        analysis = analyse(model, options, fit.what_if)
        if draw is not None:
            click.echo(f"edgec: {draw(analysis)}", err=True)
        _run_report(analysis, as_json)


def _run_report(analysis: Analysis, as_json: bool) -> None:
    report = analysis.report
    if as_json:
        print_json(report)
    else:
        from toolchain.fit import tables

        tables.print_verdict(report)
        tables.print_subject(analysis.subject)
        tables.print_fit(report)
    if not report["fits"]:
        if not as_json:
            from toolchain.fit.misfit import misfit_text

            click.echo(f"edgec: {misfit_text(report)}", err=True)
        raise SystemExit(DoesNotFitError.exit_code)


def _run_shapes(as_json: bool) -> None:
    from toolchain.fit.suggest import config_values

    shapes: list[Json] = [
        {
            "name": subject.name,
            "parameters": config_parameters(subject.config),
            "source": subject.source,
            "config": config_values(subject.config),
        }
        for subject in map(load_shape, list_shapes())
    ]
    shapes.sort(key=lambda shape: shape["parameters"])
    if as_json:
        print_json({"shapes": shapes})
    else:
        from toolchain.fit.lists import print_shapes

        print_shapes(shapes)


def _run_suggest(model: str | None, options: ModelOptions, fit: FitOptions, as_json: bool) -> None:
    """Shapes with the vocabulary and context of MODEL, or of a small story model without one."""
    from toolchain.fit import suggest
    from toolchain.fit.lists import print_suggestions
    from toolchain.tables import stderr

    whole = limited_target(load_target(options.target), options.limits)
    target = without_off_chip(whole)
    if model is None:
        context = options.context or suggest.DEFAULT_CONTEXT
        config = suggest.base_config(suggest.DEFAULT_VOCAB, context)
        subject = Subject("", "", config)
    else:
        subject = find_model(model)
    design = make_design(subject, options, fit.what_if)
    design = replace(design, config=suggest.base_config(design.shape.vocab_size, design.context))
    with stderr().status("planning shapes"):
        found = [shape.to_dict() for shape in suggest.suggest_shapes(design, target, fit.params)]
    facts = {
        "target": target.name,
        "context": design.context,
        "vocab": design.shape.vocab_size,
        "uses_off_chip": False,
        "off_chip_exists": whole.off_chip is not None,
    }
    if as_json:
        print_json(facts | {"suggestions": found})
    elif fit.as_csv:
        _print_csv([_flat(entry) for entry in found], "suggestions")
    else:
        print_suggestions(facts, found)


def _run_table(model: str | None, options: ModelOptions, fit: FitOptions, as_json: bool) -> None:
    from toolchain.fit.lists import print_points
    from toolchain.fit.sweep import sweep
    from toolchain.fit.tables import print_subject
    from toolchain.tables import stderr

    subject = find_model(model)
    target = limited_target(load_target(options.target), options.limits)
    design = make_design(subject, options, fit.what_if)
    with stderr().status(f"planning {subject.name}"):
        points = [asdict(point) for point in sweep(design, target, fit.given)]
    if as_json:
        facts = {"target": target.name, "context": design.context}
        print_json(facts | {"estimate": True, "points": points})
    elif fit.as_csv:
        _print_csv(points, "points")
    else:
        print_subject(subject)
        print_points(target.name, points)


def _flat(entry: Json) -> Json:
    """A suggestion as one line of a table, without what is the same for all."""
    config = {key: v for key, v in entry["config"].items() if isinstance(v, int | float)}
    return {key: value for key, value in entry.items() if key != "config"} | config


def _print_csv(rows: Sequence[Json], what: str) -> None:
    """A header line and one line per row on stdout; booleans as true and false."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        values = [str(v).lower() if isinstance(v, bool) else v for v in row.values()]
        writer.writerow(values)
    click.echo(text.getvalue(), nl=False)
    click.echo(f"edgec: wrote {len(rows)} {what} as CSV to stdout", err=True)
