"""Blocks in any order, skipped or repeated ("Franken" models).

The result is an ordinary checkpoint whose repeated blocks are copies; `layer_order` in
edgec_stage.json names, for each block, the first one with the same weights, so that copies need no
bytes of their own in a compiled model. A stage that changes the copies apart ends that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain.compress.checkpoint import Source, Writer, copy_blocks
from toolchain.compress.stage import RunContext, StageMetrics, StageOptions, option
from toolchain.model.config import MAX_LAYERS, ModelConfig
from toolchain.model.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(StageOptions):
    """The blocks to run."""

    order: tuple[int, ...] | None = option(
        None, "blocks of the input, in order of execution", low=0
    )
    skip_middle: int = option(0, "without an order: leave out so many in the middle", low=0)

    def problems(self) -> Iterator[Problem]:
        """Something must change."""
        if self.order is None and not self.skip_middle:
            yield Problem("order", "none", "a list of blocks, or skip_middle above 0")
        elif self.order is not None and not 1 <= len(self.order) <= MAX_LAYERS:
            yield Problem("order", f"{len(self.order)} blocks", f"1..{MAX_LAYERS} blocks")

    def idle(self) -> Mapping[str, str]:
        """An order says everything."""
        return {} if self.order is None else {"skip_middle": "the order says which blocks run"}

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """Blocks that the model does not have."""
        for block in dict.fromkeys(self.order or ()):
            if block >= config.num_layers:
                yield Problem("order", f"block {block}", f"0..{config.num_layers - 1}")
        if self.order is None and self.skip_middle >= config.num_layers:
            allowed = f"at most {config.num_layers - 1} of {config.num_layers} blocks"
            yield Problem("skip_middle", str(self.skip_middle), allowed)

    def blocks(self, layers: int) -> tuple[int, ...]:
        """The order for a model of `layers` blocks; of an odd rest the first half has one more."""
        if self.order is not None:
            return self.order
        first = (layers - self.skip_middle + 1) // 2
        return (*range(first), *range(first + self.skip_middle, layers))

    def after(self, config: ModelConfig) -> ModelConfig:
        """As many blocks as the order names."""
        return replace(config, num_layers=len(self.blocks(config.num_layers)))


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes the blocks one after the other; its config.json has as many layers."""
    source = Source.open(source_dir)
    order = options.blocks(source.config.num_layers)
    run.progress("copying blocks", 0, 0)
    writer = Writer(source, out, {"num_hidden_layers": len(order)})
    writer.copy_outside()
    writer.finish(copy_blocks(writer, order))
    skipped = sorted(set(range(source.config.num_layers)) - set(order))
    values = {
        "order": list(order),
        "skipped_blocks": skipped,
        "repeated_blocks": len(order) - len(set(order)),
    }
    return StageMetrics(values)
