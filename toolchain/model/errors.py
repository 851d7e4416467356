"""Every error that a user can meet, with the facts as fields and the text built from them.

A stage collects all its problems and raises once. Each class has its own process exit code;
`to_dict` gives `--json` the same facts as the text. `InternalError` is for failed self-checks only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One offending item: where it is, what was found against what is allowed, and the remedy."""

    where: str
    found: str
    allowed: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: found {self.found}, allowed {self.allowed}"
        return f"{text}; {self.fix}" if self.fix else text


class EdgecError(Exception):
    """Base of all errors shown to users; `exit_code` is the process exit code."""

    exit_code = 1
    kind = "error"

    def __init__(self, what: str, problems: Sequence[Problem] = (), fix: str = "") -> None:
        self.what = what
        self.problems = tuple(problems)
        self.fix = fix
        super().__init__(self.text())

    def text(self) -> str:
        """The message: what happened, one line per problem, what to change."""
        lines = [self.what, *(f"  - {problem}" for problem in self.problems)]
        return "\n".join([*lines, f"  fix: {self.fix}"] if self.fix else lines)

    def to_dict(self) -> dict[str, object]:
        """The same facts for `--json`."""
        return {
            "error": self.kind,
            "what": self.what,
            "problems": [asdict(problem) for problem in self.problems],
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class ConfigError(EdgecError):
    """An option, recipe or target file asks for something that does not exist."""

    exit_code = 2
    kind = "config"


class DoesNotFitError(EdgecError):
    """The model does not fit the memories of the target."""

    exit_code = 3
    kind = "does_not_fit"


class UnsupportedModelError(EdgecError):
    """The model is well-formed but uses something that edgec does not support."""

    exit_code = 4
    kind = "unsupported_model"


class CheckpointError(EdgecError):
    """The checkpoint is broken: a file is missing, truncated, or disagrees with the config."""

    exit_code = 5
    kind = "checkpoint"


class MismatchError(EdgecError):
    """A comparison that must be exact found a difference."""

    exit_code = 6
    kind = "mismatch"


class ToolError(EdgecError):
    """A compiler or simulator that a command needs is missing, or failed."""

    exit_code = 7
    kind = "tool"


class BundleError(EdgecError):
    """A compiled bundle is incomplete, damaged, or of another version."""

    exit_code = 8
    kind = "bundle"


class QuantizationError(EdgecError):
    """A tensor cannot be quantized as asked, or an overflow bound of the arithmetic fails."""

    exit_code = 9
    kind = "quantization"


class EnvironmentFailureError(EdgecError):
    """The operating system refused something: no space, no permission, a closed pipe."""

    exit_code = 10
    kind = "environment"


class CompressionError(EdgecError):
    """A stage of a recipe failed: too little text, a loss that is not finite, clashing masks."""

    exit_code = 11
    kind = "compression"


class InternalError(EdgecError):
    """A self-check failed: a defect of edgec, please report it."""

    exit_code = 70
    kind = "internal"
