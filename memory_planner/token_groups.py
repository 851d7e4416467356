"""What of a block runs for one token of a prompt before the next token's turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from memory_planner.plan import Plan
from toolchain.model.program import Op, OpKind, Program
from toolchain.model.silent_parts import whole_block


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Roles of a block that run one after the other for a token before the next token's turn."""

    roles: tuple[str, ...]
    batched: bool  # a linear of the cores: every tile serves all tokens


def token_groups(program: Program, plan: Plan) -> tuple[TokenGroup, ...]:
    """The groups of a block in order: single ops where the cores compute all linears of the blocks.

    With linears on the engine a group is what lies between two waits for off-chip weights, the
    whole block without such: the generated code joins ops there, and their jobs follow each other.
    Where the jobs are for all tokens it is a linear, for all of them, or what lies between two.
    """
    block = whole_block(program)
    if plan.prefill and plan.prefill.chains:
        return groups_beside_jobs(program)
    starts = list(range(len(block)))
    if any(program.engine_layout_of(op) for op in program.ops if op.layer >= 0):
        cuts = plan.streams.cuts if plan.streams else ()
        starts = [index for index, op in enumerate(block) if index == 0 or op.role in cuts]
    return tuple(
        _group(program, plan, block[begin:end]) for begin, end in pairwise([*starts, len(block)])
    )


def groups_beside_jobs(program: Program) -> tuple[TokenGroup, ...]:
    """The groups of a block whose jobs serve all tokens."""
    groups: list[TokenGroup] = []
    for op in whole_block(program):
        batched = op.kind is OpKind.LINEAR
        if batched or not groups or groups[-1].batched:
            groups.append(TokenGroup((op.role,), batched))
        else:
            groups[-1] = TokenGroup((*groups[-1].roles, op.role), batched=False)
    return tuple(groups)


def group_of(groups: Sequence[TokenGroup]) -> dict[str, int]:
    """The number of the group of each role of a block."""
    return {role: number for number, group in enumerate(groups) for role in group.roles}


def _group(program: Program, plan: Plan, ops: Sequence[Op]) -> TokenGroup:
    roles = tuple(op.role for op in ops)
    tiled = len(ops) == 1 and all(
        op.kind is OpKind.LINEAR
        and not program.engine_layout_of(op)
        and plan.linears[op.id].tile_buffer is not None
        for op in program.ops
        if op.role == roles[0]
    )
    return TokenGroup(roles, tiled)


def turns_of(program: Program, group: TokenGroup) -> int:
    """Blocks that have ops of a group."""
    return len({op.layer for op in program.ops if op.layer >= 0 and op.role in group.roles})
