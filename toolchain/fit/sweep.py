"""Depth x width x bits, each point planned, and which points no other one beats.

An axis that the command line sets is not swept. A point is beaten by one that is nowhere worse
and somewhere better in size, kept parameters, bits and tokens per second, speeds within 2 % being
equal: quality itself is unknown before training, kept parameters and bits stand for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product

from memory_planner.target import TargetSpec
from toolchain.fit.design import Design, check_design
from toolchain.fit.planning import plan_design
from toolchain.fit.sizes import count_parameters, packed_size
from toolchain.model.nm_pattern import Pattern

DEPTHS = (0, 2, 4, 6, 8)
SHALLOW_DEPTHS = (0, 1, 2, 3)
SHALLOW = 12  # blocks, up to which depth is swept in single steps
WIDTHS = (None, *(Pattern(n, m) for n, m in ((1, 16), (1, 8), (1, 2), (2, 4), (4, 8), (8, 16))))
WIDE_WIDTHS = (Pattern(3, 4), Pattern(12, 16))
BITS = (2, 4, 8)  # one per packing: 3 bits take the bytes of 4, 5 to 7 those of 8
SAME_SPEED = 1.02


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the table."""

    depth: int
    width: str  # N:M, or dense
    bits: int
    kept: int  # parameters
    packed: int  # bytes
    off_chip: int  # bytes that do not fit
    tokens_per_second: float
    fits: bool
    pareto: bool = False


def sweep(design: Design, target: TargetSpec, given: Collection[str]) -> list[Point]:
    """All points in order of depth, width and bits, the undominated ones marked."""
    points = []
    for depth, width, bits in product(*_axes(design, given)):
        what_if = replace(design.what_if, depth=depth, attn_width=width, mlp_width=width)
        quant = replace(design.quant, bits=bits)
        points.append(_point(replace(design, quant=quant, what_if=what_if), target))
    return mark_pareto(points)


def mark_pareto(points: Sequence[Point]) -> list[Point]:
    """The points with `pareto` set where no other point beats them."""
    return [replace(p, pareto=not any(beats(other, p) for other in points)) for p in points]


def beats(one: Point, two: Point) -> bool:
    """Whether `one` is nowhere worse and somewhere better."""
    merits = [(-one.packed, -two.packed), (one.kept, two.kept), (one.bits, two.bits)]
    if one.tokens_per_second * SAME_SPEED < two.tokens_per_second:
        return False
    faster = one.tokens_per_second > two.tokens_per_second * SAME_SPEED
    return all(a >= b for a, b in merits) and (faster or any(a > b for a, b in merits))


def _axes(
    design: Design, given: Collection[str]
) -> tuple[Sequence[int], Sequence[Pattern | None], Sequence[int]]:
    layers = design.config.num_layers
    depths = SHALLOW_DEPTHS if layers <= SHALLOW else DEPTHS
    config = design.config
    inputs = min(config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim)
    widths = [p for p in (*WIDTHS, *WIDE_WIDTHS) if p is None or p.group <= inputs]
    return (
        [design.what_if.depth] if "depth" in given else [n for n in depths if n < layers],
        [design.what_if.mlp_width] if "width" in given else widths,
        [design.quant.bits] if "bits" in given else BITS,
    )


def _point(design: Design, target: TargetSpec) -> Point:
    check_design(design)
    outcome = plan_design(design, target)
    width = design.what_if.mlp_width
    return Point(
        depth=design.what_if.depth,
        width=str(width) if width else "dense",
        bits=design.quant.bits,
        kept=count_parameters(design, outcome.program).kept,
        packed=packed_size(outcome.program),
        off_chip=outcome.speed.off_chip_size,
        tokens_per_second=float(f"{outcome.speed.tokens_per_second:.4g}"),
        fits=outcome.fits,
    )
