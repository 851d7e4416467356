"""What every stage is given and what it hands back, and how its options are declared.

A stage kind is a module with a frozen dataclass `Options` and a function
`run(source, out, options, run) -> StageMetrics`. The module's docstring describes the method; the
metadata of the fields (see `option`) give ranges, so that a recipe is checked before any work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolchain.model.config import ModelConfig
from toolchain.model.errors import Problem

if TYPE_CHECKING:
    from toolchain.compress.texts import TextCache

Progress = Callable[[str, int, int], None]  # what, steps done, steps in all (0: unknown)


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of an Options class: its default, meaning, inclusive range or allowed words."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


class Options(Protocol):
    """The part of an Options class that the framework calls; fields come with the class."""

    def problems(self) -> Iterator[Problem]:
        """What single ranges cannot say; `where` is the name of the option."""
        ...

    def idle(self) -> Mapping[str, str]:
        """Options without effect beside the others, with the reason: refused when given."""
        ...

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """What cannot be done to a model of this shape."""
        ...

    def after(self, config: ModelConfig) -> ModelConfig:
        """The shape that the stage makes of a model that has no misfits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """Base of the Options classes: no problems, nothing idle, every model."""

    def problems(self) -> Iterator[Problem]:
        """See `Options`."""
        yield from ()

    def idle(self) -> Mapping[str, str]:
        """See `Options`."""
        return {}

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """See `Options`."""
        yield from ()

    def after(self, config: ModelConfig) -> ModelConfig:
        """See `Options`."""
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedOptions(StageOptions):
    """Options of a stage that looks at text; see `TextCache.windows`."""

    calibration: str = option("builtin", "builtin, a text file, or hub:DATASET with --allow-hub")
    samples: int = option(10, "windows of calibration text", low=1, high=1 << 20)
    sample_tokens: int | None = option(
        None, "tokens per window; default: 512, or the context", low=2, high=1 << 20
    )

    def needs_text(self) -> bool:
        """Whether the other options leave the text a meaning."""
        return True

    def texts(self) -> dict[str, str]:
        """Texts by the option that names them."""
        return {"calibration": self.calibration}

    def idle(self) -> Mapping[str, str]:
        """The text options of a method that looks at no text."""
        if self.needs_text():
            return {}
        reason = "the method looks at no text"
        return dict.fromkeys(("calibration", "samples", "sample_tokens"), reason)


@dataclass(frozen=True, slots=True, eq=False)
class RunContext:
    """What the framework lends to a stage while it runs."""

    device: str  # "cpu" or "cuda"
    seed: int
    texts: TextCache  # calibration token ids, cached over the stages
    progress: Progress
    allow_hub: bool = False
    earlier: tuple[Path, ...] = ()  # checkpoints that led to the input, the model as given first

    def ticker(self, what: str, total: int) -> Callable[[], None]:
        """A function to call after each of `total` steps of equal size."""
        return ticker(self.progress, what, total)


def ticker(progress: Progress, what: str, total: int) -> Callable[[], None]:
    """A function that counts its calls and reports them."""
    done = count(1)
    progress(what, 0, total)
    return lambda: progress(what, next(done), total)


@dataclass(frozen=True, slots=True)
class StageMetrics:
    """What a stage reports: JSON values that follow from input, options and seed alone."""

    values: Mapping[str, Any]


Run = Callable[[Path, Path, Any, RunContext], StageMetrics]
