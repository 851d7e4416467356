"""`edgec compress --target`: whether the model and every stage fit, before and after."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from click.testing import CliRunner

from memory_planner.target_file import load_target
from tests.compress.toys import recipe_of, toy_model
from toolchain.cli import main
from toolchain.compress.bit_sizes import room_of
from toolchain.compress.place import Fit, Place, fit_of
from toolchain.compress.summary import design_of
from toolchain.fit.planning import plan_design
from toolchain.model.config import read_config
from toolchain.model.quant_settings import QuantConfig

RECIPE = """
description = "test"
[[stage]]
kind = "depth"
method = "magnitude"
remove = 2
protect_first = 0
protect_last = 0
[[stage]]
kind = "quantize"
method = "nf4"
"""


def used_flash(model: Path, blocks: int) -> int:
    """Bytes of flash that a model of so many blocks takes on rv32, reserved ones not counted."""
    target = load_target("rv32")
    config = read_config(toy_model(model.parent / f"m{blocks}", num_layers=blocks))
    plan = plan_design(design_of(config, {}, QuantConfig()), target).plan
    region = next(region for region in plan.regions if region.name == "flash")
    return region.used - target.region("flash").reserved


def test_before_and_after_in_one_command(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "model", num_layers=4)
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    room = -(-used_flash(model, 2) // 32) * 32
    command = ["compress", str(model), "--recipe", str(tmp_path / "r.toml"), "--device", "cpu"]
    command += ["-o", str(tmp_path / "o"), "--eval-windows", "0", "--target", "rv32"]
    command += ["--region", f"flash={room}"]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    before, after, nf4 = (row["fit"] for row in json.loads(done.stdout)["rows"])
    assert before["fits"] is False
    assert before["excess"] == {"flash": used_flash(model, 4) - room}
    assert before["tokens_per_second"] is None
    assert (after["fits"], after["excess"]) == (True, {})
    assert after["tokens_per_second"] > 0
    assert nf4 is None  # the target's programs cannot run it
    with (tmp_path / "o" / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["fits"] for row in rows] == ["False", "True", ""]
    assert rows[0]["excess"] == f"flash={used_flash(model, 4) - room}"
    table = CliRunner().invoke(main, command).stdout
    assert "fits rv32" in table
    assert "no: flash" in table
    assert "tokens/s" in table


def test_options_of_the_target(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "model", context=32)
    command = ["compress", str(model), "--recipe", "franken", "-o", str(tmp_path / "o"), "--json"]
    for options, where in (
        (["--context", "8"], "--context"),
        (["--region", "mram=1MiB"], "--region"),
        (["--target", "rv32", "--region", "flash"], "--region"),
        (["--target", "rv32", "--region", "mram=1MiB"], "--region mram"),
        (["--target", "rv32", "--context", "33"], "--context"),
    ):
        done = CliRunner().invoke(main, [*command, *options])
        assert done.exit_code == 2, done.output
        assert [problem["where"] for problem in json.loads(done.stdout)["problems"]] == [where]
    assert not (tmp_path / "o").exists()


def test_context_of_the_plan(tmp_path: Path) -> None:
    config = read_config(toy_model(tmp_path / "model", context=32))
    design = design_of(config, {}, QuantConfig())
    target = load_target("rv32")
    short, whole = (fit_of(design, Place(target, context)) for context in (8, None))
    assert isinstance(short, Fit)
    assert isinstance(whole, Fit)
    assert short.tokens_per_second is not None
    assert whole.tokens_per_second is not None
    assert short.tokens_per_second > whole.tokens_per_second


def test_off_chip_memory_has_a_budget() -> None:
    budget = {"kind": "allocate-bits", "budget": {"hyperram": "48 MiB"}}
    assert recipe_of(budget).stages[0].kind == "allocate-bits"


def test_regions_share_a_budget(tmp_path: Path) -> None:
    design = design_of(read_config(toy_model(tmp_path / "model")), {}, QuantConfig())
    target = load_target("siracusa")
    mram, outside = target.region("mram"), target.region("hyperram")
    one, other = (room_of(design, {region: 1 << 20}) for region in (mram, outside))
    both = room_of(design, {mram: 1 << 20, outside: 1 << 20})
    assert both.capacity == one.capacity + other.capacity + one.fixed
    assert both.fixed == one.fixed
