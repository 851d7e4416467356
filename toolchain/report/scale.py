"""From values to places on paper: linear axes, round tick marks, short decimal numbers."""

from __future__ import annotations

from dataclasses import dataclass

DECIMAL, BINARY = 10, 2
TIMES = "\u00d7"  # multiplication sign
STEPS = {DECIMAL: (1, 2, 5), BINARY: (1, 2, 4, 8)}  # of a power of ten, of sixteen


@dataclass(frozen=True, slots=True)
class Axis:
    """Values low..high on `length` units of a figure from `start`; a negative length goes up."""

    low: float
    high: float
    start: float
    length: float

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) * self.length / (self.high - self.low)

    def span(self, size: float) -> float:
        """The length of a distance between values."""
        return abs(size * self.length / (self.high - self.low))


def decimal(value: float) -> str:
    """At most two decimals, no trailing zeros: coordinates of figures."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def ticks(low: int, high: int, most: int, base: int = DECIMAL) -> list[int]:
    """At most `most` round multiples in low..high: 1, 2, 5 times a power of ten, or powers of 2."""
    power = 1
    while True:
        for factor in STEPS[base]:
            step = factor * power
            first = -(-low // step) * step
            if (high - first) // step < most:
                return list(range(first, high + 1, step))
        power *= 10 if base == DECIMAL else 16


def count(value: int) -> str:
    """Thousands separators."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """One decimal; what is there and rounds to nothing says so."""
    share = 100 * part / whole if whole else 0.0
    return "< 0.1" if 0 < share < 0.05 else f"{share:,.1f}"


def text_width(text: str, size: float) -> float:
    """Estimated width of a text in a sans-serif font, on the safe side."""
    return 0.6 * size * len(text)
