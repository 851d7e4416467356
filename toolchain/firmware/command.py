"""`edgec sizes`."""

from __future__ import annotations

from pathlib import Path

import click

from toolchain.cli import json_option


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@json_option
def sizes(build: Path, as_json: bool) -> None:
    """Build a bundle's programs for its chip, and compare them with the plan without running them.

    Sections must lie at their planned addresses; code, constants and variables must fit the bytes
    reserved for them, and so must the worst stacks (which gcc alone can tell).

    \b
    Example: edgec sizes build/demo
    """
    from toolchain import tables
    from toolchain.cli import print_json
    from toolchain.firmware.check import check_sizes

    report = check_sizes(build).to_dict()
    if as_json:
        print_json(report)
    else:
        tables.print_sizes(report)
