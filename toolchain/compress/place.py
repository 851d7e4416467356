"""Where the result of a recipe is to run: whether a checkpoint fits there, and how fast it is.

The figures are those of `edgec fit`: planned in full, the speed an estimate for a token in the
middle of the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from memory_planner.target import TargetSpec
from toolchain.fit.design import Design, check_design
from toolchain.fit.planning import plan_design
from toolchain.fit.storage import choose_storage
from toolchain.model.config import ModelConfig
from toolchain.model.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Place:
    """A target and the context to plan for (None: the model's)."""

    target: TargetSpec
    context: int | None = None

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """A context that the model does not have."""
        most = config.max_position_embeddings
        if self.context is not None and not 1 <= self.context <= most:
            yield Problem("--context", str(self.context), f"1..{most}, the context of the model")


@dataclass(frozen=True, slots=True)
class Fit:
    """What the planner says; `excess` has the bytes that each region is too small by."""

    fits: bool
    excess: Mapping[str, int] = field(default_factory=dict)
    tokens_per_second: float | None = None  # an estimate; None for what does not fit

    def text(self) -> str:
        """For a table."""
        if self.fits:
            return f"yes, {self.tokens_per_second:.4g} tokens/s"
        over = (f"{name} by {size:,}" for name, size in self.excess.items())
        return f"no: {', '.join(over) or 'a row is too long'}"


def fit_of(design: Design, place: Place) -> Fit | None:
    """A design on a target; None for one that the target's programs cannot run."""
    context = design.context if place.context is None else place.context
    design = replace(design, context=context)
    try:
        check_design(design)
    except ConfigError:
        return None
    outcome = plan_design(choose_storage(design, place.target), place.target)
    if not outcome.fits:
        return Fit(False, {lack.region: lack.excess for lack in outcome.shortfalls})
    return Fit(True, tokens_per_second=outcome.speed.tokens_per_second)
