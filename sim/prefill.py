"""Prompts: which ops run for every token, and which for the last one alone.

Blocks need every token, because later ones attend to its cache rows. What comes behind them, the
final norm, the head and the argmax, only serves the logits of its own token. Within a batch of
tokens each group of ops of a block runs for one token after the other (memory_planner/prefill.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory_planner.plan import Plan
from memory_planner.token_groups import token_groups
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


def prompt_order(
    program: Program, plan: Plan, count: int
) -> Iterator[tuple[tuple[int, ...], tuple[Op, ...]]]:
    """A batch of `count` tokens through the blocks: (places of tokens in the batch, ops), in order.

    Linears of the cores run for all tokens at once, everything else for one token at a time.
    """
    parts = parts_of(program)
    if plan.prefill is None:
        for place in range(count):
            yield (place,), parts.every
        return
    for place in range(count):
        yield (place,), parts.before
    groups = token_groups(program, plan)
    for layer in range(program.shape.layers):
        ops = {op.role: op for op in parts.blocks if op.layer == layer}
        for group in groups:
            schedule = tuple(ops[role] for role in group.roles if role in ops)
            if not schedule:  # of a silent part
                continue
            if group.batched:
                yield tuple(range(count)), schedule
            else:
                yield from (((place,), schedule) for place in range(count))
