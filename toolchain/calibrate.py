"""Choices that need a run of the model: the golden tokens and the residual's fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.ops import INT32_MAX, Ints
from sim.session import Session
from toolchain.model.config import ModelConfig
from toolchain.model.errors import ConfigError, Problem, QuantizationError
from toolchain.model.lower import lower_model
from toolchain.model.outline import LowerConfig
from toolchain.model.program import Op, Program
from toolchain.model.quantize import QuantModel
from toolchain.model.tokenizer import Tokenizer

TEXT = "Once upon a time, there was a house by the sea. She said that it was very"
GOLDEN_STEPS = 16
CALIBRATION_TOKENS = 64
RESIDUAL_LIMIT = 1 << 28  # a quarter of 2^30: numerics 3 leaves that much room for other text


def golden_steps(asked: int | None, context: int) -> int:
    """Number of golden tokens; raises ConfigError when the context does not hold them."""
    if asked is None:
        return min(GOLDEN_STEPS, context)
    if not 1 <= asked <= context:
        problem = Problem("--golden-steps", str(asked), f"1..{context}, the context")
        raise ConfigError("the golden vectors cannot be made", [problem])
    return asked


def sample_tokens(tokenizer: Tokenizer, config: ModelConfig, count: int) -> tuple[int, ...]:
    """`count` token ids: up to half of them from text, the rest spread over the vocabulary.

    The second part reaches rows of the embedding that no ordinary text would.
    """
    text = tokenizer.encode(TEXT)[: (count + 1) // 2]
    rng = np.random.default_rng(count)
    spread = rng.integers(0, config.vocab_size, count - len(text))
    return (*text, *spread.tolist())


def check_ranges(program: Program, tokens: Sequence[int]) -> None:
    """Raise QuantizationError when ordinary tokens leave the range of the integers.

    Named are the ops whose 32-bit outputs saturate, and logits that are zero for every token: such
    a program runs, bit-exactly, and says nothing.
    """
    saturated: dict[str, int] = {}
    logits = 0

    def record(op: Op, name: str, value: Ints) -> None:
        nonlocal logits
        count = int((np.abs(value) >= INT32_MAX).sum())
        if count:
            saturated[op.id] = saturated.get(op.id, 0) + count
        if name == "logits":
            logits = max(logits, int(np.abs(value).max()))

    Session(program, program.constants, record).forward(tokens)
    problems = [
        Problem(op_id, f"{count} saturated values", "values of less than 32 bits")
        for op_id, count in saturated.items()
    ]
    if logits == 0:
        problems.append(Problem("lm_head", "logits that are zero for every token", "any other"))
    if problems:
        raise QuantizationError(
            f"the model leaves the range of its integers on {len(tokens)} ordinary tokens",
            problems,
            fix="scale the weights of these layers, or those before them, to usual sizes",
        )


def residual_peak(quant: QuantModel, config: LowerConfig, tokens: Sequence[int]) -> int:
    """Largest |residual| in integer units over `tokens`."""
    peak = 0

    def record(_: Op, name: str, value: Ints) -> None:
        nonlocal peak
        if name == "resid":
            peak = max(peak, int(np.abs(value).max()))

    program = lower_model(quant, config)
    Session(program, program.constants, record).forward(tokens)
    return peak


def fit_residual_bits(quant: QuantModel, config: LowerConfig, tokens: Sequence[int]) -> int:
    """The most fraction bits (FR), at most those of `config`, that leave the residual headroom.

    Raises QuantizationError when not even 0 fraction bits do.
    """
    bits = config.residual_bits
    while True:
        peak = residual_peak(quant, replace(config, residual_bits=bits), tokens)
        excess = peak.bit_length() - RESIDUAL_LIMIT.bit_length() + 1
        if excess <= 0:
            return bits
        if bits == 0:
            raise QuantizationError(
                "the residual stream outgrows 32 bits",
                [Problem("resid", f"peak {peak} at 0 fraction bits", f"below {RESIDUAL_LIMIT}")],
            )
        bits = max(0, bits - excess)
