"""The sensitivity of a model as plain JSON values, CSV lines or a table."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from toolchain.evaluate.sensitivity import Effect, MatrixSensitivity, Sensitivity
from toolchain.tables import stdout

Json = dict[str, Any]
PIPE_WIDTH = 140  # characters: no column of the widest table is cut


def to_report(found: Sensitivity, about: Json, integer_perplexity: float) -> Json:
    """`about` (model, text, windows) first, then perplexities, bytes, and one row per matrix."""
    return about | {
        "perplexity": {
            "float": math.exp(found.float_nll),
            "predicted": math.exp(found.predicted_nll),
            "quantized": math.exp(found.quantized_nll),
            "integer": integer_perplexity,
        },
        "loss": {"predicted": found.predicted_loss, "quantized": found.quantized_loss},
        "stored_bytes": sum(matrix.effect.size for matrix in found.matrices),
        "matrices": [_row(matrix) for matrix in found.matrices],
    }


def _row(matrix: MatrixSensitivity) -> Json:
    effect = matrix.effect
    return {
        "op": matrix.op_id,
        "shape": list(matrix.shape),
        "group_size": matrix.group_size,
        "bits": effect.bits,
        "bytes": effect.size,
        "weight_snr_db": round(effect.weight_snr_db, 3),
        "output_snr_db": round(effect.output_snr_db, 3),
        "output_cosine": round(effect.output_cosine, 6),
        "loss": round(effect.loss, 7),
        "nll_change": round(effect.nll_change, 7),
        "one_less": _change(effect, matrix.less),
        "one_more": _change(effect, matrix.more),
    }


def _change(here: Effect, other: Effect | None) -> Json | None:
    """What another width changes; None where there is no such width."""
    if other is None:
        return None
    return {
        "bits": other.bits,
        "bytes": other.size - here.size,
        "weight_snr_db": round(other.weight_snr_db - here.weight_snr_db, 3),
        "output_snr_db": round(other.output_snr_db - here.output_snr_db, 3),
        "loss": round(other.loss - here.loss, 7),
    }


def to_csv(report: Json) -> str:
    """One line per matrix; changes are columns like `one_less_bytes`, empty where there is none."""
    lines = []
    for row in report["matrices"]:
        flat = {**row, "shape": "x".join(map(str, row["shape"]))}
        for side in ("one_less", "one_more"):
            change = flat.pop(side) or {}
            for key in ("bits", "bytes", "weight_snr_db", "output_snr_db", "loss"):
                flat[f"{side}_{key}"] = change.get(key, "")
        lines.append(flat)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def print_report(report: Json) -> None:
    """A table of all matrices, then the perplexities."""
    title = f"{report['model']}: each matrix alone, loss in thousandths of a nat per token"
    table = Table("matrix", title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    own = ("bits", "bytes", "w dB", "out dB", "cosine", "loss")
    for column in (*own, "1 less: B", "dB", "loss", "1 more: B", "dB", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    table.columns[0].no_wrap = True
    for row in report["matrices"]:
        table.add_row(
            row["op"],
            str(row["bits"]),
            f"{row['bytes']:,}",
            f"{row['weight_snr_db']:.1f}",
            f"{row['output_snr_db']:.1f}",
            f"{row['output_cosine']:.4f}",
            f"{1000 * row['loss']:.2f}",
            *_cells(row["one_less"]),
            *_cells(row["one_more"]),
        )
    console = stdout()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)
    ppl = report["perplexity"]
    console.print(
        f"perplexity: float {ppl['float']:.3f}, predicted from the single losses "
        f"{ppl['predicted']:.3f}, all quantized {ppl['quantized']:.3f}, as integers "
        f"{ppl['integer']:.3f}\n{report['windows']} windows of {report['window']} tokens of "
        f"{report['text']}; stored {report['stored_bytes']:,} bytes",
        soft_wrap=True,
    )


def _cells(change: Json | None) -> tuple[str, str, str]:
    if change is None:
        return ("", "", "")
    return (
        f"{change['bytes']:+,}",
        f"{change['output_snr_db']:+.1f}",
        f"{1000 * change['loss']:+.2f}",
    )
