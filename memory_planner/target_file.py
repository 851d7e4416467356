"""Target files: TOML to `TargetSpec`. Every number is a table {value, unit, source, status}.

Where sources differ, `conservative` in the same table is the value of that reading. A number whose
source or status is missing, an unknown key, a missing key, a wrong type or unit, overlapping
regions or a class of data without a path to the cores are refused, all at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from pathlib import Path

from memory_planner.cost_table import read_costs
from memory_planner.energy_table import check_energy, read_energy
from memory_planner.engine_file import check_engine, read_engine
from memory_planner.ports import check_ports
from memory_planner.region_cost import by_cost
from memory_planner.target import (
    CORES,
    PLACEMENT_CLASSES,
    Constant,
    Link,
    MemoryRegion,
    OffChip,
    Reading,
    Reservation,
    TargetSpec,
    Tiling,
    Timing,
)
from memory_planner.toml_table import Table
from toolchain.model.errors import ConfigError, Problem

RESERVATION_CATEGORIES = ("stacks", "code", "reserved")
NAME = "[a-z][a-z0-9_]{0,30}"  # a file name and part of C identifiers
SECTION = "[.][A-Za-z0-9_.]{1,60}"
MIN_ALIGN = 8  # edgec_partial holds 64-bit words


def list_targets() -> tuple[str, ...]:
    """Names of the targets that come with edgec."""
    folder = resources.files("memory_planner") / "targets"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_target(name_or_path: str | Path) -> TargetSpec:
    """The target called `name_or_path`, or described by the TOML file at that path.

    Raises ConfigError when there is no such target or file, or with every defect of the file.
    """
    text = read_target_text(name_or_path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"target file {name_or_path} is not TOML: {error}") from error
    problems: list[Problem] = []
    constants: dict[str, Constant] = {}
    spec = _target(Table("", raw, problems, constants), constants)
    if not problems:
        problems += _check_regions(spec) + _check_names(spec)
    if not problems:
        spec = replace(spec, conservative=_conservative(raw, problems))
    if problems:
        raise ConfigError(f"target file {name_or_path} is not valid", problems)
    return by_cost(spec)


def read_target_text(name_or_path: str | Path) -> str:
    """The TOML of a target, as a bundle keeps it; raises ConfigError when there is none."""
    if str(name_or_path) in list_targets():
        packaged = resources.files("memory_planner") / "targets" / f"{name_or_path}.toml"
        return packaged.read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix != ".toml" or not path.is_file():
        known = ", ".join(list_targets())
        problem = Problem(
            "target", repr(str(name_or_path)), f"{known}, or the path of a .toml file"
        )
        raise ConfigError("unknown target", [problem])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read target file {path}: {error}") from error


def _target(table: Table, constants: dict[str, Constant]) -> TargetSpec:
    placement = table.table("placement")
    spec = TargetSpec(
        name=table.word("name", NAME),
        description=table.text("description"),
        cores=table.integer("cores", "cores", low=1, high=16),
        clock_hz=table.integer("clock", "Hz", low=1),
        regions=tuple(_region(entry) for entry in table.tables("region")),
        placement={key: placement.names(key) for key in PLACEMENT_CLASSES},
        links=tuple(_link(entry) for entry in table.tables("link")),
        tiling=_tiling(table.table("tiling")) if table.has("tiling") else None,
        costs=read_costs(table.table("costs")),
        constants=constants,
        off_chip=_off_chip(table.table("off_chip")) if table.has("off_chip") else None,
        energy=read_energy(table.table("energy")) if table.has("energy") else None,
        engine=read_engine(table.table("engine")) if table.has("engine") else None,
        ports=table.names("ports") if table.has("ports") else (),
    )
    placement.finish()
    table.finish()
    return spec


def _conservative(raw: Mapping[str, object], problems: list[Problem]) -> Timing | None:
    """The fields that a second reading of the file gives other values."""
    constants: dict[str, Constant] = {}
    spec = _target(Table("", raw, problems, constants, Reading.CONSERVATIVE), constants)
    if not spec.engine and all(each.conservative is None for each in constants.values()):
        return None
    engine = replace(spec.engine, cycles=spec.engine.conservative) if spec.engine else None
    return Timing(spec.links, spec.costs, engine)


def _region(table: Table) -> MemoryRegion:
    region = MemoryRegion(
        name=table.word("name", NAME),
        base=table.integer("base", "address"),
        size=table.integer("size", "bytes", low=1),
        align=table.integer("align", "bytes", low=1),
        section=table.word("section", SECTION),
        volatile=table.flag("volatile"),
        load_cycles=table.number("load", "cycles"),
        reservations=tuple(_reservation(entry) for entry in table.tables("reserved", at_least=0)),
    )
    table.finish()
    return region


def _reservation(table: Table) -> Reservation:
    category = table.choice("category", RESERVATION_CATEGORIES)
    reason = table.text("reason")
    size = table.integer("size", "bytes")
    count = table.integer("count", "cores", low=1) if table.has("count") else 1
    table.finish()
    return Reservation(category, reason, size * count, count)


def _link(table: Table) -> Link:
    link = Link(
        name=table.text("name"),
        sources=table.names("from"),
        destination=table.text("to"),
        bytes_per_cycle=table.number("rate", "B/cycle", positive=True),
        setup_cycles=table.number("setup", "cycles"),
        min_cycles=table.number("minimum", "cycles"),
        max_transfer=table.integer("max_transfer", "bytes", low=1),
    )
    table.finish()
    return link


def _tiling(table: Table) -> Tiling:
    tiling = Tiling(
        region=table.text("region"),
        slot_cap=table.integer("slot_cap", "bytes", low=1),
        positions_cap=table.integer("positions_cap", "positions", low=1),
        near_cache=table.flag("near_cache") if table.has("near_cache") else False,
        near_constants=table.flag("near_constants") if table.has("near_constants") else False,
    )
    table.finish()
    return tiling


def _off_chip(table: Table) -> OffChip:
    off_chip = OffChip(region=table.text("region"), staging=table.names("staging"))
    table.finish()
    return off_chip


def _check_regions(spec: TargetSpec) -> list[Problem]:
    problems = []
    for region in spec.regions:
        where, align = f"region {region.name}", region.align
        if align & (align - 1) or align < MIN_ALIGN:
            allowed = f"a power of two of at least {MIN_ALIGN} bytes"
            problems.append(Problem(where, f"alignment {align} bytes", allowed))
        elif (region.base + region.reserved) % align:
            found = f"{region.base + region.reserved:#x} after the reserved bytes"
            problems.append(Problem(where, found, f"a multiple of its alignment, {align} bytes"))
        if region.reserved > region.size:
            found = f"{region.reserved} reserved bytes"
            problems.append(Problem(where, found, f"at most its {region.size} bytes"))
        if region.base + region.size > 1 << 32:
            problems.append(
                Problem(where, f"end {region.base + region.size:#x}", "32-bit addresses")
            )
    ordered = sorted(spec.regions, key=lambda region: region.base)
    for low, high in pairwise(ordered):
        if low.base + low.size > high.base:
            where = f"regions {low.name} and {high.name}"
            found = f"[{low.base:#x}, {low.base + low.size:#x}) and from {high.base:#x}"
            problems.append(Problem(where, found, "address ranges that do not overlap"))
    return problems


def _check_names(spec: TargetSpec) -> list[Problem]:
    names = [region.name for region in spec.regions]
    known = ", ".join(names)
    problems = []
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(f"region {name}", f"{names.count(name)} regions", "one per name"))
    used = [(f"placement.{key}", name) for key, value in spec.placement.items() for name in value]
    used += [(f"link {link.name}", name) for link in spec.links for name in link.sources]
    used += [(f"link {link.name}", link.destination) for link in spec.links]
    used += [("tiling.region", spec.tiling.region)] if spec.tiling else []
    if spec.off_chip:
        used.append(("off_chip.region", spec.off_chip.region))
        used += [("off_chip.staging", name) for name in spec.off_chip.staging]
    for where, name in used:
        if name not in names and not (name == CORES and where.startswith("link")):
            problems.append(Problem(where, f"region {name!r}", f"one of {known}"))
    destination = spec.tiling.region if spec.tiling else CORES
    reachable = {s for link in spec.links if link.destination == destination for s in link.sources}
    for name in dict.fromkeys(spec.placement["weights"] + spec.placement["state"]):
        if name not in reachable:
            found, allowed = f"no link from {name} to {destination}", "one for weights and state"
            problems.append(Problem("links", found, allowed))
    others = (_check_off_chip, check_engine, check_energy, check_ports)
    return problems + [problem for check in others for problem in check(spec)]


def _check_off_chip(spec: TargetSpec) -> list[Problem]:
    """Off-chip memory takes nothing else; links lead to every staging region, and on to tiles."""
    if spec.off_chip is None:
        return []
    outside, problems = spec.off_chip.region, []
    if spec.tiling is None:
        problems.append(Problem("off_chip", "a target without [tiling]", "one with tiles"))
    for key, names in spec.placement.items():
        if outside in names:
            allowed = "regions that the cores reach: off-chip memory takes weights by itself"
            problems.append(Problem(f"placement.{key}", f"region {outside!r}", allowed))
    reached = {link.destination for link in spec.links if outside in link.sources}
    inner = spec.tiling.region if spec.tiling else CORES
    onward = {s for link in spec.links if link.destination == inner for s in link.sources}
    wanted = [(outside, name) for name in spec.off_chip.staging if name not in reached]
    wanted += [(name, inner) for name in spec.off_chip.staging if name not in onward]
    problems += [
        Problem("links", f"no link from {source} to {name}", "one for off-chip weights")
        for source, name in wanted
    ]
    return problems
