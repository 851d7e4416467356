"""`edgec fit --html`: the page of a compile, without what only a compile knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.model.tiny import write_model
from tests.report.page_reader import Element, read_page, section
from toolchain.cli import main


def edgec(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def fit_page(path: Path, *args: str, exit_code: int = 0) -> Element:
    result = edgec("fit", *args, "--html", str(path))
    assert result.exit_code == exit_code, result.output
    return read_page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(
        tmp_path_factory.mktemp("checkpoint") / "tiny",
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        context=24,
    )


def test_same_page_as_a_compile_but_for_the_weights(model: Path, tmp_path: Path) -> None:
    assert edgec("compile", str(model), "-o", str(tmp_path / "build")).exit_code == 0
    html = (tmp_path / "build" / "report" / "report.html").read_text(encoding="utf-8")
    compiled, fitted = read_page(html), fit_page(tmp_path / "fit.html", str(model / "config.json"))
    for name in ("regions", "maps", "growth", "assumptions", "buffers"):
        assert section(fitted, name) == section(compiled, name)
    for tag in ("svg", "tr"):
        drawn = section(fitted, "timeline").all(tag)
        assert drawn == section(compiled, "timeline").all(tag) != []
    assert "trace.json" in section(compiled, "timeline").words()
    assert "trace.json" not in section(fitted, "timeline").words()  # there is none
    assert "SNR" in section(compiled, "blocks").words()
    assert "SNR" not in section(fitted, "blocks").words()


def test_prints_the_report_all_the_same(model: Path, tmp_path: Path) -> None:
    usual = edgec("fit", str(model), "--json")
    drawn = edgec("fit", str(model), "--json", "--html", str(tmp_path / "fit.html"))
    assert json.loads(drawn.stdout) == json.loads(usual.stdout)


def test_what_does_not_fit_is_drawn_too(tmp_path: Path) -> None:
    page = fit_page(tmp_path / "fit.html", "smollm2-135m", "--context", "64", exit_code=3)
    assert "The model does not fit." in section(page, "regions").words()
    assert section(page, "regions").all("tr", "alarm")
    assert (tmp_path / "fit.html").stat().st_size < 500_000


def test_what_ifs_reach_the_page(tmp_path: Path) -> None:
    what_if = ("stories260k", "--kv-bits", "4")
    (reason,) = json.loads(edgec("fit", *what_if, "--json").stdout)["estimates"]
    page = fit_page(tmp_path / "fit.html", *what_if)
    assert reason in section(page, "assumptions").words()
    assert "Bytes are exact" not in section(page, "assumptions").words()


@pytest.mark.parametrize("action", ["--list-shapes", "--suggest", "--table"])
def test_only_a_single_model_has_a_page(action: str, tmp_path: Path) -> None:
    result = edgec("fit", action, "--html", str(tmp_path / "fit.html"))
    assert result.exit_code == 2
    assert "--html" in result.output
    assert not (tmp_path / "fit.html").exists()


def test_page_that_cannot_be_written(tmp_path: Path) -> None:
    result = edgec("fit", "stories260k", "--html", str(tmp_path / "nowhere" / "fit.html"))
    assert result.exit_code == 2
    assert "fit.html" in result.output
