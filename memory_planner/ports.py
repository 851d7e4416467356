"""Ports of the runtime that know one chip: what a target must be like to declare one.

The ports `host` and `rv32` go with every target. A chip's own port has addresses in its sources,
so a target file may declare it only when its memories lie where the port expects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_planner.target import TargetSpec
from toolchain.model.errors import Problem


@dataclass(frozen=True, slots=True)
class ChipMemory:
    """A memory whose address a port's sources hold."""

    region: str
    base: int
    size: int
    reservations: tuple[str, ...]  # categories that the port's linker script fills


@dataclass(frozen=True, slots=True)
class ChipPort:
    """What the sources of one port take for granted."""

    memories: tuple[ChipMemory, ...]
    private_end: int  # end of the controller's banks at the start of `code`
    code: str  # region of code and of the controller's stack
    stacks: str  # region of the workers' stacks, and of everything that jobs and tiles use
    workers: int  # cores that a team may have
    stack_count: int  # cores that get a stack, those that only sleep included
    max_transfer: int  # bytes of one DMA transfer
    instruction_cache: int  # bytes that the workers share
    instruction_line: int  # bytes of a line of it


# Addresses: templates/runtime/port/siracusa/edgec_siracusa.h, with their sources.
SIRACUSA = ChipPort(
    memories=(
        ChipMemory("l1", 0x1000_0000, 256 << 10, ("stacks",)),
        ChipMemory("l2", 0x1C00_0000, 2 << 20, ("stacks", "code")),
    ),
    private_end=0x1C01_0000,
    code="l2",
    stacks="l1",
    workers=8,
    stack_count=9,
    max_transfer=(1 << 17) - 8,
    instruction_cache=4 << 10,
    instruction_line=16,
)
CHIP_PORTS: Mapping[str, ChipPort] = {"pmsis": SIRACUSA, "siracusa": SIRACUSA}


def check_ports(spec: TargetSpec) -> list[Problem]:
    """Every reason why a target cannot declare the ports that it declares."""
    known = ", ".join(CHIP_PORTS)
    problems = [
        Problem("ports", repr(name), f"some of {known}; host and rv32 need no declaration")
        for name in spec.ports
        if name not in CHIP_PORTS
    ]
    for name in dict.fromkeys(spec.ports):
        if name in CHIP_PORTS:
            problems += _check_port(name, CHIP_PORTS[name], spec)
    if "pmsis" in spec.ports and "siracusa" not in spec.ports:
        problems.append(Problem("ports", "pmsis alone", "siracusa with it: they share a driver"))
    return problems


def _check_port(name: str, port: ChipPort, spec: TargetSpec) -> list[Problem]:
    where = f"port {name}"
    regions = {region.name: region for region in spec.regions}
    problems = []
    for memory in port.memories:
        region = regions.get(memory.region)
        allowed = f"a region of at most {memory.size} bytes at {memory.base:#x}"
        if region is None:
            problems.append(Problem(where, f"no region {memory.region}", allowed))
        elif region.base != memory.base or region.size > memory.size:
            found = f"{memory.region} of {region.size} bytes at {region.base:#x}"
            problems.append(Problem(where, found, allowed))
        else:
            problems += [
                Problem(where, f"no bytes of {memory.region} reserved for {category}", "some")
                for category in memory.reservations
                if region.reserved_for(category) == 0
            ]
    if not problems:
        problems = _check_sizes(where, port, spec)
    return problems


def _check_sizes(where: str, port: ChipPort, spec: TargetSpec) -> list[Problem]:
    code, problems = spec.region(port.code), []
    if code.base + code.reserved <= port.private_end:
        found = f"{code.reserved} reserved bytes of {code.name}"
        allowed = f"more than {port.private_end - code.base}: code begins behind private banks"
        problems.append(Problem(where, found, allowed))
    if spec.cores > port.workers:
        problems.append(Problem(where, f"{spec.cores} cores", f"at most {port.workers}"))
    parts = [part for part in spec.region(port.stacks).reservations if part.category == "stacks"]
    counts: Sequence[int] = [part.count for part in parts]
    if counts != [port.stack_count]:
        found = f"{counts} stacks in {port.stacks}"
        problems.append(Problem(where, found, f"one reservation of {port.stack_count}"))
    elif parts[0].size // parts[0].count % 16:
        found = f"stacks of {parts[0].size // parts[0].count} bytes in {port.stacks}"
        problems.append(Problem(where, found, "a multiple of 16, as the calling convention wants"))
    problems += [
        Problem(
            where, f"link {link.name}: {link.max_transfer} bytes", f"at most {port.max_transfer}"
        )
        for link in spec.links
        if link.destination == port.stacks
        and link.max_transfer > port.max_transfer
        and not (spec.off_chip and spec.off_chip.region in link.sources)
    ]
    return problems
