"""Bits per projection: the least loss that fits a byte budget of a target.

Minimised is the sum over projections of what their width adds to the loss (bit_losses.py), subject
to the bytes that edgec's packer needs for them (bit_sizes.py); the optimum of that sum is exact
(knapsack.py). That losses add up is an assumption: the metrics hold the sum and what the model with
all the chosen widths really loses. The choice is written to edgec_bits.toml, which `edgec compile`,
`edgec fit` and the stage `quantize` read; weights do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory_planner.target import MemoryRegion
from memory_planner.target_file import load_target
from toolchain.compress.bit_losses import RoundedSource, Trial, estimated_losses, measured_losses
from toolchain.compress.bit_sizes import budget_problem, parse_size, room_of, sizes_by_bits
from toolchain.compress.checkpoint import Source, Writer, copy_blocks
from toolchain.compress.forward import mean_loss, perplexity_of
from toolchain.compress.knapsack import Chosen, choose
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.compress.summary import design_of
from toolchain.model.bits_file import AllocatedBits, write_bits
from toolchain.model.config import ModelConfig
from toolchain.model.errors import DoesNotFitError, EdgecError, Problem
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.silent_parts import find_silent

HINT = "regions that hold weights, like budget.mram = '4 MiB'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """Budget, widths, and how losses are found."""

    samples: int = option(8, "windows of calibration text", low=1, high=1 << 20)
    target: str = option("siracusa", "name or TOML file")
    budget: dict[str, str | int] | None = option(None, HINT)
    choices: tuple[int, ...] = option((2, 3, 4, 5, 6, 7, 8), "widths to choose from", low=2, high=8)
    group_size: int = option(32, "inputs per scale; -1: one per output", low=-1, high=1 << 18)
    embed_bits: int = option(8, "of the embedding", low=2, high=8)
    head_bits: int | None = option(None, "of lm_head; default: as the embedding", low=2, high=8)
    sensitivity: str = option("loss", "how losses are found", choices=("loss", "fisher"))

    def problems(self) -> Iterator[Problem]:
        """A budget of a region that the target has."""
        if not self.choices:
            yield Problem("choices", "none", "some of 2..8")
        if self.group_size == 0:
            yield Problem("group_size", "0", "-1, or at least 1")
        try:
            target = load_target(self.target)
        except EdgecError as error:
            yield Problem("target", self.target, f"a target that can be read ({error.what})")
            return
        if self.budget is None:
            yield Problem("budget", "none", HINT)
        elif (problem := budget_problem(target, self.budget)) is not None:
            yield problem

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """A tied head is the embedding."""
        if config.tie_word_embeddings and self.quant.head_bits != self.embed_bits:
            yield Problem("head_bits", str(self.head_bits), f"{self.embed_bits}: tied weights")

    @property
    def quant(self) -> QuantConfig:
        """The settings that all widths share."""
        head = self.embed_bits if self.head_bits is None else self.head_bits
        return QuantConfig(group_size=self.group_size, embed_bits=self.embed_bits, head_bits=head)

    @property
    def budgets(self) -> dict[MemoryRegion, int]:
        """Bytes of each region of the budget."""
        assert self.budget is not None
        target = load_target(self.target)
        return {target.region(name): parse_size(text) or 0 for name, text in self.budget.items()}


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes the model as it is, and edgec_bits.toml."""
    source = Source.open(source_dir)
    budgets, names = options.budgets, " and ".join(options.budget or ())
    silent = find_silent(source.model)
    design = design_of(source.config, source.masks, options.quant, silent)
    sizes = sizes_by_bits(design, options.choices, max(region.align for region in budgets))
    room = room_of(design, budgets)
    least = sum(min(by_bits.values()) for by_bits in sizes.values())
    if least > room.capacity:
        found = f"{least:,} bytes at the narrowest, beside {room.fixed:,} of other weights"
        problem = Problem(f"projections in {names}", found, f"{max(room.capacity, 0):,} bytes")
        fix = "prune first (depth, structured, width), or raise the budget"
        raise DoesNotFitError("no choice of bits fits the budget", [problem], fix)
    found_losses = _losses(source, options, sizes, run, out)
    chosen = choose(
        [list(by_bits.values()) for by_bits in sizes.values()],
        [[found_losses.added[op_id][b] for b in by_bits] for op_id, by_bits in sizes.items()],
        room.capacity,
    )
    assert chosen is not None
    bits = {
        op_id: list(by_bits)[index]
        for (op_id, by_bits), index in zip(sizes.items(), chosen.choices, strict=True)
    }
    rounded = RoundedSource.of(source, bits, options.group_size)
    order = range(source.config.num_layers)
    measured = mean_loss(rounded, found_losses.tokens, run.device, order)
    writer = Writer(source, out)
    writer.copy_outside()
    writer.finish(copy_blocks(writer, tuple(order)))
    quant = options.quant
    write_bits(out, AllocatedBits(quant.group_size, quant.embed_bits, quant.head_bits, bits))
    values = _metrics(bits, chosen, found_losses, measured)
    return StageMetrics(values | {"region": names, "capacity_bytes": room.capacity})


@dataclass(frozen=True, slots=True, eq=False)
class _Losses:
    tokens: Any
    base: float
    added: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def _losses(
    source: Source,
    options: Options,
    sizes: Mapping[str, Mapping[int, int]],
    run: RunContext,
    scratch: Path,
) -> _Losses:
    tokens = run.texts.windows(source.directory, options, run.seed)
    trial = Trial(source, tokens, sizes, options.group_size, run)
    if options.sensitivity == "loss":
        return _Losses(tokens, *measured_losses(trial))
    base = mean_loss(source, tokens, run.device, range(source.config.num_layers))
    return _Losses(tokens, base, estimated_losses(trial, scratch))


def _metrics(
    bits: Mapping[str, int], chosen: Chosen, losses: _Losses, measured: float
) -> dict[str, Any]:
    predicted = losses.base + chosen.cost
    counts = {str(b): list(bits.values()).count(b) for b in sorted(set(bits.values()))}
    return {
        "bits": dict(bits),
        "projections_by_bits": counts,
        "projection_bytes": chosen.size,
        "added_loss": {
            op_id: {str(b): round(value, 9) for b, value in by_bits.items()}
            for op_id, by_bits in losses.added.items()
        },
        "float_loss": losses.base,
        "predicted_loss": predicted,
        "measured_loss": measured,
        "predicted_perplexity": perplexity_of(predicted),
        "measured_perplexity": perplexity_of(measured),
    }
