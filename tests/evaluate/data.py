"""Handmade evaluation files with the forms of the real ones: a few rows of every suite."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolchain.evaluate.suites import BBH_TASKS

Row = dict[str, Any]

CHOICES = {"text": ["red", "blue", "green"], "label": ["A", "B", "C"]}
ARC: list[Row] = [
    {"question": "What is the sky?", "choices": CHOICES, "answerKey": "B"},
    {"question": "What is grass?", "choices": CHOICES, "answerKey": "C"},
    {"question": "What is blood?", "choices": CHOICES, "answerKey": "A"},
]
FILES: dict[str, list[Row]] = {
    "boolq.validation.jsonl": [
        {"question": "is it so", "passage": "It is so.", "answer": True},
        {"question": "is it not", "passage": "It is so.", "answer": False},
    ],
    "glue_rte.validation.jsonl": [
        {"sentence1": "A dog ran.", "sentence2": "A dog moved.", "label": 0},
        {"sentence1": "A dog ran.", "sentence2": "A cat sat.", "label": 1},
    ],
    "hellaswag.validation.jsonl": [
        {
            "activity_label": "Cooking",
            "ctx_a": "A man cooks.",
            "ctx_b": "he",
            "endings": ["eats.", "flies away.", "[title] sleeps.", "is a pan."],
            "label": "0",
        }
    ]
    * 2,
    "winogrande_winogrande_xl.validation.jsonl": [
        {"sentence": "Sam met Bob and _ ran.", "option1": "Sam", "option2": "Bob", "answer": "1"},
        {"sentence": "Sam met Bob so _ fled.", "option1": "Sam", "option2": "Bob", "answer": "2"},
    ],
    "ai2_arc_ARC-Easy.validation.jsonl": ARC,
    "ai2_arc_ARC-Challenge.validation.jsonl": ARC,
    "openbookqa_main.validation.jsonl": [
        {"question_stem": "The sky is", "choices": CHOICES, "answerKey": "B"}
    ]
    * 2,
    "mmlu_test.jsonl": [
        {"question": f"{i}?", "subject": subject, "choices": ["1", "2", "3", "4"], "answer": i}
        for subject in ("anatomy", "astronomy")
        for i in range(3)
    ],
    "mmlu_dev.jsonl": [
        {"question": f"dev {i}?", "subject": subject, "choices": list("5678"), "answer": i}
        for subject in ("anatomy", "astronomy")
        for i in range(2)
    ],
    "trivia_qa_rc.wikipedia.nocontext.validation.jsonl": [
        {"question": "Who?", "value": "Bob", "aliases": ["bob"]}
    ]
    * 2,
    "trivia_qa_rc.wikipedia.validation.jsonl": [
        {"question": "Who?", "aliases": ["bob"], "contexts": ["Bob did it.", "It was done by Bob."]}
    ]
    * 2,
}
TEXT = "One day a dog saw a big red ball. The dog ran and ran.\n" * 20


def write_data(directory: Path, *, zipped: Iterable[str] = ()) -> Path:
    """All files below `directory`/eval and `directory`/text; those in `zipped` as .gz."""
    folder = directory / "eval"
    (folder / "bbh").mkdir(parents=True)
    for name, rows in FILES.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if name in zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text, encoding="utf-8")
    for task in BBH_TASKS:
        examples = [{"input": f"Is {task} hard?", "target": "Yes"}]
        text = json.dumps({"examples": examples})
        (folder / "bbh" / f"{task}.json").write_text(text, encoding="utf-8")
    wikitext = directory / "text" / "wikitext-2"
    wikitext.mkdir(parents=True)
    (wikitext / "test.txt").write_text(TEXT, encoding="utf-8")
    return directory
