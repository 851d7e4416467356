"""Forward and backward passes of whole models with one block's weights on the device at a time.

Hidden states of all samples stay on the CPU in float32 (samples x positions x hidden x 4 bytes).
A model is a source and an order of blocks, so that removal or repetition costs nothing to try.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from toolchain.compress.blocks import BlockRunner, Head, embed
from toolchain.compress.checkpoint import Block, Source, Tensor
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.names import LINEAR_SUFFIXES

BATCH = 4  # windows per forward pass; a constant, since sums depend on it in the last bit
Tick = Callable[[], None]
Form = Callable[[Tensor, Block], Tensor]  # states and weights of a block to states


def no_tick() -> None:
    """For callers that show no progress."""


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Passes of one source over one set of windows (samples, positions)."""

    source: Source
    tokens: Tensor
    device: str
    runner: BlockRunner

    @staticmethod
    def make(source: Source, tokens: Tensor, device: str) -> Passes:
        """Tables for the length of the windows."""
        runner = BlockRunner.make(source.config, tokens.shape[1], device)
        return Passes(source, tokens, device, runner)

    def start(self) -> Tensor:
        """States in front of the first block, on the CPU."""
        return embed(self.source, self.tokens)

    def apply(self, states: Tensor, form: Form, weights: Block) -> Tensor:
        """A form of a block over batches of states, from the CPU and back."""
        with torch.no_grad():
            done = [form(part.to(self.device), weights).cpu() for part in states.split(BATCH)]
        return torch.cat(done)

    def through(self, states: Tensor, block: int) -> Tensor:
        """States behind a block of the source."""
        return self.apply(states, self.runner, self.source.block(block, self.device))

    def losses(self, states: Tensor, head: Head) -> float:
        """Mean negative log-likelihood per predicted token in nats; refuses NaN and infinity."""
        total = 0.0
        with torch.no_grad():  # one window at a time: logits are vocabulary-sized
            for part, tokens in zip(states.split(1), self.tokens.split(1), strict=True):
                total += float(head.loss_sum(part.to(self.device), tokens.to(self.device)))
        return check_loss(total / self.predicted)

    @property
    def predicted(self) -> int:
        """Tokens that count: all but the first of every window."""
        return int(self.tokens.shape[0] * (self.tokens.shape[1] - 1))


def check_loss(mean: float) -> float:
    """The loss itself; CompressionError when it is not finite."""
    if math.isfinite(mean):
        return mean
    problem = Problem("mean loss", f"{mean}", "a finite number of nats per token")
    raise CompressionError("the model's loss is not finite", [problem], "check its weights")


def mean_loss(
    source: Source, tokens: Tensor, device: str, order: Sequence[int], tick: Tick = no_tick
) -> float:
    """Nats per predicted token of the blocks `order`, one after the other."""
    passes = Passes.make(source, tokens, device)
    states = passes.start()
    for block in order:
        states = passes.through(states, block)
        tick()
    return passes.losses(states, Head.load(source, device))


def perplexity_of(mean: float) -> float:
    """exp of a mean loss; infinite where that is too large for a float."""
    return math.exp(mean) if mean < 700 else math.inf


def losses_without(
    source: Source, tokens: Tensor, device: str, order: Sequence[int], tick: Tick = no_tick
) -> list[float]:
    """Mean loss of the model without position p of `order`, for every p."""
    passes = Passes.make(source, tokens, device)

    forms: tuple[Form, Form] = (passes.runner, lambda x, _: x)
    losses = losses_of_variants(passes, order, forms, range(len(order)), tick)
    return list(losses.values())


def losses_of_variants(
    passes: Passes,
    order: Sequence[int],
    forms: tuple[Form, Form],
    positions: Collection[int],
    tick: Tick = no_tick,
) -> dict[int, float]:
    """Mean loss of the model with the second form at one position of `order`, for each of some.

    All other positions have the first form. Every block is loaded once; the states of all variants
    travel together, so memory is len(positions) sets of states.
    """
    usual, changed = forms
    states = passes.start()
    variants: dict[int, Tensor] = {}
    for position, block in enumerate(order):
        weights = passes.source.block(block, passes.device)
        variants = {p: passes.apply(value, usual, weights) for p, value in variants.items()}
        if position in positions:
            variants[position] = passes.apply(states, changed, weights)
        states = passes.apply(states, usual, weights)
        tick()
    head = Head.load(passes.source, passes.device)
    return {position: passes.losses(value, head) for position, value in variants.items()}


def gradients(
    source: Source, tokens: Tensor, device: str, order: Sequence[int], tick: Tick = no_tick
) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
    """(position in order, sample, gradient by suffix) of every block, from the last to the first.

    The loss of a sample is its mean over predicted tokens. States in front of every block are kept
    on the CPU; a block is run again to differentiate it, so that one block's weights and gradients
    are in memory at a time.
    """
    passes = Passes.make(source, tokens, device)
    states = [passes.start()]
    for block in order:
        states.append(passes.through(states[-1], block))
        tick()
    upstream = _head_gradient(passes, states.pop())
    for position in reversed(range(len(order))):
        weights = source.block(order[position], device)
        leaves = [weights[suffix].requires_grad_() for suffix in LINEAR_SUFFIXES]
        inputs = states.pop()
        for sample in range(len(tokens)):
            x = inputs[sample : sample + 1].to(device).requires_grad_()
            y = passes.runner(x, weights)
            found = torch.autograd.grad(y, [x, *leaves], upstream[sample : sample + 1].to(device))
            upstream[sample : sample + 1] = found[0].cpu()
            yield position, sample, dict(zip(LINEAR_SUFFIXES, found[1:], strict=True))
        tick()


def _head_gradient(passes: Passes, states: Tensor) -> Tensor:
    """Gradient of every sample's mean loss by its final states; checks the loss."""
    head = Head.load(passes.source, passes.device)
    rows = []
    for sample in range(len(states)):
        x = states[sample : sample + 1].to(passes.device).requires_grad_()
        tokens = passes.tokens[sample : sample + 1].to(passes.device)
        loss = head.loss_sum(x, tokens) / (tokens.shape[1] - 1)
        check_loss(float(loss.detach()))
        rows.append(torch.autograd.grad(loss, x)[0].cpu())
    return torch.cat(rows)
