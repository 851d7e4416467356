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

from memory_planner.allocate import Allocation, Buffer, allocate
from memory_planner.engine_chains import sums_limit
from memory_planner.footprint import (
    MAX_CORES,
    PARTIAL_SIZE,
    PREFILL_BUFFER,
    PREFILL_PARTIALS,
    TOKEN_STATE_SIZE,
)
from memory_planner.liveness import lifetimes
from memory_planner.plan import Plan, PrefillPlan
from memory_planner.prefill_jobs import (
    LARGEST_BATCH,
    MOST_TABLES,
    BatchChains,
    batch_chains,
    batch_sizes,
    is_one_function,
    jobs_and_savings,
    planned_chains,
    saved_by_jobs,
    tables_size,
    tiled_chains,
)
from memory_planner.prefill_room import with_buffers
from memory_planner.target import BatchCosts, TargetSpec, align_up
from memory_planner.tile_time import pieces_cycles, transfer_cycles
from memory_planner.token_groups import (
    TokenGroup,
    group_of,
    groups_beside_jobs,
    token_groups,
    turns_of,
)
from toolchain.model.program import Op, Program

NO_ROOM = "no room"
PAYS_NOT = "it saves nothing"
TABLES = f"registers of its jobs take more than {MOST_TABLES:,} bytes"
SUMS_SHARES = (1, 2, 3, 4, 6, 8)  # of what sums may take, tried from the largest tiles on


@dataclass(frozen=True, slots=True)
class Batched:
    """A plan with a batch, or the plan without one and why there is none."""

    plan: Plan
    saved: float  # modelled cycles per token
    reason: str


def with_batches(
    program: Program, target: TargetSpec, plan: Plan, wanted: int | None = None
) -> Batched:
    """The plan with room for the batch that pays most, or for `wanted` tokens whether or not it
    pays; without room, or with 1 token, as it is.

    The arena is arranged anew, so transfers and jobs of steps are to be planned again.
    """
    costs = target.costs.batch
    if costs is None:
        return Batched(plan, 0, f"{target.name} has no costs of batches")
    if wanted == 1:
        return Batched(plan, 0, "asked for")
    if is_one_function(program, plan) and target.costs.fused:
        return _with_jobs(program, target, plan, wanted)
    if _splits_chains(program, plan):
        return Batched(plan, 0, "a stream begins between linears that share jobs")
    saved = saved_once(program, target, plan, costs)
    if saved <= 0 and wanted is None:
        return Batched(plan, saved, PAYS_NOT)
    return _with_groups(program, target, plan, (wanted, saved))


def _with_groups(
    program: Program, target: TargetSpec, plan: Plan, goal: tuple[int | None, float]
) -> Batched:
    """The largest batch, or the one that is wanted, of ops that run for one token after the other;
    `goal`: what is wanted, and cycles that a batch saves.
    """
    wanted, saved = goal
    tokens = _token_buffers(program, target, token_groups(program, plan))
    batch = wanted or 1 << (min(LARGEST_BATCH, program.shape.context).bit_length() - 1)
    while batch > 1:
        how = _batch_plan(target, batch, tokens)
        roomy = with_buffers(program, target, plan, [_token_buffer(program, plan, how)])
        if roomy:
            return Batched(replace(roomy, prefill=how), saved * (batch - 1) / batch, "")
        batch = 1 if wanted else batch // 2
    return Batched(plan, 0, no_room_in(target))


def no_room_in(target: TargetSpec) -> str:
    """Why a batch is not possible: the memory of activations is full."""
    return f"{NO_ROOM} in {target.placement['activations'][0]}"


def _with_jobs(program: Program, target: TargetSpec, plan: Plan, wanted: int | None) -> Batched:
    """The plan with jobs of so many tokens as save most, as far as there is room."""
    possible = batch_sizes(program)
    sizes = [size for size in possible if wanted in (None, size)]
    few = f"a job that reads the words of a step serves {max(possible, default=1)} at most"
    best = Batched(plan, 0, no_room_in(target) if sizes else few)
    chosen: tuple[Plan, PrefillPlan, BatchChains] | None = None
    for size in sizes:
        found = _jobs_of(program, target, plan, size)
        if found is None:
            continue
        roomy, how, batch = found
        jobs, saved = jobs_and_savings(program, target, roomy, batch)
        if tables_size(program, jobs) > MOST_TABLES:
            best = best if chosen else Batched(plan, 0, TABLES)
            continue
        gain = _per_token(program, target, saved, size)
        if gain > best.saved or wanted:
            best, chosen = Batched(plan, gain, ""), found
        elif chosen is None:
            best = Batched(plan, 0, PAYS_NOT)
    if chosen is None:
        return best
    roomy, how, batch = chosen
    how = replace(how, chains=planned_chains(program, target, roomy, batch))
    return replace(best, plan=replace(roomy, prefill=how))


def saved_per_token(
    program: Program, target: TargetSpec, plan: Plan, prefill: PrefillPlan
) -> float:
    """Modelled cycles per token that jobs of several tokens save, less those of choosing tokens."""
    saved = saved_by_jobs(program, target, plan, prefill.chains, prefill.batch)
    return _per_token(program, target, saved, prefill.batch)


def _per_token(program: Program, target: TargetSpec, saved: float, tokens: int) -> float:
    """What is left of the cycles that a batch saves when tokens have been chosen."""
    costs = target.costs.batch
    assert costs is not None
    turns = sum(turns_of(program, group) for group in groups_beside_jobs(program))
    return saved / tokens - costs.select_token * turns


def _jobs_of(
    program: Program, target: TargetSpec, plan: Plan, size: int
) -> tuple[Plan, PrefillPlan, BatchChains] | None:
    """The plan with room for jobs of so many tokens in the largest tiles that have it, and the
    chains of these.
    """
    tokens = _token_buffers(program, target, groups_beside_jobs(program))
    end = _end_of_blocks(program, plan)
    angles = 2 * program.shape.head_dim  # int16
    own_size = MAX_CORES * (PARTIAL_SIZE + TOKEN_STATE_SIZE) + angles
    how = _batch_plan(target, size, tokens)
    partials = Buffer(PREFILL_PARTIALS, size * own_size, 0, end)
    chains = tiled_chains(program, target, plan, size)
    for share in SUMS_SHARES:
        batch = batch_chains(chains, size, sums_limit(target) // share)
        if batch is None:
            return None
        buffers = [_token_buffer(program, plan, how), partials, *batch.buffers(plan, end)]
        roomy = with_buffers(program, target, plan, buffers, _resting(program, plan))
        if roomy:
            return roomy, how, batch
    return None


def _resting(program: Program, plan: Plan) -> list[str]:
    """Images of a step's chains in the blocks: a prompt in batches has its own."""
    inside = {op.id for op in program.ops if op.layer >= 0}
    chains = plan.engine.chains if plan.engine else ()
    return list(dict.fromkeys(c.input_buffer for c in chains if c.linears[0].op in inside))


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


def _token_buffers(program: Program, target: TargetSpec, parts: Sequence[TokenGroup]) -> Allocation:
    """Offsets of one token's activations that go from one group of ops to another."""
    last = 1 + max(i for i, op in enumerate(program.ops) if op.layer >= 0)
    every = replace(program, ops=program.ops[:last])
    places = group_of(parts)
    groups: dict[str, set[int]] = {}
    for op in every.ops:
        for name in (*op.inputs, *op.outputs):
            groups.setdefault(name, set()).add(places.get(op.role, -1))
    buffers = [
        Buffer(name, program.tensors[name].size, *interval)
        for name, interval in lifetimes(every).items()
        if len(groups.get(name, ())) > 1
    ]
    return allocate(buffers, target.region(target.placement["activations"][0]).align)


def _splits_chains(program: Program, plan: Plan) -> bool:
    """Whether a stream begins between linears of the blocks that share jobs of the engine."""
    roles = {op.id: op.role for op in program.ops if op.layer >= 0}
    places = group_of(token_groups(program, plan))
    chains = plan.engine.chains if plan.engine else ()
    return any(
        len({places[roles[each.op]] for each in chain.linears if each.op in roles}) > 1
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
    selections = sum(turns_of(program, group) for group in groups if not group.batched)
    return saved + _streamed(target, plan) - costs.select_token * selections


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
