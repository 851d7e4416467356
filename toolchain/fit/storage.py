"""Which N:M patterns that were found in weights are stored: by modelled cycles, and for room.

The kernels of nm-sparse do more work per weight than the dense ones, so a pattern may save bytes
and cost time. A matrix whose pattern was only found (`--sparse auto`) is stored sparse where that
is faster on the cores, or where the transfers from off the chip that it saves take longer than the
work that it costs. The engine reads dense words: what it takes, it takes against the faster of both
on the cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memory_planner.engine_cost import core_cycles
from memory_planner.engines import off_chip_cycles
from memory_planner.limits import check_pins
from memory_planner.planner import draft_plan
from memory_planner.target import TargetSpec
from toolchain.fit.design import Design, build_program
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.outline import weight_layouts
from toolchain.model.quant_settings import rule_of

SHARES = 4  # of the slower ones that are tried sparse when not all have room dense


@dataclass(frozen=True, slots=True)
class _Choice:
    """A pattern that was found, and what storing it means."""

    name: str
    text: str  # of both costs
    lost: float  # cycles of a token
    saved: int  # bytes


def choose_storage(design: Design, target: TargetSpec) -> Design:
    """The design with those of its found patterns that are worth it, and why in `storage`.

    Raises ConfigError for pins that the target does not have.
    """
    found = list(_choices(design, target))
    slower = [each for each in found if each.lost > 0]
    reasons = {each.name: f"faster than dense: {each.text}" for each in found if each.lost <= 0}
    names = _needed(design, target, slower) if slower else frozenset[str]()
    for each in slower:
        why = "smaller, which saves off-chip transfers" if each.name in names else "dense is faster"
        reasons[each.name] = f"{why}: {each.text}"
    away = {each.name for each in slower} - names
    storage = {n: reasons[own] for n in design.patterns if (own := _stored(design, n)) in reasons}
    return replace(_without(design, away), found=dict(design.patterns), storage=storage)


def _stored(design: Design, name: str) -> str:
    """The matrix that is stored for `name`: a block that is a copy has the first one's."""
    block, _, suffix = name.partition(".")
    if not suffix or design.facts.blocks is None:
        return name
    return f"l{design.facts.blocks[int(block[1:])]:02d}.{suffix}"


def _choices(design: Design, target: TargetSpec) -> Iterator[_Choice]:
    dense = weight_layouts(design.shape, design.quant)
    for name, pattern in design.patterns.items():
        if name not in dense or design.is_asked_for(name) or _stored(design, name) != name:
            continue
        rule = rule_of(design.quant, name)
        if rule is not None and rule.always:
            continue
        layout = sparse_layout(dense[name], pattern)
        cycles = [core_cycles(each, target) for each in (layout, dense[name])]
        text = f"{cycles[0]:,.0f} cycles sparse, {cycles[1]:,.0f} dense"
        runs = sum(_stored(design, other) == name for other in design.patterns)
        lost = runs * (cycles[0] - cycles[1])
        yield _Choice(name, text, lost, dense[name].size - layout.size)


def _needed(design: Design, target: TargetSpec, slower: list[_Choice]) -> frozenset[str]:
    """Those that are sparse all the same, the share with the fewest cycles.

    First come those that save most bytes per cycle lost. When nothing has room, all of them: the
    shortfall is then that of the smallest storage.
    """
    order = sorted(slower, key=lambda each: (-each.saved / each.lost, each.name))
    best: tuple[tuple[bool, float], frozenset[str]] | None = None
    for share in range(SHARES + 1):
        kept = order[: len(order) * share // SHARES]
        names = frozenset(each.name for each in kept)
        program = build_program(_without(design, {each.name for each in slower} - names))
        check_pins(program, target)
        plan = draft_plan(program, target)
        full = any(region.free < 0 for region in plan.regions)
        outside = off_chip_cycles(target, plan)
        lost, saved = sum(each.lost for each in kept), sum(each.saved for each in kept)
        score = (True, -float(saved)) if full else (False, lost + outside)
        if best is None or score < best[0]:
            best = score, names
        if not full and not outside:
            break
    assert best is not None
    return best[1]


def _without(design: Design, names: set[str]) -> Design:
    """Without the patterns of these stored matrices."""
    patterns = design.patterns
    return replace(
        design, patterns={n: patterns[n] for n in patterns if _stored(design, n) not in names}
    )
