"""Data files: where they are found, what is refused, and how a limit is shared out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.evaluate.data import FILES, write_data
from tests.paths import SHARED
from toolchain.evaluate import rows
from toolchain.evaluate.data_files import (
    DataSource,
    data_directory,
    find_file,
    read_rows,
    read_text,
    spread,
)
from toolchain.evaluate.rows import Data
from toolchain.evaluate.run import EvalOptions, check_options
from toolchain.evaluate.suites import SUITES, parse_suites
from toolchain.model.errors import ConfigError

BOOLQ = "boolq.validation.jsonl"


def test_files_are_found_in_the_folder_and_below_it(tmp_path: Path) -> None:
    write_data(tmp_path, zipped=[BOOLQ])
    assert find_file(tmp_path, BOOLQ) == tmp_path / "eval" / f"{BOOLQ}.gz"
    assert find_file(tmp_path / "eval", BOOLQ) == tmp_path / "eval" / f"{BOOLQ}.gz"
    path = tmp_path / "text" / "wikitext-2" / "test.txt"
    assert find_file(tmp_path, "wikitext-2/test.txt") == path
    assert find_file(tmp_path, "nothing.jsonl") is None


def test_every_suite_has_its_rows(tmp_path: Path) -> None:
    write_data(tmp_path, zipped=[BOOLQ])
    data = Data(tmp_path, allow_hub=False)
    data.check(SUITES)
    assert data.rows(SUITES["boolq"].sources[0]) == FILES[BOOLQ]
    assert data.rows(SUITES["bbh"].sources[0])[0]["target"] == "Yes"


@pytest.mark.skipif(not (SHARED / "data" / "eval").is_dir(), reason="no data folder ../shared")
def test_the_real_files_have_the_expected_form() -> None:
    data = Data(SHARED / "data", allow_hub=False)
    data.check(name for name in SUITES if name != "triviaqa-open")
    for name, suite in SUITES.items():
        if name != "triviaqa-open":
            for source in suite.sources:
                assert source.is_text or len(data.rows(source)) > 100


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Data(tmp_path, allow_hub=False).check(["boolq", "mmlu", "wikitext2", "text"])
    text = str(caught.value)
    for name in (BOOLQ, "mmlu_test.jsonl", "mmlu_dev.jsonl", "wikitext-2/test.txt"):
        assert f"{name} or {name}.gz" in text
    assert len(caught.value.problems) == 4
    assert "--allow-hub" in text


def test_a_data_directory_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--data"):
        data_directory(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    assert data_directory(None) == Path("data")
    (tmp_path / "data").mkdir()
    assert data_directory(None) == Path("data")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"a": 1}\n{"b": 2}\n', "row 2: found no a"),
        (b"[1, 2]\n", "row 1: found no a"),
        (b'{"a": 1}\n{"a": ', "allowed JSON"),
        (b"\n\n", "no rows"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_broken_rows_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=found):
        read_rows(path, ["a"])


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_text(path)
    path.write_bytes(gzip.compress(b"a long text" * 100)[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_text(path)


def test_a_limit_takes_from_every_group_in_turn() -> None:
    groups = {"a": [{"n": 1}, {"n": 2}, {"n": 3}], "b": [{"n": 4}], "c": [{"n": 5}, {"n": 6}]}
    assert spread(groups, 5) == {"a": [{"n": 1}, {"n": 2}], "b": [{"n": 4}], "c": groups["c"]}
    assert spread(groups, 2) == {"a": [{"n": 1}], "b": [{"n": 4}]}
    assert spread(groups, 100) == spread(groups, None) == groups


@pytest.mark.parametrize("text", ["", "boolq,boolq", "wikitext", "boolq,piqa"])
def test_unknown_suites_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--suite"):
        parse_suites(text)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (EvalOptions(("text",)), "no --text FILE"),
        (EvalOptions(("wikitext2",), text=Path("x")), "without the suite text"),
        (EvalOptions(("text",), text=Path("nowhere")), "nowhere"),
        (EvalOptions(("boolq",), window=64), "--window"),
        (EvalOptions(("mmlu",), shots=6), r"allowed 0\.\.5"),
        (EvalOptions(("boolq",), shots=1), r"allowed 0\.\.0"),
    ],
)
def test_options_that_do_not_go_together(options: EvalOptions, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        check_options(options)


def test_the_hub_is_asked_only_when_allowed_and_only_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TriviaQA of the hub nests answers and contexts; its rows come out like those of the files."""
    asked: list[tuple[str, str | None, str]] = []
    nested: dict[str, object] = {
        "question": "Who?",
        "answer": {"value": "Bob", "aliases": ["Bob"], "normalized_aliases": ["bob", "robert"]},
        "entity_pages": {"wiki_context": ["", "Bob did it."]},
    }

    def from_hub(source: DataSource) -> list[dict[str, object]]:
        asked.append(source.hub)
        return [{"text": "a\n"}, {"text": "b\n"}] if source.is_text else [nested]

    monkeypatch.setattr(rows, "_from_hub", from_hub)
    data = Data(tmp_path, allow_hub=True)
    data.check(SUITES)
    flat = {"question": "Who?", "value": "Bob", "aliases": ["bob", "robert"]}
    source = SUITES["triviaqa-open"].sources[0]
    assert data.rows(source) == [flat | {"contexts": ["Bob did it."]}]
    assert data.text(SUITES["wikitext2"].sources[0]) == "a\nb\n"
    assert asked[0] == ("mandarjoshi/trivia_qa", "rc.wikipedia", "validation")
    write_data(tmp_path)
    assert data.rows(source) == FILES[source.file]
    assert len(asked) == 2
