"""The table at the end of a recipe: parameters, bytes on disk and packed, perplexity, seconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from toolchain.compress.checkpoint import write_json
from toolchain.compress.masks import Mask
from toolchain.compress.place import Fit, Place, fit_of
from toolchain.compress.quantized import open_any
from toolchain.compress.recipe import Recipe
from toolchain.fit.design import Design, build_program, check_design
from toolchain.fit.sizes import config_parameters, packed_size
from toolchain.model.bits_file import apply_bits
from toolchain.model.checkpoint import load_model
from toolchain.model.coded_settings import with_codes
from toolchain.model.config import ModelConfig
from toolchain.model.errors import EdgecError, UnsupportedModelError
from toolchain.model.names import op_id_of
from toolchain.model.nm_pattern import parse_pattern
from toolchain.model.outline import WeightFacts
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.sparsity import find_patterns
from toolchain.model.weight_facts import facts_of
from toolchain.tables import size_text, stdout

SUMMARY_JSON, SUMMARY_CSV = "summary.json", "summary.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint of a run. None means: not known for a checkpoint of this kind."""

    stage: str
    directory: str
    parameters: int | None  # as stored, zeros included
    parameters_kept: int | None  # without those that a mask removes
    disk_bytes: int
    packed_bytes: int | None  # as `edgec fit` counts with its default settings
    perplexity: float | None
    seconds: float | None
    reused: bool
    fit: Fit | None = None  # on the target of the run


def make_row(
    stage: str,
    directory: Path,
    perplexity: float | None,
    *,
    seconds: float | None = None,
    reused: bool = False,
) -> Row:
    """Measures one checkpoint directory."""
    disk = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    source = open_any(directory)
    total = config_parameters(source.config)
    kept = total - sum(int((~mask.keep).sum()) for mask in source.masks.values())
    design = default_design(directory)
    packed = None if design is None else _packed_bytes(design)
    name = directory.name or str(directory)
    return Row(stage, name, total, kept, disk, packed, perplexity, seconds, reused)


def with_fit(row: Row, directory: Path, place: Place | None) -> Row:
    """The row with what the planner says about its checkpoint on a target."""
    if place is None:
        return row
    design = default_design(directory)
    return replace(row, fit=None if design is None else fit_of(design, place))


def default_design(directory: Path) -> Design | None:
    """What `edgec compile` makes of a checkpoint by default; None for formats the SoC has not."""
    try:
        model = load_model(directory)
    except UnsupportedModelError:
        return None
    quant = with_codes(model, apply_bits(directory, QuantConfig(), ()))
    patterns = find_patterns(model, quant)
    facts = facts_of(model, quant, patterns)
    context = model.config.max_position_embeddings
    return Design(model.config, quant, context, patterns=patterns, facts=facts)


def _packed_bytes(design: Design) -> int | None:
    """Weight bytes in the memories of a target; None for a model that cannot be packed."""
    try:
        check_design(design)
    except EdgecError:
        return None
    return packed_size(build_program(design))


def design_of(
    config: ModelConfig,
    masks: Mapping[str, Mask],
    quant: QuantConfig,
    silent: frozenset[str] = frozenset(),
) -> Design:
    """What a compile would plan for float weights under masks, without `silent` parts.

    A projection with an N:M pattern that the packer knows counts sparse where that pays.
    """
    found = {op_id_of(name): parse_pattern(mask.pattern or "") for name, mask in masks.items()}
    patterns = {op_id: pattern for op_id, pattern in found.items() if pattern}
    facts = WeightFacts(silent=silent)
    return Design(config, quant, config.max_position_embeddings, patterns=patterns, facts=facts)


def write_summary(out: Path, recipe: Recipe, seed: int, rows: Sequence[Row]) -> None:
    """summary.json and summary.csv in the output directory."""
    write_json(out / SUMMARY_JSON, summary_values(recipe, seed, rows))
    text = io.StringIO()
    values = [_flat(row) for row in rows]
    writer = csv.DictWriter(text, list(values[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    (out / SUMMARY_CSV).write_text(text.getvalue(), encoding="utf-8")


def _flat(row: Row) -> dict[str, Any]:
    """A row of the CSV file: one value per column."""
    values = asdict(row)
    fit = values.pop("fit") or {"fits": None, "excess": {}, "tokens_per_second": None}
    excess = " ".join(f"{region}={size}" for region, size in fit["excess"].items())
    return values | fit | {"excess": excess}


def summary_values(recipe: Recipe, seed: int, rows: Sequence[Row]) -> dict[str, Any]:
    """The summary as JSON values; `model` is the directory of the last stage."""
    return {
        "recipe": recipe.name,
        "seed": seed,
        "stages": [
            {"stage": stage.label, "options": asdict(stage.options)} for stage in recipe.stages
        ],
        "model": rows[-1].directory,
        "rows": [asdict(row) for row in rows],
    }


def print_summary(rows: Sequence[Row], target: str | None = None) -> None:
    """The table for a terminal; `target` names the one that the rows were planned for."""
    table = Table()
    table.add_column("stage")
    for title in ("parameters kept", "on disk", "packed (estimate)", "perplexity", "seconds"):
        table.add_column(title, justify="right")
    if target is not None:
        table.add_column(f"fits {target} (estimate)")
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        cells = (
            row.directory,
            _count(row.parameters_kept),
            size_text(row.disk_bytes),
            _count(row.packed_bytes),
            "-" if row.perplexity is None else f"{row.perplexity:.2f}",
            f"{seconds} (reused)".strip() if row.reused else seconds,
        )
        fit = "-" if row.fit is None else row.fit.text()
        table.add_row(*cells, *([] if target is None else [fit]))
    stdout().print(table)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
