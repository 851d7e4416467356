"""Prompts: which ops run for every token, and which for the last one alone.

Blocks need every token, because later ones attend to its cache rows. What comes behind them, the
final norm, the head and the argmax, only serves the logits of its own token.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.model.program import Op, Program


@dataclass(frozen=True, slots=True)
class Parts:
    """The schedule in three parts."""

    before: tuple[Op, ...]
    blocks: tuple[Op, ...]
    behind: tuple[Op, ...]  # for the last token of a prompt alone

    @property
    def every(self) -> tuple[Op, ...]:
        """Ops that run for every token."""
        return self.before + self.blocks


def parts_of(program: Program) -> Parts:
    """The parts of a program's schedule."""
    ops = program.ops
    first = next(i for i, op in enumerate(ops) if op.layer >= 0)
    end = 1 + max(i for i, op in enumerate(ops) if op.layer >= 0)
    return Parts(ops[:first], ops[first:end], ops[end:])
