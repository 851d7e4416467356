"""Shapes and points of `edgec fit` as people see them: built-in, suggested, of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from toolchain.fit.tables import rate_text
from toolchain.tables import size_text, stdout

Json = dict[str, Any]
SHAPE_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)


def print_shapes(shapes: Iterable[Json]) -> None:
    """The built-in shapes."""
    table = Table("name", title="Built-in shapes")
    titles = ("parameters", "blocks", "hidden", "FFN", "heads", "KV", "vocab", "context")
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("head")
    keys = [*SHAPE_KEYS, "vocab_size", "max_position_embeddings"]
    for shape in shapes:
        config = shape["config"]
        values = [f"{config[key]:,}" for key in keys]
        tied = "tied" if config["tie_word_embeddings"] else "own"
        table.add_row(shape["name"], f"{shape['parameters']:,}", *values, tied)
    stdout().print(table)


def print_suggestions(facts: Json, found: Sequence[Json]) -> None:
    """Suggested shapes, fastest first."""
    console = stdout()
    if not found:
        console.print(
            f"no shape fits {facts['target']} with {facts['vocab']:,} tokens, {facts['context']:,} "
            "positions\nand as few parameters: try a smaller --vocab or --context, or more --params"
        )
        return
    title = f"Shapes that fit {facts['target']} on chip: vocabulary {facts['vocab']:,}, tied, "
    table = Table(title=title + f"context {facts['context']:,}")
    for name in ("blocks", "hidden", "FFN", "heads", "parameters", "bytes"):
        table.add_column(name, justify="right")
    for name in ("fill %", "grain %", "tokens/s", "bound %"):
        table.add_column(name, justify="right")
    for entry in found:
        table.add_row(
            *(f"{entry['config'][key]:,}" for key in SHAPE_KEYS[:3]),
            "/".join(str(entry["config"][key]) for key in SHAPE_KEYS[3:]),
            f"{entry['parameters']:,}",
            size_text(entry["packed"]),
            f"{100 * entry['fill']:.1f}",
            f"{100 * entry['grain']:.1f}",
            rate_text(entry["tokens_per_second"]),
            f"{100 * entry['bound_share']:.1f}",
        )
    console.print(table)
    console.print(
        "off-chip memory is not used: what is listed needs no stream\n"
        * facts["off_chip_exists"]
        + "heads: of queries/of keys and values; bytes: packed weights;\n"
        "fill: used part of the regions for weights; grain: weights per slot of the engine;\n"
        "tokens/s: estimate at half of the context; bound: part of what the memories allow;\n"
        "--json prints each as a config.json"
    )


def print_points(target: str, points: Sequence[Json]) -> None:
    """The points of a sweep that no other point beats."""
    console = stdout()
    shown = [point for point in points if point["pareto"]]
    table = Table("depth", "width", "bits", title=f"Depth x width x bits on {target}: Pareto set")
    for name in ("kept parameters", "packed bytes", "not on chip", "tokens/s"):
        table.add_column(name, justify="right")
    table.add_column("fits")
    for point in shown:
        table.add_row(
            f"D{point['depth']}",
            point["width"],
            str(point["bits"]),
            f"{point['kept']:,}",
            size_text(point["packed"]),
            size_text(point["off_chip"]),
            rate_text(point["tokens_per_second"]),
            "yes" if point["fits"] else "no",
        )
    console.print(table)
    console.print(
        f"{len(shown)} of {len(points)} points: no other is smaller, keeps more parameters and "
        "bits, and is faster.\ntokens/s are estimates; --csv prints every point"
    )
