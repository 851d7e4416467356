"""Tables of matrices and blocks: bytes, packing, bits, SNR and cycles side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor

from toolchain.model.matrix_storage import packing_name
from toolchain.model.program import MatrixLayout, OpKind, Program
from toolchain.report.figure import Box, Frame, Tick, box
from toolchain.report.names import layer_of
from toolchain.report.scale import TIMES, count, decimal, percent
from toolchain.report.source import PageSource

HEAT_LEFT, HEAT_TOP, HEAT_WIDTH, CELL = 110, 4, 1040, 22
HEAT_COLUMN = 64  # units, unless there are too many blocks
SHADES = 6


@dataclass(frozen=True, slots=True)
class Matrix:
    """One stored matrix."""

    op: str
    layer: int  # -1 outside the blocks
    shape: str
    bits: int | None
    group: str
    packing: str
    size: int
    scales: int
    snr: float | None
    region: str


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """A `Matrix` as text."""

    op: str
    shape: str
    bits: str
    group: str
    packing: str
    size: str
    scales: str
    snr: str
    region: str


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block, or what comes before or after the blocks."""

    name: str
    size: str
    packing: str
    bits: str
    snr: str
    cycles: str
    percent: str
    bar: str  # width of the bar of cycles, percent of the longest


@dataclass(frozen=True, slots=True)
class Heat:
    """SNR of every matrix, block by block."""

    boxes: list[Box]
    rows: list[Tick]
    columns: list[Tick]
    height: str
    columns_y: str
    scale: list[str]  # the range of each shade, weakest first


def matrices(source: PageSource) -> list[Matrix]:
    """Every stored matrix, outside of blocks last; a tied head is the embedding."""
    facts = source.quantization
    snr = {each["op"]: float(each["snr_db"]) for each in facts["tensors"]} if facts else {}
    found = []
    for spec in source.program.tensors.values():
        if not isinstance(spec.layout, MatrixLayout):
            continue
        name = spec.name.removesuffix(".weight")
        matrix = Matrix(
            op=name,
            layer=layer_of(name),
            shape=f"{spec.layout.rows} {TIMES} {spec.layout.columns}",
            bits=source.bits.get(spec.name),
            group="per row" if spec.layout.groups == 1 else str(spec.layout.group_size),
            packing=packing_name(spec.layout),
            size=spec.size,
            scales=spec.scale_size,
            snr=snr.get(name),
            region=source.plan.placements[spec.name].region,
        )
        found.append(matrix)
    return found


def matrix_rows(found: Iterable[Matrix]) -> list[MatrixRow]:
    """Matrices as text."""
    return [
        MatrixRow(
            each.op,
            each.shape,
            "" if each.bits is None else str(each.bits),
            each.group,
            each.packing,
            count(each.size),
            count(each.scales),
            "" if each.snr is None else f"{each.snr:.2f}",
            each.region,
        )
        for each in found
    ]


def block_rows(source: PageSource, found: list[Matrix]) -> list[BlockRow]:
    """What comes before the blocks, each block, what comes after; sums are those of the token."""
    cycles = _cycles_by_part(source)
    longest, total = max(cycles.values()), sum(cycles.values())
    rows = []
    for part, spent in cycles.items():
        own = [each for each in found if _part(each.layer, each.op) == part]
        rows.append(
            BlockRow(
                name=part,
                size=count(sum(each.size for each in own)),
                packing=", ".join(dict.fromkeys(each.packing for each in own)) or "shared",
                bits=", ".join(map(str, sorted({each.bits for each in own if each.bits}))),
                snr=_snr_range(own),
                cycles=count(spent),
                percent=percent(spent, total),
                bar=decimal(100 * spent / longest) if longest else "0",
            )
        )
    return rows


def _part(layer: int, op: str) -> str:
    if layer >= 0:
        return f"block {layer}"
    return "embedding" if op == "embed" else "final norm, head, argmax"


def _cycles_by_part(source: PageSource) -> dict[str, int]:
    """In the order of the schedule; 0 everywhere without an estimate."""
    cycles = {_part(op.layer, op.id): 0 for op in source.program.ops}
    for op in source.latency.ops if source.latency else ():
        cycles[_part(layer_of(op.id), op.id)] += op.total_cycles
    return cycles


def _snr_range(own: list[Matrix]) -> str:
    values = [each.snr for each in own if each.snr is not None]
    if not values:
        return ""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def snr_heat(program: Program, found: list[Matrix]) -> Heat | None:
    """Roles down, blocks across, darker is weaker; None when no weights were read."""
    roles = list(dict.fromkeys(op.role for op in program.ops if op.kind is OpKind.LINEAR))
    values = {each.op: each.snr for each in found if each.snr is not None and each.layer >= 0}
    if not values:
        return None
    low, high = min(values.values()), max(values.values())
    width = min(HEAT_COLUMN, (HEAT_WIDTH - HEAT_LEFT) / program.shape.layers)
    boxes = []
    for op in program.ops:
        if op.id not in values:
            continue
        value, row = values[op.id], roles.index(op.role)
        area = Frame(HEAT_LEFT + op.layer * width, HEAT_TOP + row * CELL, width, CELL)
        boxes.append(
            box(area, _shade(value, low, high), f"{op.id}: {value:.2f} dB", f"{value:.1f}")
        )
    used = [
        role for role in roles if any(op.role == role and op.id in values for op in program.ops)
    ]
    bottom = HEAT_TOP + len(used) * CELL
    return Heat(
        boxes=boxes,
        rows=[Tick(decimal(HEAT_TOP + (i + 0.68) * CELL), role) for i, role in enumerate(used)],
        columns=[
            Tick(decimal(HEAT_LEFT + (layer + 0.5) * width), str(layer))
            for layer in range(program.shape.layers)
        ],
        height=decimal(bottom + 22),
        columns_y=decimal(bottom + 15),
        scale=_shade_texts(low, high),
    )


def _shade_step(low: float, high: float) -> int:
    """Whole dB per shade, so that a spread of less than one does not look like a difference."""
    return max(1, ceil((high - floor(low)) / SHADES))


def _shade(value: float, low: float, high: float) -> str:
    step = int((value - floor(low)) / _shade_step(low, high))
    return f"shade{min(step, SHADES - 1)}"


def _shade_texts(low: float, high: float) -> list[str]:
    step, start = _shade_step(low, high), floor(low)
    texts = [f"{start + i * step} to {start + (i + 1) * step} dB" for i in range(SHADES)]
    return [text for i, text in enumerate(texts) if start + i * step <= high]
