"""Room for what prompts need beyond steps, among the activations.

Where the jobs of a prompt have images of their own, those of a step's chains in the blocks rest
until the prompt is done: what has no room elsewhere lies on them, and they are zeroed at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress, product

from memory_planner.allocate import Allocation, Buffer, fit
from memory_planner.plan import Placement, Plan, RegionPlan
from memory_planner.rows import with_arena_rows
from memory_planner.target import TargetSpec, align_up
from toolchain.model.program import Program

IMAGES = "engine.images"  # all that rest, side by side


def with_buffers(
    program: Program,
    target: TargetSpec,
    plan: Plan,
    wanted: Sequence[Buffer],
    resting: Sequence[str] = (),
) -> Plan | None:
    """The plan with more, or larger, buffers among the activations; None without room.

    `resting`: images that new buffers may lie on.
    """
    region = plan.region(target.placement["activations"][0])
    align = target.region(region.name).align
    held = {
        place.name: Buffer(place.name, place.size, place.first, place.last)
        for place in plan.placements.values()
        if place.region == region.name and place.offset >= region.arena_base
    }
    new = [each for each in wanted if each.name not in held]
    for each in wanted:
        size = max(each.size, held[each.name].size) if each.name in held else each.size
        held[each.name] = replace(held.get(each.name, each), size=size)
    room = region.arena_size + region.free
    found = fit(list(held.values()), align, room).allocation
    if found:
        return _arranged(program, target, plan, region, (held, found, ()))
    if not resting:
        return None
    images = [held[name] for name in resting]
    size = sum(align_up(each.size, align) for each in images)
    above = _largest_within(new, size, align)
    apart = {*resting, *(each.name for each in above)}
    first, last = min(each.first for each in images), max(each.last for each in images)
    rest = [each for each in held.values() if each.name not in apart]
    found = fit([*rest, Buffer(IMAGES, size, first, last)], align, room).allocation
    if found is None:
        return None
    offsets = {name: at for name, at in found.offsets.items() if name != IMAGES}
    for layer in (images, above):
        at = found.offsets[IMAGES]
        for each in layer:
            offsets[each.name] = at
            at += align_up(each.size, align)
    found = replace(found, offsets=offsets)
    return _arranged(program, target, plan, region, (held, found, [each.name for each in above]))


def _largest_within(buffers: Sequence[Buffer], size: int, align: int) -> list[Buffer]:
    """Those of some buffers that take most of `size` bytes together."""
    best: tuple[int, list[Buffer]] = 0, []
    for chosen in product((True, False), repeat=len(buffers)):
        some = list(compress(buffers, chosen))
        total = sum(align_up(each.size, align) for each in some)
        if best[0] < total <= size:
            best = total, some
    return best[1]


def _arranged(
    program: Program,
    target: TargetSpec,
    plan: Plan,
    region: RegionPlan,
    arena: tuple[Mapping[str, Buffer], Allocation, Sequence[str]],
) -> Plan:
    """The plan with its arena arranged so.

    `arena`: buffers, offsets, and names of those that lie on others: the report counts these once.
    """
    held, found, above = arena
    moved = {
        each.name: Placement(
            *(each.name, region.name, region.arena_base + found.offsets[each.name]),
            *(each.size, each.first, each.last),
        )
        for each in held.values()
    }
    height = align_up(found.height, target.region(region.name).align)
    grown = replace(region, arena_size=height, peak=found.bound, proven=found.proven)
    placements = {**plan.placements, **moved}
    counted = {name: place for name, place in placements.items() if name not in above}
    return replace(
        plan,
        placements=placements,
        regions=tuple(grown if each is region else each for each in plan.regions),
        rows=with_arena_rows(program, target, grown, counted, plan.rows),
    )
