"""What would make a design fit: single changes, each planned before it is proposed.

A remedy is the least drastic change of its kind: the largest context, vocabulary, FFN width or
number of blocks, the most bits, the smallest group. Numbers are found by bisection over drafts,
which takes for granted that need grows with them; the number found is planned in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from memory_planner.target import TargetSpec
from toolchain.fit.design import Design
from toolchain.fit.planning import draft_fits, fits
from toolchain.model.packing import Packing, packing_for_bits
from toolchain.model.quant_settings import PER_CHANNEL

FFN_STEP = 32  # outputs of one pass of Siracusa's engine, whole records of every packing
GROUP_SIZES = (64, 128, 256)
Variant = Callable[[int], Design]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A single change with which the design fits."""

    change: str  # context, bits, embed_bits, group_size, ffn, blocks, vocab
    value: int
    now: int
    option: str  # of `edgec fit`; empty when the model's config.json must change
    text: str
    design: Design  # the changed design

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "change": self.change,
            "value": self.value,
            "now": self.now,
            "option": self.option,
            "text": self.text,
        }


def find_remedies(design: Design, target: TargetSpec) -> list[Remedy]:
    """All remedies that there are; the order is that of the least loss to expect."""

    def fit(variant: Design) -> bool:
        return draft_fits(variant, target)

    finders = (_context, _bits, _embed_bits, _group_size, _ffn, _blocks, _vocab)
    remedies = (remedy for finder in finders for remedy in finder(design, fit))
    return [remedy for remedy in remedies if fits(remedy.design, target)]


Fits = Callable[[Design], bool]


def _context(design: Design, fit: Fits) -> Iterator[Remedy]:
    def variant(value: int) -> Design:
        return replace(design, context=value)

    value = _largest(range(1, design.context), variant, fit)
    if value:
        text = f"a context of at most {value:,} positions (now {design.context:,})"
        yield Remedy("context", value, design.context, f"--context {value}", text, variant(value))


def _bits(design: Design, fit: Fits) -> Iterator[Remedy]:
    now = design.quant.bits

    def variant(value: int) -> Design:
        return replace(design, quant=replace(design.quant, bits=value))

    value = _first(_narrower(now), variant, fit)
    if value:
        text = f"projections of {value} bits (now {now})"
        yield Remedy("bits", value, now, f"--bits {value}", text, variant(value))


def _embed_bits(design: Design, fit: Fits) -> Iterator[Remedy]:
    now = max(design.quant.embed_bits, design.quant.head_bits)

    def variant(value: int) -> Design:
        quant = replace(design.quant, embed_bits=value, head_bits=value)
        return replace(design, quant=quant)

    value = _first(_narrower(now), variant, fit)
    if value:
        text = f"embedding and head of {value} bits (now {now})"
        yield Remedy("embed_bits", value, now, f"--embed-bits {value}", text, variant(value))


def _group_size(design: Design, fit: Fits) -> Iterator[Remedy]:
    now = design.quant.group_size

    def variant(value: int) -> Design:
        return replace(design, quant=replace(design.quant, group_size=value))

    wider = [size for size in GROUP_SIZES if size > now]
    value = None if now == PER_CHANNEL else _first([*wider, PER_CHANNEL], variant, fit)
    if value:
        one = value == PER_CHANNEL
        text = "one scale per output channel" if one else f"scale groups of {value} inputs"
        yield Remedy(
            "group_size", value, now, f"--group-size {value}", f"{text} (now {now})", variant(value)
        )


def _ffn(design: Design, fit: Fits) -> Iterator[Remedy]:
    now = design.config.intermediate_size

    def variant(value: int) -> Design:
        return replace(design, config=replace(design.config, intermediate_size=value))

    value = _largest(range(FFN_STEP, now, FFN_STEP), variant, fit)
    if value:
        text = f"an FFN width of at most {value:,} (intermediate_size, now {now:,})"
        yield Remedy("ffn", value, now, "", text, variant(value))


def _blocks(design: Design, fit: Fits) -> Iterator[Remedy]:
    if design.what_if.layer_order is not None:
        return
    now, layers = design.shape.num_layers, design.config.num_layers

    def variant(value: int) -> Design:
        return replace(design, what_if=replace(design.what_if, depth=layers - value))

    value = _largest(range(1, now), variant, fit)
    if value:
        text = f"at most {value} blocks (now {now})"
        yield Remedy("blocks", value, now, f"--depth {layers - value}", text, variant(value))


def _vocab(design: Design, fit: Fits) -> Iterator[Remedy]:
    now = design.shape.vocab_size

    def variant(value: int) -> Design:
        return replace(design, what_if=replace(design.what_if, vocab=value))

    value = _largest(range(1, now), variant, fit)
    if value:
        text = f"a vocabulary of at most {value:,} tokens (now {now:,})"
        yield Remedy("vocab", value, now, f"--vocab {value}", text, variant(value))


def _narrower(bits: int) -> list[int]:
    """The most bits of each narrower packing; fewer would not save a byte more."""
    most = {Packing.NIBBLE: 4, Packing.CRUMB: 2}
    stored = packing_for_bits(bits).field_bits
    return [value for packing, value in most.items() if packing.field_bits < stored]


def _first(values: Sequence[int], variant: Variant, fit: Fits) -> int | None:
    """The first value that fits; the last one saves most, so without it none does."""
    if not values or not fit(variant(values[-1])):
        return None
    return next(value for value in values if value == values[-1] or fit(variant(value)))


def _largest(values: range, variant: Variant, fit: Fits) -> int | None:
    """The largest value that fits, taking for granted that every smaller one fits too."""
    if not values or not fit(variant(values[0])):
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fit(variant(values[middle])):
            low = middle
        else:
            high = middle - 1
    return values[low]
