"""Suites that lm-eval defines: its prompts, its metrics, local rows, any `CausalModel`.

lm-eval is the EleutherAI evaluation harness (doi 10.5281/zenodo.10256836). Its task files are
read from the installed package; their data sets are replaced by rows that were read before, so
that nothing is downloaded, and only rows that a limit leaves go in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from toolchain.evaluate.data_files import Row
from toolchain.evaluate.scoring import CausalModel, Query, Stopping, greedy
from toolchain.model.errors import ConfigError, EdgecError, Problem
from toolchain.model.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256  # the harness's default for free answers
BATCH = 32  # requests per call of the model
METRICS = ("acc", "acc_norm", "exact_match")


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """One task: a file of lm-eval, the rows to ask, and rows to show before each question."""

    name: str  # below the suite, such as the subject; or the suite itself
    file: str  # below lm_eval/tasks, without .yaml
    rows: Sequence[Row]
    examples: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class HarnessResult:
    """Correct answers by metric and task, and what was cut to fit the context."""

    correct: Mapping[str, Mapping[str, int]]  # metric to task to count
    totals: Mapping[str, int]  # by task
    truncated: int  # requests whose beginning was cut


class HarnessModel(TemplateLM):
    """The interface of lm-eval over a `CausalModel`."""

    def __init__(
        self,
        model: CausalModel,
        tokenizer: Tokenizer,
        eos: Sequence[int],
        progress: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.truncated = 0
        self._model = model
        self._tokenizer = tokenizer
        self._eos = tuple(eos)
        self._progress = progress
        self._done = 0

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token; the first token where the model has none."""
        return self._eos[0] if self._eos else 0

    @property
    def prefix_token_id(self) -> int:
        """What a text without context follows: the start token, or the end of another text."""
        start = self._tokenizer.start
        return self.eot_token_id if start is None else start

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        """Ids as the model was trained to see them: with its start token unless refused."""
        if add_special_tokens is False:
            return self._tokenizer.encode_text(string)
        return self._tokenizer.encode(string)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """See lm-eval; its own progress bar stays off."""
        result: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return result

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        **kwargs: object,
    ) -> list[tuple[float, bool]]:
        results: list[tuple[float, bool]] = []
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            queries = [self._query(context, answer) for _, context, answer in part]
            for scores in self._model.score(queries):
                results.append((float(scores.log_probs.sum()), bool(scores.greedy.all())))
            self._advance(len(part))
        return results

    def _query(self, context: list[int], answer: list[int]) -> Query:
        """The last tokens that fit, as in the harness; the answer is scored whole."""
        room = self._model.context + 1  # the last token is scored, not read
        if len(answer) >= room or not answer:
            problem = Problem("an answer", f"{len(answer)} tokens", f"1..{room - 1}")
            raise ConfigError("an answer does not fit the context of the model", [problem])
        tokens = [*context, *answer]
        self.truncated += len(tokens) > room
        tokens = tokens[-room:]
        return Query(np.array(tokens, np.int64), len(tokens) - len(answer))

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """No suite here asks for it: perplexity has a protocol of its own."""
        raise NotImplementedError("rolling log-likelihood is not used by any suite")

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Greedy text up to a stop text, at most a quarter of the context long."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, prompt: str, options: dict[str, Any]) -> str:
        stops = [stop for stop in options.get("until", ()) if stop]
        limit = min(int(options.get("max_gen_toks", MAX_NEW_TOKENS)), self._model.context // 4)
        tokens = self._tokenizer.encode(prompt)
        room = self._model.context - limit + 1
        self.truncated += len(tokens) > room
        tokens = tokens[-room:]
        before = len(self._tokenizer.decode(tokens))

        def text_of(new: Sequence[int]) -> str:
            return self._tokenizer.decode([*tokens, *new])[before:]

        def ended(new: Sequence[int]) -> bool:
            return any(stop in text_of(new) for stop in stops)

        text = text_of(greedy(self._model, tokens, Stopping(limit, self._eos, ended=ended)))
        self._advance(1)
        return min((text.split(stop)[0] for stop in stops), key=len, default=text)

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(self._done)


def run_harness(model: HarnessModel, tasks: Sequence[HarnessTask], shots: int) -> HarnessResult:
    """Ask all `tasks`; `shots` examples stand before each question.

    Raises ConfigError when lm-eval has no such task or cannot use the rows.
    """
    _quiet()
    try:
        built = [_build(task, shots) for task in tasks]
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=built,
            task_manager=TaskManager(include_defaults=False),
            num_fewshot=shots or None,
            bootstrap_iters=0,
            log_samples=True,
        )
    except EdgecError:
        raise
    except Exception as error:  # whatever a row without the expected values makes it raise
        found = f"{type(error).__name__}: {error}"
        problem = Problem(", ".join(task.name for task in tasks[:3]), found, "rows as released")
        raise ConfigError("lm-eval cannot use the rows of a data file", [problem]) from error
    correct: dict[str, dict[str, int]] = {}
    for task, made in zip(tasks, built, strict=True):
        for sample in results["samples"][made.task_name]:
            for metric in METRICS:
                if metric in sample:
                    name = _metric_name(metric, sample["filter"])
                    counts = correct.setdefault(name, dict.fromkeys((t.name for t in tasks), 0))
                    counts[task.name] += round(float(sample[metric]))
    totals = {task.name: len(task.rows) for task in tasks}
    return HarnessResult(correct, totals, model.truncated)


def _metric_name(metric: str, answer_filter: str) -> str:
    return metric if answer_filter == "none" else f"{metric} ({answer_filter})"


def _build(task: HarnessTask, shots: int) -> Any:
    """A task of the installed harness on local rows."""
    path = Path(lm_eval.__file__).parent / "tasks" / f"{task.file}.yaml"
    if not path.is_file():
        problem = Problem(task.name, "no task of lm-eval", f"{task.file}.yaml among its tasks")
        raise ConfigError("lm-eval does not know a subject of the data", [problem])
    config = load_yaml(path)
    for key in ("tag", "group", "task_list", "dataset_path", "dataset_name", "dataset_kwargs"):
        config.pop(key, None)
    rows = {"rows": datasets.Dataset.from_list(list(task.rows))}
    if shots:
        rows["examples"] = datasets.Dataset.from_list(list(task.examples))

    def local_rows(**_: object) -> datasets.DatasetDict:
        return datasets.DatasetDict(rows)

    splits = {"training_split": None, "test_split": None, "validation_split": "rows"}
    splits["fewshot_split"] = "examples" if shots else None
    return ConfigurableTask(config=config | splits | {"custom_dataset": local_rows})


def _quiet() -> None:
    """The harness logs advice on its own command line; progress bars are ours."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
