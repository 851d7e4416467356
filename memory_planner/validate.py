"""An independent check of a plan: shares no code with what made it and recomputes lifetimes.

Liveness is computed backwards over the real schedule (live-in = live-out - defined + used), then
folded; the allocator derives it forwards from the values. Answers with every problem found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from memory_planner.plan import Placement, Plan, RegionPlan
from memory_planner.target import TargetSpec
from memory_planner.validate_engine import (
    batch_buffers,
    check_engine_plan,
    engine_buffer_times,
    reads_in_place,
)
from memory_planner.validate_moves import check_attention, check_linears, has_near_cache
from memory_planner.validate_prefill import check_prefill, on_images, resting_images
from memory_planner.validate_streams import check_streams, off_chip_weights
from toolchain.model.errors import Problem
from toolchain.model.program import Kind, OpKind, Program

PARTIALS_SIZE = 16 * 32  # EDGEC_MAX_CORES * sizeof(edgec_partial)
_CLASS_OF_KIND = {
    Kind.WEIGHT: "weights",
    Kind.CONST: "constants",
    Kind.STATE: "state",
    Kind.ACTIVATION: "activations",
}


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a placement must be like."""

    regions: tuple[str, ...]
    size: int | None  # None: checked with the transfers
    times: frozenset[int]  # folded times at which it must hold its bytes
    read_only: bool


def validate_plan(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    """All defects of `plan`; empty for a correct one. Never raises on a wrong plan."""
    expected = _expected(program, target)
    names = set(expected)
    tiles = _expected_tiles(program, target, plan)
    if plan.prefill:
        home, times = target.placement["activations"][:1], _prefill_times(program)
        tiles["prefill.tokens"] = _Expected(home, None, times, read_only=False)
        for name in batch_buffers(plan):
            tiles[name] = _Expected(home, None, times, read_only=False)
    names |= set(tiles)
    problems = _check_header(program, target, plan)
    if [region.name for region in plan.regions] != [region.name for region in target.regions]:
        return problems  # nothing below can be looked up
    above = on_images(program, target, plan)
    problems += _check_regions(target, plan, above)
    for name in sorted(names - set(plan.placements)):
        problems.append(Problem(name, "no placement", "one placement"))
    for name in sorted(set(plan.placements) - names):
        problems.append(Problem(name, "a placement", "only what the program needs"))
    known = {name: place for name, place in plan.placements.items() if name in names}
    wanted = {**expected, **tiles}
    for name, place in known.items():
        problems += _check_placement(name, place, wanted[name], target, plan)
    problems += _check_overlaps(known, wanted, (above, resting_images(program, plan)))
    problems += check_linears(program, target, plan)
    problems += check_streams(program, target, plan)
    problems += check_engine_plan(program, target, plan)
    problems += check_prefill(program, target, plan, _live_times(program))
    return problems + check_attention(program, target, plan)


def _expected(program: Program, target: TargetSpec) -> dict[str, _Expected]:
    """Tensors, scratch and partials by name."""
    times = _live_times(program)
    end = len(dict.fromkeys(op.role for op in program.ops))
    always = frozenset(range(end))
    result = {}
    for name, spec in program.tensors.items():
        regions = _regions(target, name, _CLASS_OF_KIND[spec.kind])
        if spec.kind is Kind.ACTIVATION:
            if name in times:
                result[name] = _Expected(regions, spec.size, times[name], read_only=False)
            continue
        read_only = spec.kind in (Kind.WEIGHT, Kind.CONST)
        result[name] = _Expected(regions, spec.size, always, read_only)
    for role, (time, size) in _scratch(program).items():
        needed, regions = frozenset({time}), _regions(target, f"scratch.{role}", "activations")
        result[f"scratch.{role}"] = _Expected(regions, size, needed, read_only=False)
    activations = target.placement["activations"]
    result["team.partials"] = _Expected(activations, PARTIALS_SIZE, always, read_only=False)
    return result


def _regions(target: TargetSpec, name: str, group: str) -> tuple[str, ...]:
    """Regions that may hold a tensor: the one of its last pin, else those of its class."""
    pins = [pin.region for pin in target.pins if fnmatchcase(name, pin.pattern)]
    more = [target.off_chip.region] if target.off_chip and group == "weights" else []
    if group == "state" and target.tiling and target.tiling.near_cache:
        more.append(target.tiling.region)
    if group == "constants" and target.tiling and target.tiling.near_constants:
        more.append(target.tiling.region)
    return (pins[-1],) if pins else (*target.placement[group], *more)


def _expected_tiles(program: Program, target: TargetSpec, plan: Plan) -> dict[str, _Expected]:
    """Buffers of data on the move; slots of streams only where weights are off chip."""
    if target.tiling is None:
        return {}
    roles = list(dict.fromkeys(op.role for op in program.ops))
    result = {}
    for op in program.ops:
        moves = op.kind in (OpKind.LINEAR, OpKind.ATTENTION)
        near = op.kind is OpKind.ATTENTION and has_near_cache(op, target.tiling, plan)
        if moves and not near and not reads_in_place(program, plan, op):
            time = frozenset({roles.index(op.role)})
            region = (target.tiling.region,)
            result[f"tile.{op.role}"] = _Expected(region, None, time, read_only=False)
    if target.off_chip and off_chip_weights(program, target, plan):
        always = frozenset(range(len(roles)))
        result["stream.slots"] = _Expected(target.off_chip.staging, None, always, read_only=False)
    if target.engine:
        regions = (target.engine.activations,)
        for name, times in engine_buffer_times(program, plan).items():
            result[name] = _Expected(regions, None, frozenset(times), read_only=False)
    return result


def _prefill_times(program: Program) -> frozenset[int]:
    """From the first op to the last one that touches what an op of a block touches."""
    roles = list(dict.fromkeys(op.role for op in program.ops))
    kinds = program.tensors
    inside = {name for op in program.ops if op.layer >= 0 for name in (*op.inputs, *op.outputs)}
    held = {name for name in inside if kinds[name].kind is Kind.ACTIVATION}
    touching = [op for op in program.ops if held & {*op.inputs, *op.outputs}]
    return frozenset(range(roles.index(touching[-1].role) + 1))


def _scratch(program: Program) -> dict[str, tuple[int, int]]:
    """Folded time and bytes of the scratch of each role that has one."""
    shape = program.shape
    rows = (shape.context + 3) // 4 * 4
    roles = list(dict.fromkeys(op.role for op in program.ops))
    words = {
        OpKind.ROPE: shape.heads * shape.head_dim,
        OpKind.ATTENTION_MERGE: shape.heads * shape.head_dim,
        OpKind.KV_APPEND: shape.kv_heads * shape.head_dim,
        OpKind.ATTENTION: shape.heads * rows,
        OpKind.RMSNORM: shape.hidden,
        OpKind.SWIGLU: shape.ffn,
    }
    return {
        op.role: (roles.index(op.role), 4 * words[op.kind])
        for op in program.ops
        if op.kind in words
    }


def _live_times(program: Program) -> dict[str, frozenset[int]]:
    """Folded times at which each activation holds a value that is still needed, or is written."""
    roles = list(dict.fromkeys(op.role for op in program.ops))
    kinds = program.tensors
    live: set[str] = set()
    times: dict[str, set[int]] = {}
    read_later: set[str] = set()
    for op in reversed(program.ops):
        touched = {
            name for name in (*op.inputs, *op.outputs) if kinds[name].kind is Kind.ACTIVATION
        }
        for name in live | touched:
            times.setdefault(name, set()).add(roles.index(op.role))
        live = (live - (set(op.outputs) - set(op.inputs))) | (touched & set(op.inputs))
        read_later |= set(op.inputs)
    for name in live:  # read before it was written: carried from step to step
        times[name] = set(range(len(roles)))
    for name in times.keys() - read_later:  # never read: a result of the step
        first = min(times[name])
        times[name] |= set(range(first, len(roles)))
    return {name: frozenset(value) for name, value in times.items()}


def _check_header(program: Program, target: TargetSpec, plan: Plan) -> list[Problem]:
    roles = tuple(dict.fromkeys(op.role for op in program.ops))
    facts = [
        ("plan.target", plan.target, target.name),
        ("plan.cores", plan.cores, target.cores),
        ("plan.roles", plan.roles, roles),
        (
            "plan.regions",
            [region.name for region in plan.regions],
            [region.name for region in target.regions],
        ),
    ]
    return [
        Problem(where, str(found), str(allowed))
        for where, found, allowed in facts
        if found != allowed
    ]


def _check_regions(target: TargetSpec, plan: Plan, above: Set[str]) -> list[Problem]:
    """`above`: buffers that lie on others, which are counted."""
    problems = []
    specs = {region.name: region for region in target.regions}
    for region in plan.regions:
        spec = specs[region.name]
        where = f"region {region.name}"
        rows = sum(row.size for row in plan.rows if row.region == region.name)
        smallest = min((row.size for row in plan.rows if row.region == region.name), default=0)
        facts = [
            ("capacity", region.capacity, spec.size),
            ("reserved", region.reserved, spec.reserved),
            ("blob base", region.blob_base, region.reserved),
            ("arena base", region.arena_base, region.blob_base + region.blob_size),
            ("blob size modulo the alignment", region.blob_size % spec.align, 0),
            ("arena size modulo the alignment", region.arena_size % spec.align, 0),
            ("bytes beyond the capacity", max(0, region.used - region.capacity), 0),
            ("report rows", rows, region.used),
            ("smallest report row", min(0, smallest), 0),
            ("arena bytes below its peak", max(0, region.peak - region.arena_size), 0),
            ("peak", region.peak, _fullest(plan, region, spec.align, above)),
        ]
        problems += [
            Problem(where, f"{name} {found}", f"{allowed}")
            for name, found, allowed in facts
            if found != allowed
        ]
        problems += _check_blob_header(plan, region, where)
    return problems


def _fullest(plan: Plan, region: RegionPlan, align: int, above: Set[str]) -> int:
    """Largest sum of the live, padded buffers of an arena."""
    places = [
        place
        for place in plan.placements.values()
        if place.region == region.name
        and place.offset >= region.arena_base
        and place.name not in above
    ]
    return max(
        (
            sum((p.size + align - 1) & -align for p in places if p.first <= time < p.last)
            for time in range(len(plan.roles))
        ),
        default=0,
    )


def _check_blob_header(plan: Plan, region: RegionPlan, where: str) -> list[Problem]:
    """The header must hold 96 bytes and 16 per tensor; no blob, no header."""
    begin, end = region.blob_base, region.blob_base + region.blob_size
    count = sum(
        place.region == region.name and begin <= place.offset < end
        for place in plan.placements.values()
    )
    found = plan.blob_headers.get(region.name)
    if region.blob_size == 0:
        return [] if found is None else [Problem(where, "a blob header", "none without a blob")]
    least = (96 + 16 * count + 63) // 64 * 64
    if found is None or found < least or found > region.blob_size:
        return [Problem(where, f"a blob header of {found} bytes", f"at least {least}")]
    return []


def _check_placement(
    name: str, place: Placement, expected: _Expected, target: TargetSpec, plan: Plan
) -> list[Problem]:
    """Region, size, alignment, range and lifetime of one placement."""
    if place.region not in expected.regions:
        return [Problem(name, f"region {place.region}", ", ".join(expected.regions))]
    region = plan.region(place.region)
    align = target.region(place.region).align
    low, high = region.arena_base, region.arena_base + region.arena_size
    part = "arena"
    if expected.read_only:
        low = region.blob_base + plan.blob_headers.get(region.name, 0)
        high, part = region.blob_base + region.blob_size, "blob"
    problems = []
    if place.name != name:
        problems.append(Problem(name, f"the name {place.name}", name))
    if expected.size is not None and place.size != expected.size:
        problems.append(Problem(name, f"{place.size} bytes", f"{expected.size} bytes"))
    if place.offset % align:
        problems.append(Problem(name, f"offset {place.offset}", f"a multiple of {align} bytes"))
    if place.offset < low or place.offset + place.size > high:
        found = f"[{place.offset}, {place.offset + place.size})"
        problems.append(Problem(name, found, f"the {part} of {region.name}, [{low}, {high})"))
    if not all(place.first <= time < place.last for time in expected.times):
        found = f"lifetime [{place.first}, {place.last})"
        needed = f"at least [{min(expected.times)}, {max(expected.times) + 1})"
        problems.append(Problem(name, found, needed))
    return problems


def _check_overlaps(
    places: Mapping[str, Placement],
    expected: Mapping[str, _Expected],
    sharing: tuple[Set[str], Set[str]],
) -> list[Problem]:
    """Buffers that share bytes while both are live, by declared lifetime or by need.

    `sharing`: those that may lie on resting ones, and these.
    """
    problems = []
    above, below = sharing
    for name, other in _pairs_in_space(places):
        if (name in above and other in below) or (other in above and name in below):
            continue
        one, two = places[name], places[other]
        need = expected[name].times & expected[other].times
        if need or (one.first < two.last and two.first < one.last):
            problems.append(
                Problem(
                    f"{name} and {other}",
                    f"both live in {one.region} at {_range(one)} and {_range(two)}",
                    "buffers that do not overlap",
                )
            )
    return problems


def _pairs_in_space(places: Mapping[str, Placement]) -> Iterator[tuple[str, str]]:
    """Names of the buffers that share bytes at any time."""
    ordered = sorted(places.items(), key=lambda item: (item[1].region, item[1].offset, item[0]))
    for index, (name, one) in enumerate(ordered):
        for other, two in ordered[index + 1 :]:
            if two.region != one.region or two.offset >= one.offset + one.size:
                break
            if one.size and two.size:
                yield name, other


def _range(place: Placement) -> str:
    bytes_ = f"bytes [{place.offset}, {place.offset + place.size})"
    return f"{bytes_} during [{place.first}, {place.last})"
