"""Prompts in batches: how many tokens go through a block together, and where their vectors lie.

A batch runs through a block group of ops by group of ops, each for one token after the other, so
that a block's weights come from off the chip once per batch, tiles of the cores' linears once per
batch, and the code of an op is fetched once per batch. Where attention and feed-forward of a block
run as one function each, jobs of the engine serve all tokens of a batch (prefill_jobs.py).
Activations that go from one group to another exist once per token: `PREFILL_BUFFER` holds, token by
token, all of them at equal offsets. It takes room that everything else leaves in the first
region of activations until the blocks are done, so no plan gets worse by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from memory_planner.allocate import Allocation, Buffer, allocate, fit
from memory_planner.engine_chains import sums_limit
from memory_planner.footprint import MAX_CORES, PARTIAL_SIZE, PREFILL_BUFFER, PREFILL_PARTIALS
from memory_planner.liveness import lifetimes
from memory_planner.plan import Placement, Plan, PrefillPlan
from memory_planner.prefill_jobs import (
    batch_chains,
    batch_sizes,
    is_one_function,
    planned_chains,
    saved_by_jobs,
)
from memory_planner.rows import with_arena_rows
from memory_planner.target import BatchCosts, TargetSpec, align_up
from memory_planner.tile_time import pieces_cycles, transfer_cycles
from toolchain.model.program import Op, OpKind, Program
from toolchain.model.silent_parts import whole_block

LARGEST_BATCH = 16  # twice as many would save at most a 32nd of what a batch can save
SUMS_SHARES = (1, 2, 3, 4, 6, 8)  # of what sums may take, tried from the largest tiles on


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
        return _groups_beside_jobs(program)
    starts = list(range(len(block)))
    if any(program.engine_layout_of(op) for op in program.ops if op.layer >= 0):
        cuts = plan.streams.cuts if plan.streams else ()
        starts = [index for index, op in enumerate(block) if index == 0 or op.role in cuts]
    return tuple(
        _group(program, plan, block[begin:end]) for begin, end in pairwise([*starts, len(block)])
    )


def _groups_beside_jobs(program: Program) -> tuple[TokenGroup, ...]:
    groups: list[TokenGroup] = []
    for op in whole_block(program):
        batched = op.kind is OpKind.LINEAR
        if batched or not groups or groups[-1].batched:
            groups.append(TokenGroup((op.role,), batched))
        else:
            groups[-1] = TokenGroup((*groups[-1].roles, op.role), batched=False)
    return tuple(groups)


def _group_of(groups: Sequence[TokenGroup]) -> dict[str, int]:
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


def with_batches(program: Program, target: TargetSpec, plan: Plan) -> Plan:
    """The plan with room for the largest batch that pays; without one, as it is.

    The arena is arranged anew, so transfers and jobs of steps are to be planned again.
    """
    costs = target.costs.batch
    if costs is None:
        return plan
    if is_one_function(program, plan) and target.costs.fused:
        return _with_jobs(program, target, plan, costs)
    if _splits_chains(program, plan) or saved_once(program, target, plan, costs) <= 0:
        return plan
    tokens = _token_buffers(program, target, token_groups(program, plan))
    batch = 1 << (min(LARGEST_BATCH, program.shape.context).bit_length() - 1)
    while batch > 1:
        how = _batch_plan(target, batch, tokens)
        roomy = _with_buffers(program, target, plan, [_token_buffer(program, plan, how)])
        if roomy:
            return replace(roomy, prefill=how)
        batch //= 2
    return plan


def _with_jobs(program: Program, target: TargetSpec, plan: Plan, costs: BatchCosts) -> Plan:
    """The plan with jobs of so many tokens as save most, as far as there is room."""
    groups = _groups_beside_jobs(program)
    tokens = _token_buffers(program, target, groups)
    least = costs.select_token * sum(_turns(program, group) for group in groups)
    best, end = plan, _end_of_blocks(program, plan)
    own_size = MAX_CORES * PARTIAL_SIZE + 2 * program.shape.head_dim  # partials, angles as int16
    for size in batch_sizes(program):
        for share in SUMS_SHARES:
            limit = sums_limit(target) // share
            batch = batch_chains(program, target, plan, size, limit)
            if batch is None:
                break
            how = _batch_plan(target, size, tokens)
            partials = Buffer(PREFILL_PARTIALS, size * own_size, 0, end)
            buffers = [_token_buffer(program, plan, how), partials, *batch.buffers(plan, end)]
            roomy = _with_buffers(program, target, plan, buffers)
            if roomy is None:
                continue
            chains = planned_chains(program, target, roomy, batch)
            saved = saved_by_jobs(program, target, plan, chains, size) / size
            if saved > least:
                best, least = replace(roomy, prefill=replace(how, chains=chains)), saved
            break
    return best


def _batch_plan(target: TargetSpec, batch: int, tokens: Allocation) -> PrefillPlan:
    align = target.region(target.placement["activations"][0]).align
    stride = align_up(tokens.height, align)
    return PrefillPlan(batch, PREFILL_BUFFER, stride, dict(sorted(tokens.offsets.items())))


def _token_buffer(program: Program, plan: Plan, how: PrefillPlan) -> Buffer:
    return Buffer(PREFILL_BUFFER, how.batch * how.stride, 0, _end_of_blocks(program, plan))


def _end_of_blocks(program: Program, plan: Plan) -> int:
    """Folded time behind the last op that reads what an op of the blocks has written."""
    made = {name for op in program.ops if op.layer >= 0 for name in op.outputs}
    readers = {op.role for op in program.ops if op.layer >= 0 or made.intersection(op.inputs)}
    return 1 + max(map(plan.roles.index, readers))


def _with_buffers(
    program: Program, target: TargetSpec, plan: Plan, wanted: Sequence[Buffer]
) -> Plan | None:
    """The plan with more, or larger, buffers among the activations; None without room."""
    region = plan.region(target.placement["activations"][0])
    align = target.region(region.name).align
    held = {
        place.name: place
        for place in plan.placements.values()
        if place.region == region.name and place.offset >= region.arena_base
    }
    for each in wanted:
        new = Placement(each.name, region.name, 0, each.size, each.first, each.last)
        old = held.get(each.name, new)
        held[each.name] = replace(old, size=max(old.size, new.size))
    places = list(held.values())
    buffers = [Buffer(each.name, each.size, each.first, each.last) for each in places]
    found = fit(buffers, align, region.arena_size + region.free).allocation
    if found is None:
        return None
    moved = {
        each.name: replace(each, offset=region.arena_base + found.offsets[each.name])
        for each in places
    }
    height = align_up(found.height, align)
    grown = replace(region, arena_size=height, peak=found.bound, proven=found.proven)
    placements = {**plan.placements, **moved}
    return replace(
        plan,
        placements=placements,
        regions=tuple(grown if each is region else each for each in plan.regions),
        rows=with_arena_rows(program, target, grown, placements, plan.rows),
    )


def _token_buffers(program: Program, target: TargetSpec, parts: Sequence[TokenGroup]) -> Allocation:
    """Offsets of one token's activations that go from one group of ops to another."""
    last = 1 + max(i for i, op in enumerate(program.ops) if op.layer >= 0)
    every = replace(program, ops=program.ops[:last])
    group_of = _group_of(parts)
    groups: dict[str, set[int]] = {}
    for op in every.ops:
        for name in (*op.inputs, *op.outputs):
            groups.setdefault(name, set()).add(group_of.get(op.role, -1))
    buffers = [
        Buffer(name, program.tensors[name].size, *interval)
        for name, interval in lifetimes(every).items()
        if len(groups.get(name, ())) > 1
    ]
    return allocate(buffers, target.region(target.placement["activations"][0]).align)


def _splits_chains(program: Program, plan: Plan) -> bool:
    """Whether a stream begins between linears of the blocks that share jobs of the engine."""
    roles = {op.id: op.role for op in program.ops if op.layer >= 0}
    group_of = _group_of(token_groups(program, plan))
    chains = plan.engine.chains if plan.engine else ()
    return any(
        len({group_of[roles[each.op]] for each in chain.linears if each.op in roles}) > 1
        for chain in chains
    )


def saved_once(program: Program, target: TargetSpec, plan: Plan, costs: BatchCosts) -> float:
    """Cycles per token that a batch spends once, less what choosing a token's buffers costs."""
    groups = token_groups(program, plan)
    single = {group.roles[0]: group.batched for group in groups if len(group.roles) == 1}
    saved = sum(
        warm_saving(target, op) + (_exposed(target, plan, op) if single[op.role] else 0.0)
        for op in program.ops
        if op.layer >= 0 and op.role in single
    )
    selections = sum(_turns(program, group) for group in groups if not group.batched)
    return saved + _streamed(target, plan) - costs.select_token * selections


def _turns(program: Program, group: TokenGroup) -> int:
    """Blocks that have ops of a group."""
    return len({op.layer for op in program.ops if op.layer >= 0 and op.role in group.roles})


def warm_saving(target: TargetSpec, op: Op) -> float:
    """Cycles that an op costs less when it has just run for another token."""
    costs = target.costs
    share = costs.batch.refetched if costs.batch else 0.0
    return share * (costs.op_end(op.kind.value) - costs.barrier)


def _exposed(target: TargetSpec, plan: Plan, op: Op) -> float:
    """Cycles of the first transfer of a linear, which nothing hides."""
    how = plan.linears[op.id]
    link = target.link(plan.source(how.weight, op.layer).region)
    return transfer_cycles(link, how.transfers[0].size)


def _streamed(target: TargetSpec, plan: Plan) -> float:
    """Cycles on the bus of the weights of all blocks."""
    streams = plan.streams
    if streams is None:
        return 0.0
    link = target.link_between(streams.region, plan.placements[streams.buffer].region)
    return sum(
        pieces_cycles(link, stream.size, streams.max_transfer)
        for stream in streams.streams
        if stream.index < streams.head
    )
