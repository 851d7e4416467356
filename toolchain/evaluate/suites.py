"""The evaluation suites: which files each needs, and which task of lm-eval defines it.

Perplexity and TriviaQA are scored here (`perplexity.py`, `trivia.py`), all others by lm-eval with
its own prompts and metrics, on local rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from toolchain.evaluate.data_files import DataSource
from toolchain.model.errors import ConfigError, Problem

BBH_TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)


class Kind(StrEnum):
    """How a suite is scored."""

    PERPLEXITY = "perplexity"
    TRIVIA = "trivia"
    HARNESS = "harness"


@dataclass(frozen=True, slots=True)
class Suite:
    """One name of `--suite`."""

    kind: Kind
    sources: tuple[DataSource, ...]
    task: str = ""  # file of lm-eval below its tasks, without .yaml
    shots: int = 0  # the most examples in front of a question that the files allow


def _choice(file: str, task: str, fields: str, hub: tuple[str, str | None]) -> Suite:
    source = DataSource(f"{file}.validation.jsonl", tuple(fields.split()), (*hub, "validation"))
    return Suite(Kind.HARNESS, (source,), task)


_ARC = "question choices answerKey"
_MMLU = ("question", "subject", "choices", "answer")
_BBH = tuple(
    DataSource(f"bbh/{task}.json", ("input", "target"), ("SaylorTwift/bbh", task, "test"))
    for task in BBH_TASKS
)
SUITES: dict[str, Suite] = {
    "wikitext2": Suite(
        Kind.PERPLEXITY,
        (DataSource("wikitext-2/test.txt", (), ("Salesforce/wikitext", "wikitext-2-v1", "test")),),
    ),
    "text": Suite(Kind.PERPLEXITY, ()),
    "triviaqa-closed": Suite(
        Kind.TRIVIA,
        (
            DataSource(
                "trivia_qa_rc.wikipedia.nocontext.validation.jsonl",
                ("question", "aliases"),
                ("mandarjoshi/trivia_qa", "rc.wikipedia.nocontext", "validation"),
            ),
        ),
    ),
    "triviaqa-open": Suite(
        Kind.TRIVIA,
        (
            DataSource(
                "trivia_qa_rc.wikipedia.validation.jsonl",
                ("question", "aliases", "contexts"),
                ("mandarjoshi/trivia_qa", "rc.wikipedia", "validation"),
            ),
        ),
    ),
    "boolq": _choice(
        "boolq", "super_glue/boolq/default", "question passage answer", ("google/boolq", None)
    ),
    "rte": _choice(
        "glue_rte", "glue/rte/default", "sentence1 sentence2 label", ("nyu-mll/glue", "rte")
    ),
    "hellaswag": _choice(
        "hellaswag",
        "hellaswag/hellaswag",
        "activity_label ctx_a ctx_b endings label",
        ("Rowan/hellaswag", None),
    ),
    "winogrande": _choice(
        "winogrande_winogrande_xl",
        "winogrande/default",
        "sentence option1 option2 answer",
        ("allenai/winogrande", "winogrande_xl"),
    ),
    "arc_easy": _choice("ai2_arc_ARC-Easy", "arc/arc_easy", _ARC, ("allenai/ai2_arc", "ARC-Easy")),
    "arc_challenge": _choice(
        "ai2_arc_ARC-Challenge", "arc/arc_challenge", _ARC, ("allenai/ai2_arc", "ARC-Challenge")
    ),
    "openbookqa": _choice(
        "openbookqa_main",
        "openbookqa/openbookqa",
        "question_stem choices answerKey",
        ("allenai/openbookqa", "main"),
    ),
    "mmlu": Suite(
        Kind.HARNESS,
        (
            DataSource("mmlu_test.jsonl", _MMLU, ("cais/mmlu", "all", "test")),
            DataSource("mmlu_dev.jsonl", _MMLU, ("cais/mmlu", "all", "dev")),
        ),
        "mmlu/default/mmlu_{}",
        shots=5,
    ),
    "bbh": Suite(Kind.HARNESS, _BBH, "bbh/zeroshot/{}"),
}


def parse_suites(text: str) -> tuple[str, ...]:
    """The suites of a comma-separated list; raises ConfigError with every unknown or repeated."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    allowed = ", ".join(SUITES)
    problems = [Problem("--suite", repr(n), allowed) for n in names if n not in SUITES]
    if len(set(names)) < len(names):
        problems.append(Problem("--suite", "a name twice", "each once"))
    if problems or not names:
        raise ConfigError(
            "these suites cannot be run", problems or [Problem("--suite", "nothing", allowed)]
        )
    return tuple(names)
