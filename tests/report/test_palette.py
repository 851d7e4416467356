"""The colours: one for everything, and text that is legible on each."""

from __future__ import annotations

import pytest

from memory_planner.rows import CATEGORIES
from toolchain.model.program import OpKind
from toolchain.report.palette import COLOURS, Colour


def test_everything_has_a_colour() -> None:
    coloured = {name for colour in COLOURS for name in colour.names}
    assert coloured >= {*CATEGORIES, *(kind.value for kind in OpKind)}


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.fill)
def test_ink_is_legible(colour: Colour) -> None:
    """Contrast of at least 4.5, WCAG 2 level AA."""
    light, dark = sorted((luminance(colour.fill), luminance(colour.ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
