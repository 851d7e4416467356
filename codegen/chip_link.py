"""Plan and target -> what the linker script of a chip's own port prints: absolute addresses.

The engine's jobs hold addresses, so every blob and arena must lie exactly where the plan has it.
Reserved bytes are divided as the port's start-up code wants them.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.plan import Plan
from memory_planner.ports import CHIP_PORTS
from memory_planner.target import TargetSpec


@dataclass(frozen=True, slots=True)
class PlacedSection:
    """A section of the model at its planned address."""

    name: str
    memory: str
    address: str  # C constant
    size: int
    content: bool  # False: an arena


@dataclass(frozen=True, slots=True)
class LinkMemory:
    """One line of the MEMORY command."""

    name: str
    origin: str  # C constant
    size: int
    comment: str


@dataclass(frozen=True, slots=True)
class ChipLinkView:
    """Everything that link.ld of a chip's port needs."""

    memories: tuple[LinkMemory, ...]  # of the model; code, private and stacks are apart
    private: LinkMemory
    code: LinkMemory
    stacks: LinkMemory
    controller_stack: int
    core_stack: int  # of each cluster core
    core_stacks: int  # how many
    sections: tuple[PlacedSection, ...]


def left_out(plan: Plan, target: TargetSpec) -> str:
    """Why the chip's own ports cannot run this plan; empty when they can."""
    outside = target.off_chip
    if target.ports and outside is not None and plan.region(outside.region).blob_size:
        return (
            f"weights are in {outside.region}, and the ports of {target.name} have no driver of "
            f"its DMA; compile for the memories on the chip"
        )
    return ""


def usable_ports(plan: Plan, target: TargetSpec) -> tuple[str, ...]:
    """Ports of the chip that can run this plan."""
    return () if left_out(plan, target) else target.ports


def chip_link_view(plan: Plan, target: TargetSpec) -> ChipLinkView | None:
    """The view for the first port of the target; None for a target without one."""
    if not usable_ports(plan, target):
        return None
    port = CHIP_PORTS[target.ports[0]]
    code, stacks = target.region(port.code), target.region(port.stacks)
    skipped = code.reserved_for("reserved")
    end = code.base + code.reserved
    begin = stacks.base + stacks.reserved_for("reserved")
    count = next(part.count for part in stacks.reservations if part.category == "stacks")
    return ChipLinkView(
        memories=_memories(plan, target),
        private=_memory(
            "private", code.base + skipped, port.private_end, "stack and variables of the program"
        ),
        code=_memory("code", port.private_end, end, "program and its constants"),
        stacks=_memory("stacks", begin, stacks.base + stacks.reserved, "stacks of cluster cores"),
        controller_stack=code.reserved_for("stacks"),
        core_stack=stacks.reserved_for("stacks") // count,
        core_stacks=count,
        sections=_sections(plan, target),
    )


def _memory(name: str, begin: int, end: int, comment: str) -> LinkMemory:
    return LinkMemory(name, f"0x{begin:08X}", end - begin, comment)


def _memories(plan: Plan, target: TargetSpec) -> tuple[LinkMemory, ...]:
    views = []
    for use in plan.regions:
        if use.blob_size or use.arena_size:
            base = target.region(use.name).base
            comment = f"behind {use.reserved} reserved bytes"
            views.append(_memory(use.name, base + use.reserved, base + use.capacity, comment))
    return tuple(views)


def _sections(plan: Plan, target: TargetSpec) -> tuple[PlacedSection, ...]:
    """Sections as `sections.h` names them by default, by address."""
    views = []
    for use in plan.regions:
        region = target.region(use.name)
        parts = (
            (region.section, use.blob_base, use.blob_size, True),
            (f".arena_{use.name}", use.arena_base, use.arena_size, False),
        )
        views += [
            PlacedSection(name, use.name, f"0x{region.base + offset:08X}", size, content)
            for name, offset, size, content in parts
            if size
        ]
    return tuple(views)
