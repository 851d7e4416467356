"""Evaluation results as one JSON document, CSV lines or a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from toolchain.evaluate.intervals import METHOD
from toolchain.evaluate.run import SuiteResult, peak_device_bytes, peak_memory_bytes
from toolchain.evaluate.subject import Subject
from toolchain.tables import stdout

Json = dict[str, Any]
COLUMNS = ("suite", "metric", "value", "low", "high", "correct", "total", "tokens_per_second")


def to_report(subject: Subject, results: Sequence[SuiteResult]) -> Json:
    """The whole result in plain JSON values; speeds and memory are measured here and now."""
    return {
        "model": subject.name,
        "kind": subject.kind,
        "engine": subject.engine,
        "context": subject.model.context,
        "confidence_interval": METHOD,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_bytes": peak_device_bytes(),
        "suites": [_suite(result) for result in results],
    }


def _suite(result: SuiteResult) -> Json:
    found: Json = {"suite": result.suite}
    if result.perplexity is not None:
        perplexity = result.perplexity
        found |= {
            "perplexity": perplexity.value,
            "mean_nll": perplexity.mean_nll,
            "scored_tokens": perplexity.tokens,
            "windows": perplexity.windows,
            "window": perplexity.window,
        }
    else:
        found["accuracies"] = [
            {
                "metric": accuracy.metric,
                "value": accuracy.value,
                "low": accuracy.interval[0],
                "high": accuracy.interval[1],
                "correct": accuracy.correct,
                "total": accuracy.total,
            }
            for accuracy in result.accuracies
        ]
        found["truncated_prompts"] = result.truncated
        if result.tasks:
            found["tasks"] = {n: {"correct": c, "total": t} for n, (c, t) in result.tasks.items()}
    return found | {
        "computed_tokens": result.tokens,
        "seconds": round(result.seconds, 3),
        "tokens_per_second": round(result.tokens_per_second, 1),
    }


def to_csv(report: Json) -> str:
    """One line per metric, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in _lines(report):
        writer.writerow({name: row[name] for name in COLUMNS if name in row})
    return text.getvalue()


def _lines(report: Json) -> list[Json]:
    lines: list[Json] = []
    for suite in report["suites"]:
        common = {"suite": suite["suite"], "tokens_per_second": suite["tokens_per_second"]}
        if "perplexity" in suite:
            row = {"metric": "perplexity", "value": suite["perplexity"]}
            lines.append(common | row | {"total": suite["scored_tokens"]})
        lines += [common | accuracy for accuracy in suite.get("accuracies", ())]
    return lines


def print_report(report: Json) -> None:
    """A table of all metrics, then memory and whatever was cut."""
    table = Table("suite", "metric", title=f"{report['model']} ({report['engine']})")
    for column in ("value", "95 % interval", "of", "tokens/s"):
        table.add_column(column, justify="right")
    for line in _lines(report):
        is_rate = "low" in line
        value = f"{100 * line['value']:.2f} %" if is_rate else f"{line['value']:.3f}"
        between = f"{100 * line['low']:.1f} .. {100 * line['high']:.1f} %" if is_rate else ""
        counted = f"{line['correct']:,} / {line['total']:,}" if is_rate else f"{line['total']:,}"
        speed = f"{line['tokens_per_second']:,.0f}"
        table.add_row(line["suite"], line["metric"], value, between, counted, speed)
    console = stdout()
    console.print(table)
    for suite in report["suites"]:
        if "window" in suite:
            console.print(
                f"{suite['suite']}: {suite['windows']:,} windows of {suite['window']} tokens"
            )
        if suite.get("truncated_prompts"):
            console.print(
                f"{suite['suite']}: {suite['truncated_prompts']:,} prompts were cut to fit the "
                f"context of {report['context']}"
            )
    console.print(
        f"intervals: {METHOD}; peak memory {report['peak_memory_bytes'] / 2**20:,.0f} MiB"
    )
