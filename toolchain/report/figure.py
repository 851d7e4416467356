"""Parts of the SVG figures: rectangles with a name, tick marks, and the frame of a plot.

Coordinates are text with at most two decimals, ready to print. The templates only print.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from toolchain.report.scale import Axis, count, decimal, text_width, ticks

WIDTH = 1040  # of a figure over the whole page, in its own units (about a pixel on a laptop)
HALF_WIDTH = 508  # of a figure beside a table
FONT = 11  # of labels inside figures
MARGIN = 6  # units between a label and the edges of its rectangle, both together


@dataclass(frozen=True, slots=True)
class Rect:
    """Places on paper."""

    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True)
class Box:
    """One or more rectangles that are one thing; the label is in the first.

    `title` is shown on hover: the name, a colon, the facts.
    """

    rects: list[Rect]
    css: str
    title: str
    label: str  # empty when it would not fit
    label_place: str  # transform: its middle, and a quarter turn where only that fits


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The plot area of a figure: left, top, width, height."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.top + self.height

    def x_axis(self, low: float, high: float) -> Axis:
        """Values from left to right."""
        return Axis(low, high, self.left, self.width)

    def y_axis(self, low: float, high: float) -> Axis:
        """Values from bottom to top."""
        return Axis(low, high, self.bottom, -self.height)

    def rect(self) -> Rect:
        """The area as text."""
        return Rect(
            decimal(self.left), decimal(self.top), decimal(self.width), decimal(self.height)
        )

    def text(self) -> dict[str, str]:
        """Edges as text for a template."""
        return {
            "left": decimal(self.left),
            "top": decimal(self.top),
            "right": decimal(self.right),
            "bottom": decimal(self.bottom),
            "width": decimal(self.width),
            "height": decimal(self.height),
        }


CHART = Frame(76, 22, HALF_WIDTH - 80, 190)  # of a line chart
CHART_HEIGHT = CHART.bottom + 44  # with the names of the ticks and of the axis
HEADROOM = 1.15  # of a line chart: its y axis over the largest value


@dataclass(frozen=True, slots=True)
class LineChart:
    """A line over the area below it, its last point named; places are in `CHART`."""

    frame: dict[str, str]
    height: str
    line: str  # points
    area: str
    end_x: str
    end_y: str
    end_text: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def box(area: Frame, css: str, title: str, label: str = "", more: Iterable[Frame] = ()) -> Box:
    """A rectangle over `area` and `more`; the label is turned, or dropped, where it has no room."""
    along, across = text_width(label, FONT) + MARGIN, FONT + MARGIN / 2
    flat = along <= area.width and across <= area.height
    turned = along <= area.height and across <= area.width
    middle = f"{decimal(area.left + area.width / 2)} {decimal(area.top + area.height / 2)}"
    return Box(
        rects=[each.rect() for each in (area, *more)],
        css=css,
        title=title,
        label=label if flat or turned else "",
        label_place=f"translate({middle})" + ("" if flat else " rotate(-90)"),
    )


def axis_ticks(axis: Axis, most: int, base: int = 10) -> list[Tick]:
    """Round values along an axis."""
    return [
        Tick(decimal(axis.at(value)), count(value))
        for value in ticks(int(axis.low), int(axis.high), most, base)
    ]


def zoom_range(axis: Axis) -> str:
    """What the zoom script needs of the axis: start, signed length, low, high."""
    values = (axis.start, axis.length, axis.low, axis.high)
    return " ".join(decimal(value) for value in values)
