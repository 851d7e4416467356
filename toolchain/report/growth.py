"""Growth of the KV cache over the context: a straight line, and the formula behind it."""

from __future__ import annotations

from dataclasses import dataclass

from memory_planner.plan import Plan
from toolchain.model.program import Kind, Program
from toolchain.report.figure import CHART, CHART_HEIGHT, HEADROOM, LineChart, axis_ticks
from toolchain.report.scale import BINARY, Axis, count, decimal

LEVEL_SHOWN = 3.0  # times the cache: a region larger than that would flatten the line


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the cache."""

    name: str
    region: str
    per_position: str
    total: str
    shape: str


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line: what a region could hold."""

    y: str
    text_y: str
    text: str


@dataclass(frozen=True, slots=True)
class Growth(LineChart):
    """The figure and its table."""

    formula: str
    parts: list[Part]
    levels: list[Level]
    room: list[str]  # one sentence per region that holds a part


def kv_growth(program: Program, plan: Plan) -> Growth:
    """The KV cache from no position to all of its rows."""
    rows = program.shape.cache_rows
    specs = [spec for spec in program.tensors.values() if spec.kind is Kind.STATE]
    total = sum(spec.size for spec in specs)
    held: dict[str, int] = {}
    for spec in specs:
        region = plan.placements[spec.name].region
        held[region] = held.get(region, 0) + spec.size
    shown = [
        (name, size + plan.region(name).free)
        for name, size in held.items()
        if total < size + plan.region(name).free <= LEVEL_SHOWN * total
    ]
    x = CHART.x_axis(0, rows)
    y = CHART.y_axis(0, HEADROOM * max([total, *(room for _, room in shown)]))
    each = " + ".join(count(spec.size // rows) for spec in specs)
    line = f"{decimal(x.at(0))},{decimal(y.at(0))} {decimal(x.at(rows))},{decimal(y.at(total))}"
    return Growth(
        frame=CHART.text(),
        height=decimal(CHART_HEIGHT),
        line=line,
        area=f"{line} {decimal(x.at(rows))},{decimal(y.at(0))}",
        end_x=decimal(x.at(rows)),
        end_y=decimal(y.at(total)),
        end_text=f"{count(total)} bytes at {count(rows)} positions",
        formula=f"{each} = {count(total // rows)} bytes per position",
        parts=_parts(program, plan),
        levels=[_level(y, name, room) for name, room in shown],
        room=[
            f"{name} holds {count(size)} bytes of it and has {count(plan.region(name).free)} free"
            for name, size in held.items()
        ],
        x_ticks=axis_ticks(x, 8, BINARY),
        y_ticks=axis_ticks(y, 7, BINARY),
    )


def _parts(program: Program, plan: Plan) -> list[Part]:
    rows = program.shape.cache_rows
    return [
        Part(
            name=spec.name,
            region=plan.placements[spec.name].region,
            per_position=count(spec.size // rows),
            total=count(spec.size),
            shape=f"{spec.dtype.value}[{', '.join(str(size) for size in spec.shape)}]",
        )
        for spec in program.tensors.values()
        if spec.kind is Kind.STATE
    ]


def _level(y: Axis, name: str, room: int) -> Level:
    place = y.at(room)
    return Level(decimal(place), decimal(place - 5), f"room in {name}: {count(room)} bytes")
