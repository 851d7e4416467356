"""When each activation is needed, on the folded timeline.

Equal blocks run the same code on the same buffers, so time is counted in *roles*: the ops of all
blocks lie on top of each other, in the order in which the roles first appear. A buffer is live at
every role that the schedule passes through between a definition and its last use. What crosses
from one block into the next, like the residual stream, thereby covers all roles of a block.
Two values that are live at the same op are live at the same role, so no overlap is missed.
"""

from __future__ import annotations

from collections.abc import Iterable

from toolchain.model.program import Kind, Program


def folded_roles(program: Program) -> tuple[str, ...]:
    """The folded timeline: roles in order of first appearance; time t is role t."""
    return tuple(dict.fromkeys(op.role for op in program.ops))


def lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """Half-open interval [first, last) in folded time of every activation that an op touches.

    A value that is never read is a result of the step and lives to its end. A tensor that is read
    before the step wrote it carries a value from step to step and covers the whole timeline.
    """
    roles = folded_roles(program)
    time = {role: index for index, role in enumerate(roles)}
    times = [time[op.role] for op in program.ops]
    touches = _touches(program)
    intervals = {}
    for name, spec in program.tensors.items():
        if spec.kind is not Kind.ACTIVATION:
            continue
        spans = list(_value_spans(touches.get(name, ()), len(times)))
        if any(begin is None for begin, _ in spans):
            intervals[name] = (0, len(roles))
        elif spans:
            passed = [t for begin, end in spans for t in times[begin : end + 1]]
            intervals[name] = (min(passed), max(passed) + 1)
    return intervals


def _touches(program: Program) -> dict[str, list[tuple[int, bool]]]:
    """Per tensor the ops that touch it, in order: (index, whether it reads the tensor)."""
    found: dict[str, list[tuple[int, bool]]] = {}
    for index, op in enumerate(program.ops):
        for name in dict.fromkeys((*op.inputs, *op.outputs)):
            found.setdefault(name, []).append((index, name in op.inputs))
    return found


def _value_spans(touches: Iterable[tuple[int, bool]], ops: int) -> Iterable[tuple[int | None, int]]:
    """First and last op index of each value of a tensor; None: it was there before the step.

    An op that reads and writes the tensor continues its value.
    """
    begin: int | None = None
    last_read: int | None = None
    written = False
    for index, reads in touches:
        if reads:
            last_read = index
            continue
        if written or last_read is not None:
            yield begin, _end(last_read, ops)
        begin, last_read, written = index, None, True
    if written or last_read is not None:
        yield begin, _end(last_read, ops)


def _end(last_read: int | None, ops: int) -> int:
    return ops - 1 if last_read is None else last_read
