"""How many parameters a design has, and what they take outside of edgec.

Counted as the literature counts: tied tensors once, norms in full, a pruned projection by its kept
weights. Tables that edgec adds (rotary embedding, look-up tables) are no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from toolchain.fit.design import Design
from toolchain.model.adapters import ADAPTER_MARK
from toolchain.model.config import ModelConfig
from toolchain.model.names import HEAD, expected_shapes
from toolchain.model.program import MatrixLayout, Program, TensorSpec, is_prompt_words
from toolchain.model.quant_settings import PER_CHANNEL, effective_settings


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts of weights."""

    given: int  # of the model before any what-if
    dense: int  # of the shape that runs, zeros of N:M included; a repeated block counts once
    kept: int  # without the zeros
    adapters: int  # of EoRA, in none of the others


def count_parameters(design: Design, program: Program) -> Parameters:
    """Parameters of a design and its program."""
    norms = dense = kept = adapters = 0
    for spec in program.tensors.values():
        layout = spec.layout
        if spec.name.endswith(".gamma"):
            norms += spec.shape[0]
        elif not isinstance(layout, MatrixLayout) or _is_copy(spec, design):
            continue
        elif ADAPTER_MARK in spec.name:
            adapters += layout.rows * layout.columns
        else:
            dense += layout.rows * layout.columns
            pattern = design.pattern_of(spec.name.removesuffix(".weight"))
            kept += layout.rows * (pattern.kept_of(layout.columns) if pattern else layout.columns)
    return Parameters(config_parameters(design.config), norms + dense, norms + kept, adapters)


def _is_copy(spec: TensorSpec, design: Design) -> bool:
    """Whether a tensor is stored a second time, for the engine: a tied head, words for prompts."""
    if is_prompt_words(spec):
        return True
    return spec.name == f"{HEAD}.weight" and design.shape.tie_word_embeddings


def config_parameters(config: ModelConfig) -> int:
    """Parameters of a config.json."""
    return sum(prod(shape) for shape in expected_shapes(config).values())


def packed_size(program: Program) -> int:
    """Bytes of all packed matrices, scales and indices included, but for copies for prompts."""
    stored = (spec for spec in program.tensors.values() if not is_prompt_words(spec))
    return sum(spec.size for spec in stored if spec.layout)


def gptq_checkpoint_size(design: Design, program: Program) -> int:
    """Bytes of a GPTQ checkpoint with the design's bits and groups, for comparison.

    Projections as integers with their zeros, per group and output a 16-bit scale and a zero point
    of the same bits, per input a 32-bit group index; embedding, head, norms and adapters in 16 bit.
    """
    bits = 0
    settings = effective_settings(design.shape, design.quant)
    for spec in program.tensors.values():
        layout, setting = spec.layout, settings.get(spec.name.removesuffix(".weight"))
        if spec.name.endswith(".gamma"):
            bits += 16 * spec.shape[0]
        elif not isinstance(layout, MatrixLayout) or _is_copy(spec, design):
            continue
        elif setting is None or "." not in spec.name.removesuffix(".weight"):
            bits += 16 * layout.rows * layout.columns
        else:
            per_channel = setting.group_size == PER_CHANNEL
            group = layout.columns if per_channel else setting.group_size
            groups = layout.rows * -(-layout.columns // group)
            bits += layout.rows * layout.columns * setting.bits + groups * (16 + setting.bits)
            bits += 32 * layout.columns
    return -(-bits // 8)
