"""Suites of lm-eval on handmade rows: every one runs, and scores equal those of its own backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.evaluate.data import FILES, write_data
from tests.model.tiny import write_model
from tests.paths import SHARED
from toolchain.cli import main
from toolchain.model.tokenizer import load_tokenizer

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")

CHOICE_SUITES = (
    "boolq",
    "rte",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
)


def evaluate(*args: object) -> Any:
    result = CliRunner().invoke(main, ["eval", *map(str, args), "--json"])
    assert result.exit_code == 0, result.output
    return {suite["suite"]: suite for suite in json.loads(result.stdout)["suites"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("harness") / "m", vocab_size=300, context=256)


def test_all_suites_of_choices(model: Path, data: Path) -> None:
    names = ",".join(CHOICE_SUITES)
    suites = evaluate(model, "--suite", names, "--data", data, "--limit", 2, "--device", "numpy")
    assert tuple(suites) == CHOICE_SUITES
    for name, suite in suites.items():
        metrics = {accuracy["metric"] for accuracy in suite["accuracies"]}
        normed = name in ("hellaswag", "arc_easy", "arc_challenge", "openbookqa")
        assert metrics == ({"acc", "acc_norm"} if normed else {"acc"})
        for accuracy in suite["accuracies"]:
            assert accuracy["total"] == 2
            assert accuracy["value"] == accuracy["correct"] / 2
            assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_mmlu_by_subject_with_examples(model: Path, data: Path) -> None:
    options = ("--suite", "mmlu", "--data", data / "eval", "--limit", 4, "--device", "numpy")
    plain = evaluate(model, *options)["mmlu"]
    assert plain["tasks"].keys() == {"anatomy", "astronomy"}
    assert [task["total"] for task in plain["tasks"].values()] == [2, 2]
    shown = evaluate(model, *options, "--shots", 2)["mmlu"]
    assert shown["computed_tokens"] > plain["computed_tokens"] + 50  # shared examples count once
    assert plain["truncated_prompts"] == 0


def test_bbh_answers_freely(model: Path, data: Path) -> None:
    options = ("--suite", "bbh", "--data", data, "--limit", 2, "--device", "numpy")
    suite = evaluate(model, *options)["bbh"]
    metrics = [accuracy["metric"] for accuracy in suite["accuracies"]]
    assert metrics == ["exact_match (strict-match)", "exact_match (flexible-extract)"]
    assert [task["total"] for task in suite["tasks"].values()] == [1, 1]


@pytest.mark.parametrize(
    ("suite", "file", "change", "found"),
    [
        ("arc_easy", "ai2_arc_ARC-Easy.validation.jsonl", {"answerKey": "Z"}, "arc_easy"),
        ("mmlu", "mmlu_test.jsonl", {"subject": "alchemy"}, "mmlu_alchemy.yaml"),
    ],
)
def test_rows_that_the_harness_cannot_use(
    model: Path, tmp_path: Path, suite: str, file: str, change: dict[str, str], found: str
) -> None:
    rows = [{**row, **change} for row in FILES[file]]
    write_data(tmp_path)
    (tmp_path / "eval" / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["eval", str(model), "--suite", suite, "--data", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, "--device", "numpy"])
    assert result.exit_code == 2, result.output
    assert found in result.output


def test_trivia_of_both_kinds(model: Path, data: Path) -> None:
    options = ("--suite", "triviaqa-closed,triviaqa-open", "--data", data, "--device", "numpy")
    suites = evaluate(model, *options)
    for suite in suites.values():
        assert [(a["metric"], a["total"]) for a in suite["accuracies"]] == [("match", 2)]


def test_log_likelihoods_are_those_of_the_harness_itself(model: Path, data: Path) -> None:
    """The transformers backend of lm-eval on the same requests, and our torch and NumPy models."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from toolchain.evaluate.harness import HarnessModel
    from toolchain.evaluate.subject import open_subject

    pairs = [
        (f"Question: {row['question']}\nAnswer:", f" {choice}")
        for row in FILES["ai2_arc_ARC-Easy.validation.jsonl"]
        for choice in row["choices"]["text"]
    ]
    pairs.append(("x" * 600, " cut at its beginning"))
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(model / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    loaded = transformers.LlamaForCausalLM.from_pretrained(model)
    backend = HFLM(pretrained=loaded, tokenizer=tokenizer, add_bos_token=True, batch_size=1)
    expected = backend.loglikelihood(requests, disable_tqdm=True)
    for device in ("cpu", "numpy"):
        opened = open_subject(model, device)
        own = HarnessModel(opened.model, opened.tokenizer, opened.eos, lambda _: None)
        found = own.loglikelihood(requests)
        for (log_prob, greedy), (other, was_greedy) in zip(found, expected, strict=True):
            assert log_prob == pytest.approx(other, abs=1e-3)
            assert greedy == was_greedy
        assert own.truncated == 1


def test_free_answers_end_at_a_stop_text(model: Path) -> None:
    from lm_eval.api.instance import Instance

    from toolchain.evaluate.harness import HarnessModel
    from toolchain.evaluate.subject import open_subject

    opened = open_subject(model, "numpy")
    own = HarnessModel(opened.model, opened.tokenizer, (), lambda _: None)

    def answer(**options: Any) -> str:
        request = Instance("generate_until", {}, ("Say it:", options), 0)
        return own.generate_until([request])[0]

    free = answer(until=[], max_gen_toks=12)
    assert len(load_tokenizer(model).encode_text(free)) >= 6
    stop = free[3:5]
    assert answer(until=[stop], max_gen_toks=12) == free[: free.index(stop)]


@pytest.mark.skipif(not (SHARED / "data" / "eval").is_dir(), reason="no data folder ../shared")
def test_the_real_rows_run(model: Path) -> None:
    """Two questions of each real file; long ones are cut to the context, and counted."""
    names = ",".join((*CHOICE_SUITES, "mmlu"))
    options = ("--data", SHARED / "data", "--limit", 2, "--device", "numpy")
    suites = evaluate(model, "--suite", names, *options)
    assert all(suite["accuracies"][0]["total"] == 2 for suite in suites.values())
    assert suites["boolq"]["truncated_prompts"] > 0
