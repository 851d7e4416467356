"""What a user may change about a target: less memory per region, and regions for named tensors.

Both become part of the `TargetSpec`, so that planner, validator and fit report follow them alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from memory_planner.footprint import SCRATCH_PREFIX, scratch_size
from memory_planner.target import MemoryRegion, Pin, TargetSpec, allowed_regions
from toolchain.model.adapters import is_of_head
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.program import Kind, Program

CLASS_OF_KIND = {
    Kind.WEIGHT: "weights",
    Kind.CONST: "constants",
    Kind.STATE: "state",
    Kind.ACTIVATION: "activations",
}


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """`sizes` maps a region to the bytes that the model may use of it beside the reserved ones.

    A tensor that several pins match follows the last of them.
    """

    sizes: Mapping[str, int]
    pins: tuple[Pin, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        pins = [f"{pin.pattern}={pin.region}" for pin in self.pins]
        return {"regions": dict(self.sizes), "pins": pins}


NO_LIMITS = MemoryLimits({})


def without_off_chip(target: TargetSpec) -> TargetSpec:
    """The target as a chip alone."""
    if target.off_chip is None:
        return target
    name = target.off_chip.region
    return replace(
        target,
        regions=tuple(region for region in target.regions if region.name != name),
        links=tuple(link for link in target.links if name not in link.sources),
        off_chip=None,
    )


def limited_target(target: TargetSpec, limits: MemoryLimits) -> TargetSpec:
    """The target with smaller regions and with pins.

    Raises ConfigError with every unknown region, and every size that is larger than the region
    or no multiple of its alignment.
    """
    regions = {region.name: region for region in target.regions}
    known = "one of " + ", ".join(regions)
    problems = []
    for name, size in limits.sizes.items():
        if name not in regions:
            problems.append(Problem(f"--region {name}", f"region {name!r}", known))
        else:
            problems += _size_problems(regions[name], size)
    problems += [
        Problem(f"--pin {pin.pattern}", f"region {pin.region!r}", known)
        for pin in limits.pins
        if pin.region not in regions
    ]
    if problems:
        raise ConfigError(f"the memories of {target.name} cannot be limited so", problems)
    changed = tuple(
        replace(region, size=region.reserved + limits.sizes[region.name])
        if region.name in limits.sizes
        else region
        for region in target.regions
    )
    return replace(target, regions=changed, pins=limits.pins)


def _size_problems(region: MemoryRegion, size: int) -> list[Problem]:
    most = region.size - region.reserved
    if 0 < size <= most and size % region.align == 0:
        return []
    allowed = (
        f"{region.align} to {most:,} bytes in steps of {region.align}"
        f" (of {region.size:,}, {region.reserved:,} are reserved)"
    )
    return [Problem(f"--region {region.name}", f"{size:,} bytes", allowed)]


def check_pins(program: Program, target: TargetSpec) -> None:
    """Raises ConfigError with every pin that matches nothing or asks for a forbidden region."""
    classes = {spec.name: CLASS_OF_KIND[spec.kind] for spec in program.tensors.values()}
    scratch = {op.role for op in program.ops if scratch_size(program, op)}
    classes.update({SCRATCH_PREFIX + role: "activations" for role in scratch})
    problems = []
    for pin in target.pins:
        matched = [name for name in classes if fnmatchcase(name, pin.pattern)]
        if not matched:
            allowed = "a pattern of tensor names, like 'l00.*.weight', 'kv.*' or 'logits'"
            problems.append(Problem(f"--pin {pin.pattern}", "no tensor of that name", allowed))
        wrong = [n for n in matched if pin.region not in _allowed(target, n, classes[n])]
        if wrong:
            allowed = " or ".join(_allowed(target, wrong[0], classes[wrong[0]]))
            found = f"{pin.region} for {wrong[0]}"
            problems.append(Problem(f"--pin {pin.pattern}", found, allowed))
    if problems:
        raise ConfigError(f"some pins cannot be honoured on {target.name}", problems)


def _allowed(target: TargetSpec, name: str, group: str) -> list[str]:
    """Regions that a tensor may be pinned to; the head's adapter does not stream."""
    outside = target.off_chip.region if target.off_chip and is_of_head(name) else None
    return [region for region in allowed_regions(target, group) if region != outside]
