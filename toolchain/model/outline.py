"""The structure of a program: all shapes, sizes and ops, from config.json and settings alone.

The memory fit of a model is known before it is trained, because the planner reads no weight.
`lower_model` adds the constants to the same structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, e, frexp, log2, sqrt
from types import MappingProxyType
from typing import TYPE_CHECKING

from toolchain.model.adapters import with_adapters
from toolchain.model.config import ModelConfig
from toolchain.model.errors import ConfigError, Problem, QuantizationError
from toolchain.model.input_order import Gathers, with_gathers
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.names import EMBED, HEAD, expected_shapes, hf_name_of
from toolchain.model.nm_pattern import Pattern
from toolchain.model.packing import WeightInts, WeightLayout, packing_for_bits
from toolchain.model.program import ActMode, Arithmetic, Program, ProgramShape
from toolchain.model.quant_settings import QuantConfig, effective_settings
from toolchain.model.schedule import build_schedule, build_tensors
from toolchain.model.shared_blocks import unrolled, with_shared_blocks
from toolchain.model.silent_parts import with_silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ACTIVATION_BITS = 16  # F: fraction bits of q, k, v, gate, up and of the logits
MAX_EPS = 1 << 33  # eps << 30 plus the sum of squares stays below 2^64
NO_PATTERNS: Mapping[str, Pattern] = MappingProxyType({})
SITES = ("attn_in", "o_in", "mlp_in", "down_in", "head_in")


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the weights say about the structure, beside the shapes; nothing for most models."""

    ranks: Mapping[str, int] = field(default_factory=dict)  # of adapters beside codes, by role
    gathers: Gathers = field(default_factory=dict)  # of codes in an order of their own
    # For every block that runs the one whose weights it has; None: its own.
    blocks: tuple[int, ...] | None = None
    silent: frozenset[str] = frozenset()  # parts of blocks that add nothing


NO_FACTS = WeightFacts()


@dataclass(frozen=True, slots=True)
class LowerConfig:
    """What the integer program is free to choose."""

    context: int  # positions of the KV cache
    modes: Mapping[str, ActMode] = field(default_factory=dict)  # by site; A16 when absent
    residual_bits: int = 12  # FR
    arithmetic: Arithmetic = Arithmetic.PRECISE

    def mode(self, site: str) -> ActMode:
        """Activation width of a site."""
        return self.modes.get(site, ActMode.A16)


def real_to_multiplier(real: float) -> tuple[int, int]:
    """(M, e) with real ~ M * 2^-e and 2^15 <= M < 2^16, for real > 0 (numerics 0, mexp)."""
    fraction, exponent = frexp(real)
    m = round(fraction * 65536.0)
    return (m >> 1, 15 - exponent) if m == 65536 else (m, 16 - exponent)


def attention_constants(head_dim: int, context: int) -> dict[str, int]:
    """Mc, ec and EB of numerics 6."""
    real = log2(e) / sqrt(head_dim) / 127**2 * 2.0**8 * 2.0 ** (-2 * ACTIVATION_BITS)
    multiplier, exponent = real_to_multiplier(real)
    exp_bits = 15 if context <= 512 else 24 - ceil(log2(context))
    return {"score_multiplier": multiplier, "score_exponent": exponent, "exp_bits": exp_bits}


def eps_constant(config: ModelConfig, residual_bits: int) -> int:
    """EPS of numerics 4: eps * hidden at twice the residual's fraction bits."""
    eps = round(config.rms_norm_eps * config.hidden_size * 2.0 ** (2 * residual_bits))
    if eps >= MAX_EPS:
        raise QuantizationError(
            "rms_norm_eps is too large for the integer RMSNorm",
            [Problem("config.json: rms_norm_eps", f"{config.rms_norm_eps:g}", "below 2^33 units")],
        )
    return eps


def program_shape(config: ModelConfig, context: int) -> ProgramShape:
    """The dimensions of the program at a context."""
    return ProgramShape(
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        context=context,
    )


def check_lower_config(model: ModelConfig, config: LowerConfig) -> None:
    """Raise ConfigError for a context, a site or a fixed point out of range, all at once."""
    problems = [
        Problem("activation site", site, ", ".join(SITES))
        for site in config.modes
        if site not in SITES
    ]
    limit = model.max_position_embeddings
    if not 1 <= config.context <= limit:
        problems.append(
            Problem("--context", str(config.context), f"1..{limit}, the model's trained positions")
        )
    if not 0 <= config.residual_bits <= 16:
        problems.append(Problem("residual bits", str(config.residual_bits), "0..16"))
    if problems:
        raise ConfigError("the program cannot be built as asked", problems)


def assemble_program(
    config: ModelConfig,
    layouts: Mapping[str, WeightLayout],
    lower: LowerConfig,
    constants: Mapping[str, WeightInts | npt.NDArray[np.generic]],
) -> Program:
    """The program whose packed matrices have `layouts`, by op id ("lm_head" only when untied)."""
    shape = program_shape(config, lower.context)
    attention = attention_constants(shape.head_dim, shape.context)
    eps = eps_constant(config, lower.residual_bits)
    ops = build_schedule(shape, lower, eps, attention, tied=HEAD not in layouts)
    tensors = build_tensors(shape, lower, layouts)
    return Program(shape, lower.residual_bits, tensors, ops, constants, lower.arithmetic)


def weight_layouts(
    config: ModelConfig, quant: QuantConfig, patterns: Mapping[str, Pattern] = NO_PATTERNS
) -> dict[str, WeightLayout]:
    """Packed layout of every stored matrix by op id, in the order of `lower_model`.

    `patterns`: of the matrices that are stored sparse. Raises ConfigError for settings that cannot
    be used.
    """
    shapes = expected_shapes(config)
    layouts: dict[str, WeightLayout] = {}
    for op_id, setting in effective_settings(config, quant).items():
        rows, columns = shapes[hf_name_of(op_id)]
        group = columns if setting.group_size == -1 else min(setting.group_size, columns)
        requant = op_id != EMBED or config.tie_word_embeddings
        packing = packing_for_bits(setting.bits)
        dense = WeightLayout(packing, rows, columns, group, requant)
        pattern = patterns.get(op_id)
        layouts[op_id] = sparse_layout(dense, pattern) if pattern else dense
    layouts[EMBED] = layouts.pop(EMBED)  # last, as lowering meets it
    return layouts


def outline_program(
    config: ModelConfig,
    quant: QuantConfig,
    lower: LowerConfig,
    patterns: Mapping[str, Pattern] = NO_PATTERNS,
    facts: WeightFacts = NO_FACTS,
) -> Program:
    """The program of a model that has no weights yet; `constants` is empty.

    `facts`: what the weights of a checkpoint add.
    """
    check_lower_config(config, lower)
    layouts = weight_layouts(config, quant, patterns)
    if facts.blocks is not None:
        layouts = unrolled(layouts, facts.blocks)
        config = replace(config, num_layers=len(facts.blocks))
    return with_facts(assemble_program(config, layouts, lower, constants={}), facts)


def with_facts(program: Program, facts: WeightFacts) -> Program:
    """The program of as many blocks as run, each with weights of its own, after `facts`."""
    program = with_gathers(with_shared_blocks(program, facts.blocks), facts.gathers)
    program = with_silent(with_adapters(program, facts.ranks), facts.silent)
    constants = {n: value for n, value in program.constants.items() if n in program.tensors}
    return replace(program, constants=constants)
