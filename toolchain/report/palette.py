"""Colours of the figures: the palette of Okabe and Ito and greys, and the ink that is read on each.

The common colour blindnesses tell them apart; a name stands beside every colour all the same.
Memory categories and kinds of ops never meet in one figure, so that they share the palette.
"""

from __future__ import annotations

from dataclasses import dataclass

DARK, LIGHT = "#14181d", "#ffffff"


@dataclass(frozen=True, slots=True)
class Colour:
    """A fill, the colour of text on it, and the CSS classes that have it."""

    fill: str
    ink: str
    names: tuple[str, ...]


COLOURS = (
    Colour("#0072b2", LIGHT, ("weights", "linear")),
    Colour("#56b4e9", DARK, ("scales", "rope")),
    Colour("#cc79a7", DARK, ("constants", "rmsnorm")),
    Colour("#009e73", DARK, ("kv_cache", "attention")),
    Colour("#e69f00", DARK, ("activations", "swiglu")),
    Colour("#f0e442", DARK, ("scratch", "residual_add")),
    Colour("#d55e00", DARK, ("dma_buffers", "kv_append")),
    Colour("#8fd3bd", DARK, ("partials", "attention_merge")),
    Colour("#4b5563", LIGHT, ("stacks", "argmax")),
    Colour("#8b95a1", DARK, ("code", "embed")),
    Colour("#b7bec6", DARK, ("reserved", "stream", "wait")),
    Colour("#7a5195", LIGHT, ("headers", "quantize_vector")),
    Colour("#d9c7a3", DARK, ("padding", "gather")),
    Colour("#f5c6a5", DARK, ("prefill",)),
    Colour("#08306b", LIGHT, ("shade0",)),
    Colour("#2171b5", LIGHT, ("shade1",)),
    Colour("#4292c6", DARK, ("shade2",)),
    Colour("#6baed6", DARK, ("shade3",)),
    Colour("#9ecae1", DARK, ("shade4",)),
    Colour("#deebf7", DARK, ("shade5",)),
)
