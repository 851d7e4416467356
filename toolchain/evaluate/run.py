"""Runs suites on an opened model: one result per suite, with speed and memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from toolchain.evaluate.data_files import Row, read_text, spread
from toolchain.evaluate.intervals import wilson
from toolchain.evaluate.perplexity import (
    Perplexity,
    cut_windows,
    measure_perplexity,
    window_size,
)
from toolchain.evaluate.rows import Data
from toolchain.evaluate.scoring import F64, CausalModel, Query, Scores
from toolchain.evaluate.subject import Subject
from toolchain.evaluate.suites import BBH_TASKS, SUITES, Kind
from toolchain.evaluate.trivia import run_trivia
from toolchain.model.errors import ConfigError, Problem, ToolError

Progress = Callable[[str, int, int | None], None]  # suite, done, of how many (None: unknown)


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What the user chose besides the model."""

    suites: tuple[str, ...]
    data: Path | None = None
    text: Path | None = None  # of the suite `text`
    limit: int | None = None  # windows or questions per suite
    window: int | None = None  # None: 512, or the context if that is shorter
    shots: int = 0
    allow_hub: bool = False


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A rate of correct answers with its 95 % interval (Wilson)."""

    metric: str
    correct: int
    total: int

    @property
    def value(self) -> float:
        """correct / total."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return wilson(self.correct, self.total)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What one suite gave, and what it cost."""

    suite: str
    seconds: float  # all of it: tokenizing, building prompts, judging
    model_seconds: float
    tokens: int  # positions computed
    perplexity: Perplexity | None = None
    accuracies: tuple[Accuracy, ...] = ()
    truncated: int = 0  # prompts that were cut to fit the context
    tasks: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # first metric, by task

    @property
    def tokens_per_second(self) -> float:
        """Speed of the model under this suite."""
        return self.tokens / self.model_seconds if self.model_seconds else 0.0


def check_options(options: EvalOptions) -> Data:
    """Everything that can be checked before a model is opened; returns the data."""
    problems = []
    if (options.text is not None) != ("text" in options.suites):
        found = "no --text FILE" if options.text is None else "--text without the suite text"
        problems.append(Problem("--suite text", found, "both together"))
    kinds = {SUITES[name].kind for name in options.suites}
    if options.window is not None and Kind.PERPLEXITY not in kinds:
        problems.append(Problem("--window", "no suite of windows", "wikitext2 or text among them"))
    most = max(SUITES[name].shots for name in options.suites)
    if not 0 <= options.shots <= most:
        allowed = f"0..{most}: the files have that many examples for these suites"
        problems.append(Problem("--shots", str(options.shots), allowed))
    if options.text is not None and not options.text.is_file():
        problems.append(Problem("--text", str(options.text), "a text file"))
    if problems:
        raise ConfigError("some options cannot be used", problems)
    if Kind.HARNESS in kinds and (find_spec("lm_eval") is None or find_spec("datasets") is None):
        raise ToolError("lm-eval is not installed", fix="pip install 'edgec[eval]'")
    data = Data(options.data, options.allow_hub)
    data.check(options.suites)
    return data


def run_suites(
    subject: Subject, options: EvalOptions, data: Data, progress: Progress
) -> list[SuiteResult]:
    """All suites in the order asked; raises ConfigError for a window beyond the context."""
    window = window_size(options.window, subject.model.context)
    runners = {Kind.PERPLEXITY: _perplexity, Kind.TRIVIA: _trivia, Kind.HARNESS: _harness}
    results = []
    for name in options.suites:
        model = TimedModel(subject.model)
        job = _Job(name, subject, model, options, data, window, progress)
        results.append(runners[SUITES[name].kind](job))
    return results


class TimedModel:
    """A model with the seconds that were spent in it."""

    def __init__(self, model: CausalModel) -> None:
        self.context = model.context
        self.seconds = 0.0
        self._model = model

    @property
    def computed_tokens(self) -> int:
        """See `CausalModel`."""
        return self._model.computed_tokens

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """See `Scorer`."""
        started = perf_counter()
        try:
            return self._model.score(queries)
        finally:
            self.seconds += perf_counter() - started

    def next_logits(self, tokens: Sequence[int]) -> F64:
        """See `CausalModel`."""
        started = perf_counter()
        try:
            return self._model.next_logits(tokens)
        finally:
            self.seconds += perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    subject: Subject
    model: TimedModel
    options: EvalOptions
    data: Data
    window: int
    progress: Progress

    def rows(self, index: int = 0) -> list[Row]:
        return self.data.rows(SUITES[self.name].sources[index])

    def cost(self, started: float, before: int) -> tuple[float, float, int]:
        tokens = self.model.computed_tokens - before
        return perf_counter() - started, self.model.seconds, tokens


def _perplexity(job: _Job) -> SuiteResult:
    text = job.options.text
    if job.name == "text" and text is not None:
        content = read_text(text)
    else:
        content = job.data.text(SUITES[job.name].sources[0])
    subject = job.subject
    ids = subject.tokenizer.encode_text(content)
    windows = cut_windows(ids, job.window, bos=subject.start, limit=job.options.limit)
    started, before = perf_counter(), job.model.computed_tokens
    result = measure_perplexity(
        job.model, windows, lambda done: job.progress(job.name, done, len(windows))
    )
    return SuiteResult(job.name, *job.cost(started, before), perplexity=result)


def _trivia(job: _Job) -> SuiteResult:
    rows, subject = job.rows()[: job.options.limit], job.subject
    started, before = perf_counter(), job.model.computed_tokens
    result = run_trivia(
        job.model,
        subject.tokenizer,
        rows,
        subject.eos,
        lambda done: job.progress(job.name, done, len(rows)),
    )
    accuracy = Accuracy("match", result.correct, result.total)
    cost = job.cost(started, before)
    return SuiteResult(job.name, *cost, accuracies=(accuracy,), truncated=result.truncated)


def _harness(job: _Job) -> SuiteResult:
    from toolchain.evaluate.harness import HarnessModel, run_harness  # noqa: PLC0415 - 2 s, extra
    from toolchain.evaluate.harness import HarnessTask as Task  # noqa: PLC0415

    suite, subject = SUITES[job.name], job.subject
    examples = _examples(job) if suite.shots and job.options.shots else {}
    tasks = [
        Task(name, suite.task.format(name), rows, examples.get(name, ()))
        for name, rows in spread(_groups(job), job.options.limit).items()
    ]
    shots = job.options.shots if suite.shots else 0
    model = HarnessModel(
        job.model,
        subject.tokenizer,
        subject.eos,
        lambda done: job.progress(job.name, done, None),
    )
    started, before = perf_counter(), job.model.computed_tokens
    result = run_harness(model, tasks, shots)
    total = sum(result.totals.values())
    accuracies = tuple(
        Accuracy(metric, sum(counts.values()), total) for metric, counts in result.correct.items()
    )
    first = next(iter(result.correct.values()))
    by_task = {name: (first[name], result.totals[name]) for name in first} if len(first) > 1 else {}
    cost = job.cost(started, before)
    return SuiteResult(
        job.name, *cost, accuracies=accuracies, truncated=result.truncated, tasks=by_task
    )


def _groups(job: _Job) -> dict[str, list[Row]]:
    """Rows by task of lm-eval: one for most suites, one per subject or puzzle for two of them."""
    if job.name == "bbh":
        return {task: job.rows(index) for index, task in enumerate(BBH_TASKS)}
    rows = job.rows()
    if job.name == "mmlu":
        return _by_subject(rows)
    if job.name == "boolq":  # its release says true or false, the harness counts choices
        rows = [{**row, "label": int(row["answer"])} for row in rows]
    return {job.name: rows}


def _examples(job: _Job) -> dict[str, list[Row]]:
    return _by_subject(job.rows(1))


def _by_subject(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["subject"]), []).append(row)
    return groups


def peak_memory_bytes() -> int:
    """The most memory that this process held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes() -> int | None:
    """The most memory of a GPU that torch held, None without one."""
    torch = sys.modules.get("torch")  # only where it is loaded already
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())
