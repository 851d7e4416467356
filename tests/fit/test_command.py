"""The command line of `edgec fit`: every option changes the output or is refused."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.model.tiny import write_model
from tests.paths import REPOSITORY
from toolchain.cli import main
from toolchain.fit.options import FIT_OPTIONS
from toolchain.fit.shapes import list_shapes

COLUMNS = 100
KEYS = ("fits", "parameters", "bytes", "regions", "rows", "problems", "remedies", "estimate")


def fit(*args: str) -> Result:
    return CliRunner().invoke(main, ["fit", *args])


def fit_json(*args: str, code: int = 0) -> Any:
    result = fit(*args, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def plain() -> Any:
    return fit_json("stories260k")


EFFECTS = [
    (["--depth", "2"], "rows"),
    (["--width", "2:4"], "rows"),
    (["--width", "1:16"], "parameters"),  # stored dense, as it does not pay
    (["--attn-width", "2:4"], "rows"),
    (["--mlp-width", "2:4"], "rows"),
    (["--bits", "8"], "rows"),
    (["--bits", "3"], "bytes"),  # packed like 4 bits, but not in a checkpoint
    (["--group-size", "16"], "rows"),
    (["--embed-bits", "4"], "rows"),
    (["--head-bits", "8"], None),
    (["--layer", "l01.mlp.*=8"], "rows"),
    (["--context", "100"], "rows"),
    (["--vocab", "300"], "rows"),
    (["--kv-bits", "4"], "rows"),
    (["--kv-bits", "16"], "rows"),
    (["--eora-rank", "4"], "rows"),
    (["--layer-order", "0,1,2,2,3"], "rows"),
    (["--activations", "a8"], "settings"),
    (["--activations", "down_in=a8"], "settings"),
    (["--target", "rv32"], "regions"),
    (["--pin", "kv.*=l2"], "rows"),
    (["--region", "mram=128KiB"], "regions"),
    (["--l1", "16KiB"], "rows"),
]


@pytest.mark.parametrize(("options", "changed"), EFFECTS, ids=lambda v: " ".join(v or []))
def test_every_option_changes_the_report(
    plain: Any, options: list[str], changed: str | None
) -> None:
    report = fit_json("stories260k", *options)
    if changed is None:  # the value that a tied head has anyway
        assert report == plain
    else:
        assert report[changed] != plain[changed]


def test_every_option_of_fit_is_tested_for_an_effect() -> None:
    tested = {word for options, _ in EFFECTS for word in options if word.startswith("--")}
    reports = {"--list-shapes", "--suggest", "--params", "--table", "--csv"}  # below
    spelled = {
        "--csv" if name == "as_csv" else "--" + name.replace("_", "-") for name in FIT_OPTIONS
    }
    assert spelled <= tested | reports


def test_options_compose(plain: Any) -> None:
    report = fit_json("stories260k", "--depth", "1", "--width", "1:8", "--kv-bits", "4")
    assert report["what_if"] == {
        "depth": 1,
        "attn_width": "1:8",
        "mlp_width": "1:8",
        "kv_bits": 4,
    }
    assert len(report["estimates"]) == 1
    assert plain["what_if"] == {}
    assert plain["estimates"] == []


def test_keys_of_the_report(plain: Any) -> None:
    assert set(KEYS) <= set(plain)
    assert {"dense", "kept"} <= set(plain["parameters"])
    assert {"fp16", "packed"} <= set(plain["bytes"])
    assert {"name", "capacity", "used", "free"} <= set(plain["regions"][0])
    misfit = fit_json("stories15m", "--region", "hyperram=2MiB", code=3)
    assert set(misfit) == set(plain)
    assert misfit["fits"] is False
    assert misfit["problems"]
    assert misfit["remedies"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--width", "4:2"], ["--width", "4:2", "1:2, 2:4, 3:4"]),
        (["--width", "0:4"], ["--width", "0:4", "1:2, 2:4"]),
        (["--width", "4"], ["--width", "N:M"]),
        (["--width", "1:4", "--attn-width", "1:4", "--mlp-width", "2:4"], ["--width", "one of"]),
        (["--mlp-width", "x"], ["--mlp-width"]),
        (["--width", "1:8", "--layer-order", "0,,1"], ["--layer-order"]),
        (["--depth", "99"], ["--depth", "99", "0..4"]),
        (["--bits", "1"], ["bits", "2..8"]),
        (["--context", "0"], ["--context", "1..512"]),
        (["--context", "513"], ["--context", "1..512"]),
        (["--kv-bits", "5"], ["--kv-bits", "4, 8, 16"]),
        (["--eora-rank", "33"], ["--eora-rank", "1..32"]),
        (["--layer-order", "5"], ["--layer-order", "block 5", "0..4"]),
        (["--layer", "l07.*=8"], ["l07"]),
        (["--depth", "4", "--layer", "l01.*=8"], ["l01"]),
        (["--params", "4M"], ["--params", "--suggest"]),
        (["--csv"], ["--csv", "--table"]),
        (["--table", "--csv", "--json"], ["--csv", "--json"]),
        (["--table", "--suggest"], ["one of"]),
        (["--table", "--layer-order", "0,1"], ["--layer-order", "--table"]),
        (["--table", "--attn-width", "2:4"], ["--attn-width"]),
        (["--suggest", "--depth", "1"], ["--depth", "--suggest"]),
        (["--suggest", "--layer", "l00.*=8"], ["--layer", "--suggest"]),
        (["--suggest", "--params", "-4"], ["--params"]),
        (["--suggest", "--activations", "a8"], ["--activations", "--suggest"]),
        (["--table", "--activations", "a8"], ["--activations", "--table"]),
        (["--table", "--html", "x.html"], ["--html", "--table"]),
        (["--pin", "kv.*=l9"], ["--pin kv.*", "l9", "mram"]),
        (["--list-shapes"], ["MODEL", "--list-shapes"]),
        (["--target", "pdp11"], ["pdp11"]),
    ],
)
def test_nonsense_is_refused(options: list[str], words: list[str]) -> None:
    result = fit("stories260k", *options)
    assert result.exit_code == 2, result.output
    assert all(word in result.output for word in words), result.output


def test_the_first_line_is_the_verdict(tmp_path: Path) -> None:
    page = tmp_path / "fit.html"
    result = fit("stories260k", "--html", str(page))
    assert result.stdout.splitlines()[0].startswith("fits siracusa: mram ")
    assert result.stderr == f"edgec: wrote {page} ({page.stat().st_size:,} bytes)\n"
    report = fit_json("stories15m", "--region", "hyperram=2MiB", code=3)
    line = fit("stories15m", "--region", "hyperram=2MiB").stdout.splitlines()[0]
    first = report["problems"][0]
    assert line == (
        f"does not fit siracusa: region hyperram, capacity {first['capacity']:,}, "
        f"need {first['need']:,}, excess {first['excess']:,} bytes"
    )


def test_misfit_names_region_numbers_and_remedies() -> None:
    little = ("stories15m", "--region", "hyperram=2MiB", "--region", "mram=2MiB")
    result = fit(*little)
    assert result.exit_code == 3
    report = fit_json(*little, code=3)
    (problem,) = report["problems"]
    for number in ("need", "capacity", "excess"):
        assert f"{problem[number]:,}" in result.stderr
    assert "region hyperram" in result.stderr
    assert "embed.weight" in result.stderr
    assert report["remedies"]
    for remedy in report["remedies"]:
        assert remedy["text"] in result.stderr
        assert remedy["option"] in result.stderr
        again = fit(*little, *remedy["option"].split())
        assert again.exit_code == 0, remedy
    assert "ms at an assumed 200 MB/s" in result.stdout


def test_a_pattern_that_does_not_pay_says_so() -> None:
    report = fit_json("stories260k", "--width", "1:16")
    assert all(entry["pays"] is False for entry in report["width"])
    assert all(entry["saved_bytes"] == 0 for entry in report["width"])
    assert "does not pay" in fit("stories260k", "--width", "1:16").stdout
    cores = ("--engine", "cores")  # the engine has no words without the zeros
    half = fit_json("stories260k", "--width", "2:4", *cores)
    assert all(entry["saved_bytes"] > 0 for entry in half["width"])
    dense = fit_json("stories260k", *cores)
    saved = sum(entry["saved_bytes"] for entry in half["width"])
    assert half["bytes"]["packed"] == dense["bytes"]["packed"] - saved


def test_fast_arithmetic_is_cheaper_and_takes_a_larger_table() -> None:
    precise, fast = (
        fit_json("stories260k", "--arithmetic", arithmetic) for arithmetic in ("precise", "fast")
    )
    assert [report["settings"]["arithmetic"] for report in (precise, fast)] == ["precise", "fast"]
    cycles = [report["estimate"]["cycles_per_token"] for report in (precise, fast)]
    assert 0.85 * cycles[0] < cycles[1] < cycles[0]
    sizes = [report["bytes"]["packed"] for report in (precise, fast)]
    assert 0 <= sizes[1] - sizes[0] <= 2 * (513 - 257 + 2049 - 256)
    assert "precise" in fit("stories260k", "--arithmetic", "exact").stderr


def test_shapes_are_listed() -> None:
    shapes = fit_json("--list-shapes")["shapes"]
    assert {shape["name"] for shape in shapes} == set(list_shapes())
    assert all(shape["source"] and shape["parameters"] for shape in shapes)
    text = fit("--list-shapes").stdout
    assert all(name in text for name in list_shapes())


def test_suggestions_can_be_fitted(tmp_path: Path) -> None:
    options = ("--vocab", "1024", "--context", "64", "--bits", "8")
    found = fit_json("--suggest", "--params", "1M", *options)["suggestions"]
    for entry in found[:3]:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(entry["config"]), encoding="utf-8")
        report = fit_json(str(path), "--bits", "8")
        assert report["fits"]
        assert report["parameters"]["dense"] == entry["parameters"] <= 1_000_000
        assert report["bytes"]["packed"] == entry["packed"]
        assert report["estimate"]["tokens_per_second"] == pytest.approx(
            entry["tokens_per_second"], rel=1e-2
        )


def test_suggestions_take_vocabulary_and_context_of_a_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", vocab_size=300, context=48)
    value = fit_json(str(model), "--suggest", "--params", "500K")
    assert (value["uses_off_chip"], value["off_chip_exists"]) == (False, True)
    assert (value["vocab"], value["context"]) == (300, 48)
    assert {entry["config"]["vocab_size"] for entry in value["suggestions"]} == {300}


def test_table_and_csv_tell_the_same() -> None:
    args = ("stories260k", "--table", "--bits", "4")
    points = fit_json(*args)["points"]
    rows = list(csv.DictReader(io.StringIO(fit(*args, "--csv").stdout)))
    assert [row["width"] for row in rows] == [point["width"] for point in points]
    assert [int(row["kept"]) for row in rows] == [point["kept"] for point in points]
    assert [row["pareto"] == "true" for row in rows] == [point["pareto"] for point in points]
    lines = [line for line in fit(*args).stdout.splitlines() if line.startswith("│ D")]
    assert len(lines) == sum(point["pareto"] for point in points) > 2
    assert fit(*args, "--csv").stdout == fit(*args, "--csv").stdout


def test_suggestions_as_csv() -> None:
    args = ("--suggest", "--params", "300K", "--vocab", "512")
    rows = list(csv.DictReader(io.StringIO(fit(*args, "--csv").stdout)))
    found = fit_json(*args)["suggestions"]
    assert [int(row["hidden_size"]) for row in rows] == [e["config"]["hidden_size"] for e in found]


@pytest.mark.parametrize(
    "args",
    [
        *[[name] for name in list_shapes()],
        ["llama-3.2-1b", "--width", "12:16", "--eora-rank", "32", "--kv-bits", "16"],
        ["llama-3.2-1b", "--layer-order", ",".join(str(n % 16) for n in range(100))],
        ["stories260k", "--target", "rv32"],
        ["stories260k", "--table"],
        ["--list-shapes"],
        ["--suggest"],
        ["--suggest", "--params", "1K"],
    ],
    ids=lambda args: " ".join(args)[:40],
)
def test_tables_are_at_most_100_columns(args: list[str]) -> None:
    for line in fit(*args).stdout.splitlines():
        drawn = line.strip()[:1] in set("┏┡├└│┃")
        assert len(line.rstrip()) <= COLUMNS or not drawn, line
        assert "…" not in line


def test_fit_needs_no_weights_and_imports_nothing_heavy(tmp_path: Path) -> None:
    config = write_model(tmp_path / "model") / "config.json"
    alone = tmp_path / "alone" / "config.json"
    alone.parent.mkdir()
    alone.write_bytes(config.read_bytes())
    code = (
        "import sys; from click.testing import CliRunner; from toolchain.cli import main;"
        f"r = CliRunner().invoke(main, ['fit', {str(alone.parent)!r}]); assert r.exit_code == 0, r;"
        "heavy = {'torch', 'transformers', 'safetensors', 'tokenizers', 'jinja2', 'rich.progress'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout.strip() == "[]"


def test_equal_reports_in_any_process() -> None:
    outputs = []
    for seed in ("0", "4711"):
        command = [sys.executable, "-m", "toolchain.cli", "fit", "--table", "--json"]
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY), "PATH": ""}
        command += ["stories260k", "--bits", "4", "--depth", "1"]
        result = subprocess.run(command, env=env, check=True, capture_output=True)
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1]
