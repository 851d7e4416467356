"""The options that only `edgec fit` has, as click declarations; parse.py gives them meaning.

Imports nothing but click, because `edgec --help` needs them.
"""

from __future__ import annotations

from collections.abc import Callable

import click

Command = Callable[..., None]

BUNDLED = "bundled"  # the name of the model that comes with edgec

FIT_OPTIONS = (
    "depth",
    "width",
    "attn_width",
    "mlp_width",
    "vocab",
    "kv_bits",
    "eora_rank",
    "layer_order",
    "list_shapes",
    "suggest",
    "params",
    "table",
    "as_csv",
)


def fit_options(command: Command) -> Command:
    """Adds the what-ifs and the choice of the report."""
    options = [
        click.option("--depth", type=int, default=0, metavar="N", help="Blocks removed."),
        click.option(
            "--width", metavar="N:M", help="N of every M inputs removed, all projections."
        ),
        click.option("--attn-width", metavar="N:M", help="The same for q, k, v and o."),
        click.option("--mlp-width", metavar="N:M", help="The same for gate, up and down."),
        click.option("--vocab", type=int, metavar="N", help="Tokens of the vocabulary."),
        click.option("--kv-bits", type=int, default=8, show_default=True, help="Of the KV cache."),
        click.option("--eora-rank", type=int, metavar="R", help="Adapters beside all projections."),
        click.option(
            "--layer-order", metavar="I,I,...", help="Blocks to run; repeats share bytes."
        ),
        click.option("--list-shapes", is_flag=True, help="List the built-in shapes."),
        click.option("--suggest", is_flag=True, help="Shapes that fill the chip, none off chip."),
        click.option("--params", metavar="N", help="With --suggest: at most so many, like 4M."),
        click.option("--table", is_flag=True, help="Sweep depth, width and bits."),
        click.option("--csv", "as_csv", is_flag=True, help="With --table or --suggest: as CSV."),
    ]
    for option in reversed(options):
        command = option(command)
    return command
