"""What can be changed about a design to make it smaller: one knob per kind of change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toolchain.fit.design import Design
from toolchain.model.packing import Packing, packing_for_bits
from toolchain.model.quant_settings import PER_CHANNEL

FFN_STEP = 32  # outputs of one pass of Siracusa's engine, whole records of every packing
GROUP_SIZES = (64, 128, 256)
# Measured: benchmarks/smollm2.md. No remedy knows what it costs; this one is known to be dear.
EMBED_LOSS = "bytes alone say so: 4 bits took SmolLM2-135M from perplexity 25.5 to 68.5"
LEAST_KNOWN_BITS = 2  # of projections: nothing measured says that they are enough
VALUES = 64  # at most twice as many values of a number are told apart
# What a combination of changes leaves at least; a single change may go further.
LEAST_CONTEXT, LEAST_VOCAB, LEAST_BLOCKS = 128, 1024, 4  # blocks: one of so many


@dataclass(frozen=True, slots=True)
class Knob:
    """One kind of change. `values` go from the mildest to the most drastic."""

    change: str  # context, bits, embed_bits, group_size, ffn, blocks, vocab
    now: int
    values: Sequence[int]
    least: int | None = None  # of a number, in a combination; None for a choice of few values

    @property
    def is_number(self) -> bool:
        """Whether `values` are a range of numbers."""
        return self.least is not None

    @property
    def is_exact(self) -> bool:
        """Whether `values` leaves out no number, so that the mildest that fits is the largest."""
        return isinstance(self.values, range) and self.values.step == -1

    def is_dear(self, value: int) -> bool:
        """Whether a value is known to cost much: fewer blocks or a narrower FFN cost less.

        SmolLM2-135M: an embedding of 4 bits multiplied the perplexity by 2.7, two of 30 blocks by
        1.3, a third of the FFN with LoRA behind it by 1.3 (benchmarks/smollm2.md).
        """
        return self.change == "embed_bits" or (self.change == "bits" and value <= LEAST_KNOWN_BITS)

    def part(self, share: float) -> int:
        """The number `share` (0..1) of the way down to `least`, in equal ratios."""
        assert self.least is not None
        value = int(self.now * (self.least / self.now) ** share)
        return max(self.least, value // step_of(self.now) * step_of(self.now))

    def apply(self, design: Design, value: int) -> Design:
        """The changed design."""
        quant, config, what_if = design.quant, design.config, design.what_if
        match self.change:
            case "context":
                return replace(design, context=value)
            case "bits":
                return replace(design, quant=replace(quant, bits=value))
            case "embed_bits":
                return replace(design, quant=replace(quant, embed_bits=value, head_bits=value))
            case "group_size":
                return replace(design, quant=replace(quant, group_size=value))
            case "ffn":
                return replace(design, config=replace(config, intermediate_size=value))
            case "blocks":
                removed = config.num_layers - value
                return replace(design, what_if=replace(what_if, depth=removed))
        return replace(design, what_if=replace(what_if, vocab=value))

    def option(self, design: Design, value: int) -> str:
        """How `edgec fit` is told; empty when the model's config.json must change."""
        if self.change == "ffn":
            return ""
        if self.change == "blocks":
            return f"--depth {design.config.num_layers - value}"
        return f"--{self.change.replace('_', '-')} {value}"

    def text(self, value: int, most: str = "") -> str:
        """The change as people say it; `most` is "at most " for the largest number that fits."""
        blocks = "block" if value == 1 else "blocks"
        groups = "one scale per output channel"
        if value != PER_CHANNEL:
            groups = f"scale groups of {value} inputs"
        texts = {
            "context": f"a context of {most}{value:,} positions (now {self.now:,})",
            "bits": f"projections of {value} bits (now {self.now})",
            "embed_bits": f"embedding and head of {value} bits (now {self.now}; {EMBED_LOSS})",
            "group_size": f"{groups} (now {self.now})",
            "ffn": f"an FFN width of {most}{value:,} (intermediate_size, now {self.now:,})",
            "blocks": f"{most}{value} {blocks} (now {self.now})",
            "vocab": f"a vocabulary of {most}{value:,} tokens (now {self.now:,})",
        }
        return texts[self.change]


def knobs_of(design: Design) -> list[Knob]:
    """What can be changed; combinations are tried in this order."""
    quant, shape = design.quant, design.shape
    embed, group = max(quant.embed_bits, quant.head_bits), quant.group_size
    wider = [size for size in GROUP_SIZES if size > group]
    groups = [] if group == PER_CHANNEL else [*wider, PER_CHANNEL]
    hidden = -(-shape.hidden_size // FFN_STEP) * FFN_STEP
    ffn, layers, vocab = shape.intermediate_size, shape.num_layers, shape.vocab_size
    steps = max(FFN_STEP, step_of(ffn))
    narrow = range((ffn - 1) // steps * steps, 0, -steps)
    knobs = [
        Knob("context", design.context, _down(design.context), LEAST_CONTEXT),
        Knob("bits", quant.bits, _narrower(quant.bits)),
        Knob("embed_bits", embed, _narrower(embed)),
        Knob("group_size", group, groups),
        Knob("ffn", ffn, narrow, hidden),
        Knob("blocks", layers, _down(layers), -(-layers // LEAST_BLOCKS)),
        Knob("vocab", vocab, _down(vocab), LEAST_VOCAB),
    ]
    ordered = design.what_if.layer_order is not None
    return [k for k in knobs if k.values and not (ordered and k.change == "blocks")]


def step_of(now: int) -> int:
    """The power of two in which a number is changed: the largest of at most a 64th of it, or 1."""
    return 1 << max(0, (now // VALUES).bit_length() - 1)


def _down(now: int) -> range:
    """The multiples of the step below `now`."""
    step = step_of(now)
    return range((now - 1) // step * step, 0, -step)


def _narrower(bits: int) -> list[int]:
    """The most bits of each narrower packing; fewer would not save a byte more."""
    most = {Packing.NIBBLE: 4, Packing.CRUMB: 2}
    stored = packing_for_bits(bits).field_bits
    return [value for packing, value in most.items() if packing.field_bits < stored]
