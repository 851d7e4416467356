"""The error of a model that does not fit, the same for `edgec fit` and for a compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_planner.explain import Shortfall
from memory_planner.target import TargetSpec
from toolchain.fit.design import Design
from toolchain.fit.planning import SHOWN_CONTRIBUTORS, plan_design
from toolchain.fit.remedies import find_remedies
from toolchain.fit.report import fit_report
from toolchain.model.errors import DoesNotFitError, Problem

Json = dict[str, Any]


class ModelDoesNotFitError(DoesNotFitError):
    """Carries the fit report and the shortfalls as values; its text is that of `edgec fit`."""

    def __init__(self, report: Json, shortfalls: Sequence[Shortfall]) -> None:
        self.report = report
        self.shortfalls = tuple(shortfalls)
        problems = [
            Problem(p["where"], p["found"], p["allowed"], p["fix"]) for p in report["problems"]
        ]
        super().__init__(f"the model does not fit {report['target']}", problems)

    def text(self) -> str:
        """What does not fit, and what would help."""
        return misfit_text(self.report)

    def to_dict(self) -> dict[str, object]:
        """The facts of the text, as values."""
        return {
            **DoesNotFitError.to_dict(self),
            "shortfalls": [shortfall.to_dict() for shortfall in self.shortfalls],
            "remedies": self.report["remedies"],
        }


def explain_misfit(design: Design, target: TargetSpec) -> ModelDoesNotFitError:
    """The error for a design that `plan_memory` refuses on the target."""
    outcome = plan_design(design, target)
    report = fit_report(outcome, find_remedies(design, target))
    return ModelDoesNotFitError(report, outcome.shortfalls)


def misfit_text(report: Json) -> str:
    """What does not fit, and what would help, as an error message."""
    lines = [f"the model does not fit {report['target']}"]
    for problem in report["problems"]:
        lines += _problem_lines(problem)
    remedies = report["remedies"]
    for number, (lead, group) in enumerate(remedy_groups(remedies)):
        lines.append(f"  {'' if number else 'fix: '}{lead[0].lower()}{lead[1:]}")
        lines += map(_remedy_line, group)
    if not remedies:
        lines += [
            "  fix: no change of context, bits, groups, FFN width, blocks and vocabulary that",
            "       leaves enough of the model helps; `edgec fit --suggest` lists shapes that fit",
        ]
    return "\n".join(lines)


def remedy_groups(remedies: Sequence[Json]) -> list[tuple[str, list[Json]]]:
    """Single changes, then combinations, each with a sentence; no group is empty."""
    single = [remedy for remedy in remedies if len(remedy["changes"]) == 1]
    combined = [remedy for remedy in remedies if len(remedy["changes"]) > 1]
    together = "Or these together:" if single else "No single change is enough; these together are:"
    groups = [("Each of these fits by itself:", single), (together, combined)]
    return [(lead, group) for lead, group in groups if group]


def _remedy_line(remedy: Json) -> str:
    option = f"  ({remedy['option']})" if remedy["option"] else ""
    return f"    - {remedy['text']}{option}"


def _problem_lines(problem: Json) -> list[str]:
    if "contributors" not in problem:
        return [f"  - {problem['where']}: found {problem['found']}, allowed {problem['allowed']}"]
    shown = problem["contributors"][:SHOWN_CONTRIBUTORS]
    rest = problem["contributors"][SHOWN_CONTRIBUTORS:]
    parts = [
        f"      {part['bytes']:>15,}  {part['name']}"
        + (f" x {part['count']}" if part["count"] > 1 else "")
        for part in shown
    ]
    if rest:
        others = sum(part["bytes"] for part in rest)
        parts.append(f"      {others:>15,}  {len(rest)} more")
    head = (
        f"  - {problem['where']}: {problem['need']:,} bytes needed, "
        f"{problem['capacity']:,} allowed, {problem['excess']:,} too many"
    )
    return [head, *parts]
