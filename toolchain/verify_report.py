"""What a verification found, as values and as the JSON of `edgec verify --json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sim.compare import Divergence


@dataclass(frozen=True, slots=True)
class PromptReport:
    """The same tokens in prompts; ops behind the blocks run for the last one of each alone."""

    tokens: int  # of a prompt; the last one may be shorter
    ops_compared: int  # (step, op) pairs
    ops_equal: int
    first_divergence: Divergence | None


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of the traced program, and of the self-test."""

    runner: str
    cores: int
    compiler: str
    simulator: str | None
    ops_compared: int  # (step, op) pairs
    ops_equal: int
    first_divergence: Divergence | None
    instructions: tuple[int, ...] | None  # per step, without trace; None: not counted
    prompts: PromptReport | None = None  # None: the steps differ already

    @property
    def passed(self) -> bool:
        """True when every op was equal."""
        return self.divergence is None

    @property
    def divergence(self) -> Divergence | None:
        """The first one, of steps or of prompts."""
        if self.prompts is None or self.first_divergence:
            return self.first_divergence
        return self.prompts.first_divergence

    @property
    def instructions_per_token(self) -> float | None:
        """Mean over the steps; None where the runner cannot count."""
        if not self.instructions:
            return None
        return sum(self.instructions) / len(self.instructions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "runner": self.runner,
            "cores": self.cores,
            "compiler": self.compiler,
            "simulator": self.simulator,
            "ops_compared": self.ops_compared,
            "ops_equal": self.ops_equal,
            "first_divergence": asdict(self.first_divergence) if self.first_divergence else None,
            "instructions_per_token": self.instructions_per_token,
            "prompts": asdict(self.prompts) if self.prompts else None,
        }


@dataclass(frozen=True, slots=True)
class ContextReport:
    """The untraced run to the end of the context, where one step more must be refused."""

    positions: int
    cores: int | None  # None: it did not run
    skipped: str = ""  # why not


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All runs of one verification."""

    tokens: int  # steps compared
    runs: tuple[RunReport, ...]
    context: ContextReport

    @property
    def passed(self) -> bool:
        """True when every run was equal."""
        return all(run.passed for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        runs = [run.to_dict() for run in self.runs]
        context = asdict(self.context)
        return {"passed": self.passed, "tokens": self.tokens, "runs": runs, "context": context}
