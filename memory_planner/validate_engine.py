"""The part of the plan check that is about the engine, from the registers themselves.

Every job is decoded from its 24 words, without the code that made them: which words it reads, of
which linears and channels these are, where its sums go, and which jobs may run while cores read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from memory_planner.engine_plan import ChainPlan, EngineLinear, PiecePlan
from memory_planner.plan import Placement, Plan
from memory_planner.target import TargetSpec
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.errors import Problem
from toolchain.model.program import Op, Program

REGISTERS = 24


@dataclass(frozen=True, slots=True)
class _Job:
    """What the registers of a job say."""

    words: int  # address
    channels: int
    input: tuple[int, int]  # addresses [first, end)
    output: int
    pixel: int
    sums: tuple[int, int]  # addresses [first, end)


def reads_in_place(program: Program, plan: Plan, op: Op) -> bool:
    """Whether the cores read the table of a linear on the engine where it lies."""
    how = plan.linears.get(op.id)
    return program.engine_layout_of(op) is not None and (how is None or how.tile_buffer is None)


def engine_buffer_times(program: Program, plan: Plan) -> dict[str, set[int]]:
    """By name of each buffer that the plan's chains use: the folded times at which it must last."""
    roles = list(dict.fromkeys(op.role for op in program.ops))
    role_of = {op.id: op.role for op in program.ops}
    found: dict[str, set[int]] = {}
    for chain in plan.engine.chains if plan.engine else ():
        times = {roles.index(role_of[each.op]) for each in chain.linears if each.op in role_of} or {
            0
        }
        found.setdefault(chain.input_buffer, set()).update(range(len(roles)))
        span = range(min(times), max(times) + 1)
        found.setdefault(chain.accumulator_buffer, set()).update(span)
    return found


def batch_buffers(plan: Plan) -> list[str]:
    """What jobs of several tokens need beyond the buffers of a step, until the blocks are done."""
    chains = plan.prefill.chains if plan.prefill else ()
    images = dict.fromkeys(chain.input_buffer for chain in chains)
    return ["prefill.partials", *images] if chains else []


def check_engine_plan(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """Every linear on the engine is computed once, completely, by jobs that do no harm."""
    wanted = [op for op in program.ops if program.engine_layout_of(op)]
    chains = plan.engine.chains if plan.engine else ()
    batched = plan.prefill.chains if plan.prefill else ()
    blocks = [op for op in wanted if op.layer >= 0 and batched]
    for each, every in ((chains, wanted), (batched, blocks)):
        found = [linear.op for chain in each for linear in chain.linears]
        ids = [op.id for op in every]
        if found != ids:
            pairs = zip_longest(found, ids, fillvalue="nothing")
            one, other = next(pair for pair in pairs if pair[0] != pair[1])
            return [Problem("engine", f"jobs for {one}", f"for {other}, in the schedule's order")]
    if plan.engine is None:
        return []
    engine = target.engine
    if engine is None:
        return [Problem("engine", "jobs", "none on a target without an engine")]
    names = {*engine.weights, engine.activations}
    facts = [
        ("name", plan.engine.name, engine.name),
        ("weight base", plan.engine.weight_base, engine.weight_base),
        ("addresses", dict(plan.engine.addresses), {n: target.region(n).base for n in names}),
    ]
    problems = [
        Problem(f"engine: {what}", str(got), str(want)) for what, got, want in facts if got != want
    ]
    ops = {op.id: op for op in program.ops}
    for chain in (*chains, *batched):
        problems += _check_chain(program, target, plan, chain, ops)
    sums = {linear.op: chain.accumulator_buffer for chain in chains for linear in chain.linears}
    for chain in batched:
        if chain.accumulator_buffer != sums[chain.linears[0].op]:
            where = f"batch of {chain.linears[0].op}"
            problems.append(Problem(where, chain.accumulator_buffer, "the sums of a step"))
    return problems


def _check_chain(
    program: Program, target: TargetSpec, plan: Plan, chain: ChainPlan, ops: dict[str, Op]
) -> list[Problem]:
    where = f"chain of {chain.linears[0].op}" if chain.linears else "chain"
    buffers = [plan.placements.get(name) for name in (chain.input_buffer, chain.accumulator_buffer)]
    if not chain.linears or None in buffers:
        return [Problem(where, "no linears or no buffers", "both")]
    wrong = [job for job in chain.jobs if not _well_formed(job.registers)]
    if wrong:
        found = f"{len(wrong)} jobs of another form"
        return [Problem(where, found, "24 words, one tile of pixels, int32 sums")]
    problems = _check_members(program, plan, chain, ops, where)
    jobs = [_decode(job.registers, plan) for job in chain.jobs]
    bounds = [_range(place, target) for place in buffers if place]
    for number, job in enumerate(jobs):
        name = f"{where}, job {number}"
        for what, part, allowed in zip(
            ("input", "sums"), (job.input, job.sums), bounds, strict=True
        ):
            if not allowed[0] <= part[0] < part[1] <= allowed[1]:
                found = f"{what} [{part[0]:#x}, {part[1]:#x})"
                problems.append(Problem(name, found, f"[{allowed[0]:#x}, {allowed[1]:#x})"))
        if job.words % 32 or job.output % 4:
            problems.append(Problem(name, "misaligned words or sums", "32 and 4 bytes"))
    if problems:
        return problems
    for linear in chain.linears:
        problems += _check_linear(program, target, plan, (chain, linear, ops[linear.op]), jobs)
    return problems + list(_check_order(chain, jobs, where))


def _well_formed(registers: tuple[int, ...]) -> bool:
    """24 words; one tile of pixels; dense or pointwise, int32 sums, nothing fancy."""
    if len(registers) != REGISTERS or any(not 0 <= word < 1 << 32 for word in registers):
        return False
    conf = registers[23]
    plain = conf >> 5 & 3 in (0, 2) and conf >> 21 & 3 == 2 and not conf & 1 << 4
    return plain and registers[19] == 0x10001 and not conf & 1 << 14 and bool(conf & 1 << 9)


def _decode(registers: tuple[int, ...], plan: Plan) -> _Job:
    assert plan.engine is not None
    tile = 32 if registers[23] >> 5 & 3 == 2 else 28
    counts, last = registers[18], registers[15]
    channels = ((counts >> 16) - 1) * 32 + (last >> 16)
    inputs = ((counts & 0xFFFF) - 1) * tile + (last & 0xFFFF)
    height, width = registers[16] >> 16, registers[16] & 0xFFFF
    rows, columns = registers[17] >> 16, registers[17] & 0xFFFF
    input_end = registers[1] + (rows - 1) * registers[7] + (columns - 1) * registers[6] + inputs
    sums_end = registers[2] + (height - 1) * registers[11] + (width - 1) * registers[10]
    return _Job(
        words=plan.engine.weight_base + registers[0],
        channels=channels,
        input=(registers[1], input_end),
        output=registers[2],
        pixel=registers[10],
        sums=(registers[2], sums_end + 4 * channels),
    )


def _range(place: Placement, target: TargetSpec) -> tuple[int, int]:
    base = target.region(place.region).base + place.offset
    return base, base + place.size


def _check_members(
    program: Program, plan: Plan, chain: ChainPlan, ops: dict[str, Op], where: str
) -> list[Problem]:
    """Linears of a chain follow each other, read the same vector and have their own tensors.

    Jobs of several tokens read the second copies of the words where there are some.
    """
    in_batch = any(chain is each for each in plan.prefill.chains) if plan.prefill else False
    order = [op.id for op in program.ops]
    first = order.index(chain.linears[0].op)
    names = [linear.op for linear in chain.linears]
    problems = []
    if names != order[first : first + len(names)]:
        problems.append(Problem(where, ", ".join(names), "ops that follow each other"))
    if len({(ops[name].inputs[:2], ops[name].layer) for name in names}) > 1:
        problems.append(Problem(where, "several vectors", "one staged vector"))
    for linear in chain.linears:
        op = ops[linear.op]
        copy = program.prompt_words_of(op) if in_batch else None
        words = copy or program.weight_of(op)
        if (linear.weight, linear.table) != (words.name, op.inputs[-1]):
            found = f"{linear.weight} and {linear.table}"
            problems.append(Problem(linear.op, found, "its words and its table"))
    return problems


def _check_linear(
    program: Program,
    target: TargetSpec,
    plan: Plan,
    member: tuple[ChainPlan, EngineLinear, Op],
    jobs: list[_Job],
) -> list[Problem]:
    """Each channel of each group comes from one job, and the cores look where it is."""
    chain, linear, op = member
    layout, place = program.tensors[linear.weight].layout, plan.placements[linear.weight]
    assert isinstance(layout, EngineLayout)
    assert target.engine is not None
    if place.region not in target.engine.weights:
        allowed = ", ".join(target.engine.weights)
        return [Problem(linear.weight, f"region {place.region}", allowed)]
    problems = []
    covered = [piece.first_channel for piece in linear.pieces]
    ends = [piece.first_channel + piece.channels for piece in linear.pieces]
    if [0, *ends[:-1]] != covered or ends[-1:] != [layout.channels]:
        return [Problem(op.id, f"pieces {covered} to {ends}", f"0..{layout.channels} in order")]
    size = layout.channel_size
    base, _ = _range(place, target)
    sums, _ = _range(plan.placements[chain.accumulator_buffer], target)
    staged, _ = _range(plan.placements[chain.input_buffer], target)
    for piece in linear.pieces:
        for group in range(layout.groups):
            words = base + group * layout.words_size + piece.first_channel * size
            at = sums + piece.accumulators + group * piece.group_stride
            owners = [
                number
                for number, job in enumerate(jobs[: piece.needed])
                if _computes(job, size, words, piece) and _leaves(job, size, words, at, piece)
            ]
            inputs = {jobs[number].input[0] for number in owners}
            if not owners or inputs != {staged + group * chain.group_stride}:
                found = f"channels {piece.first_channel} on, group {group}: jobs {owners}"
                allowed = f"one among the first {piece.needed}, at its sums and inputs"
                problems.append(Problem(op.id, found, allowed))
    return problems


def _computes(job: _Job, size: int, words: int, piece: PiecePlan) -> bool:
    """Whether the words of the piece, `size` bytes per channel, are all among those of the job."""
    end = words + piece.channels * size
    return job.words <= words and end <= job.words + job.channels * size


def _leaves(job: _Job, size: int, words: int, at: int, piece: PiecePlan) -> bool:
    """Whether the job leaves the piece's sums at `at`, with the piece's pixels."""
    channel = (words - job.words) // size
    return job.output + 4 * channel == at and job.pixel == piece.pixel_stride


def _check_order(chain: ChainPlan, jobs: list[_Job], where: str) -> Iterator[Problem]:
    """Limits grow, and no job that may run while cores read a piece writes to its sums.

    Cores meet between linears, in front of the limits of the next one.
    """
    pieces = [piece for linear in chain.linears for piece in linear.pieces]
    following = [
        limit
        for linear in chain.linears
        for limit in (*(piece.before for piece in linear.pieces[1:]), 0)
    ]
    ends = sorted({0, *(piece.needed for piece in pieces)})
    done = 0
    for number, piece in enumerate(pieces):
        name = f"{where}, piece {number}"
        limits = (done, piece.needed, piece.before, piece.after)
        if not max(1, done) <= piece.needed <= piece.before <= piece.after <= len(jobs):
            yield Problem(name, f"limits {limits}", "a sequence that does not fall")
            return
        done = piece.needed
        own = jobs[max(end for end in ends if end < piece.needed) : piece.needed]
        for index in range(piece.needed, min(max(piece.after, following[number]), len(jobs))):
            low, high = jobs[index].sums
            if any(low < job.sums[1] and job.sums[0] < high for job in own):
                yield Problem(name, f"job {index} writes to it", "jobs that leave it alone")
    if done != len(jobs):
        yield Problem(where, f"{len(jobs)} jobs, {done} waited for", "all of them")
