"""The part of the plan check that is about batches of prompts: one set of activations per token."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from toolchain.model.errors import Problem
from toolchain.model.program import Kind, OpKind, Program

PREFIX = "prefill."
PARTIALS_SIZE = 16 * 32  # EDGEC_MAX_CORES * sizeof(edgec_partial)
STATES_SIZE = 16 * 12  # EDGEC_MAX_CORES * sizeof(token_state)
Times = Mapping[str, frozenset[int]]


def check_prefill(program: Program, target: TargetSpec, plan: Plan, times: Times) -> list[Problem]:
    """Every activation of the blocks has a place of its own in every token's share.

    `times`: folded times at which each activation holds a value.
    """
    how = plan.prefill
    place = plan.placements.get("prefill.tokens")
    if how is None or place is None:
        return [] if how is None and place is None else [_problem("a buffer", "both or neither")]
    align = target.region(place.region).align
    facts = [
        ("buffer", how.buffer, place.name),
        ("tokens", how.batch, min(max(2, how.batch), program.shape.context)),
        ("bytes per token modulo the alignment", how.stride % align, 0),
        ("bytes of all tokens", how.batch * how.stride, place.size),
        ("streams that begin between linears of one vector", _split(program, plan), []),
    ]
    if how.chains:
        partials = plan.placements.get("prefill.partials")
        size = partials.size if partials else 0
        each = PARTIALS_SIZE + STATES_SIZE + 2 * program.shape.head_dim
        facts.append(("bytes of partials, angles and states", size, how.batch * each))
    problems = [
        _problem(f"{name} {found}", str(allowed))
        for name, found, allowed in facts
        if found != allowed
    ]
    return problems + _check_offsets(program, plan, align, times)


def resting_images(program: Program, plan: Plan) -> set[str]:
    """Inputs of the jobs of steps in the blocks, where those of prompts have others."""
    if plan.prefill is None or not plan.prefill.chains or plan.engine is None:
        return set()
    inside = {op.id for op in program.ops if op.layer >= 0}
    return {
        chain.input_buffer
        for chain in plan.engine.chains
        if all(linear.op in inside for linear in chain.linears)
    }


def on_images(program: Program, target: TargetSpec, plan: Plan) -> set[str]:
    """Buffers of prompts every byte of which lies on inputs that rest: these are zeroed again."""
    images = [plan.placements[n] for n in resting_images(program, plan) if n in plan.placements]
    found = set()
    for name, place in plan.placements.items():
        if name.startswith(PREFIX) and images:
            align = target.region(place.region).align
            covered = [
                min(place.offset + place.size, image.offset - image.size % -align + image.size)
                - max(place.offset, image.offset)
                for image in images
                if image.region == place.region
            ]
            if sum(max(0, size) for size in covered) == place.size:
                found.add(name)
    return found


def _check_offsets(program: Program, plan: Plan, align: int, times: Times) -> list[Problem]:
    how = plan.prefill
    assert how is not None
    wanted = _kept(program, plan)
    if wanted != set(how.offsets):
        return [_problem(f"tensors {sorted(how.offsets)}", f"{sorted(wanted)}")]
    problems = []
    ends = {name: begin + program.tensors[name].size for name, begin in how.offsets.items()}
    for name, begin in how.offsets.items():
        if begin % align or begin < 0 or ends[name] > how.stride:
            found = f"{name} at [{begin}, {ends[name]})"
            problems.append(_problem(found, f"multiples of {align} in [0, {how.stride})"))
    for one, two in combinations(sorted(wanted), 2):
        share = how.offsets[one] < ends[two] and how.offsets[two] < ends[one]
        if share and times[one] & times[two]:
            problems.append(_problem(f"{one} and {two} share bytes", "not while both are live"))
    return problems


def _kept(program: Program, plan: Plan) -> set[str]:
    """Activations that are read in another turn of their token than they were written in.

    A turn is an op where no linear of a block is on the engine, else all ops of a block between
    two streams. Where jobs serve several tokens it is a linear, or what lies between two.
    """
    cuts = plan.streams.cuts if plan.streams else ()
    long = any(program.engine_layout_of(op) for op in program.ops if op.layer >= 0)
    last = max(i for i, op in enumerate(program.ops) if op.layer >= 0)
    written: dict[str, int] = {}
    kept = set()
    jobs = bool(plan.prefill and plan.prefill.chains)
    turn, layer, linear = 0, -1, False
    for op in program.ops[: last + 1]:
        ends = linear or op.kind is OpKind.LINEAR
        turn += ends if jobs else not long or op.role in cuts
        turn += (jobs or long) and op.layer != layer
        layer, linear = op.layer, op.kind is OpKind.LINEAR
        kept |= {name for name in op.inputs if written.get(name, turn) != turn}
        written |= dict.fromkeys(op.outputs, turn)
    return {name for name in kept if program.tensors[name].kind is Kind.ACTIVATION}


def _split(program: Program, plan: Plan) -> list[str]:
    """Roles within a chain of engine jobs, but for its first, at which a stream begins."""
    cuts = plan.streams.cuts if plan.streams else ()
    roles = {op.id: op.role for op in program.ops}
    chains = plan.engine.chains if plan.engine else ()
    return sorted(
        {roles[each.op] for chain in chains for each in chain.linears[1:]}.intersection(cuts)
    )


def _problem(found: str, allowed: str) -> Problem:
    return Problem("prefill", found, allowed)
