"""A design: a shape, how it is quantized, and every what-if; the program that follows from it.

Without what-ifs, or with those that only mean another config.json (depth, vocabulary), the program
is the one that `edgec compile` plans. The others are estimates: `WhatIf.estimates` names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial

from memory_planner.engines import EngineChoice, EngineWish
from toolchain.model.config import MAX_LAYERS, MAX_VOCAB, ModelConfig
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.names import LINEAR_SUFFIXES, expected_shapes, hf_name_of
from toolchain.model.nm_pattern import Pattern
from toolchain.model.outline import (
    NO_FACTS,
    LowerConfig,
    WeightFacts,
    check_lower_config,
    outline_program,
    weight_layouts,
)
from toolchain.model.program import ActMode, Arithmetic, DType, Program, TensorSpec
from toolchain.model.quant_settings import QuantConfig, effective_settings, required_pattern
from toolchain.model.silent_parts import silent_among

KV_BITS = (4, 8, 16)
RUNTIME_KV_BITS = 8


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Changes to a model that was not trained yet; the defaults change nothing."""

    depth: int = 0  # blocks removed
    attn_width: Pattern | None = None  # of q, k, v and o
    mlp_width: Pattern | None = None  # of gate, up and down
    vocab: int | None = None
    kv_bits: int = RUNTIME_KV_BITS
    eora_rank: int | None = None
    layer_order: tuple[int, ...] | None = None  # blocks in order of execution

    def to_dict(self) -> dict[str, object]:
        """What differs from the model as given, as JSON values."""
        values: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value != entry.default:
                values[entry.name] = str(value) if isinstance(value, Pattern) else value
        return values

    def estimates(self) -> list[str]:
        """Why the figures are not those of a compile; empty when they are."""
        reasons = []
        if self.kv_bits != RUNTIME_KV_BITS:
            reasons.append(f"the runtime's cache has {RUNTIME_KV_BITS} bits; cycles assume them")
        return reasons


@dataclass(frozen=True, slots=True)
class Design:
    """Everything that decides about bytes, except the target."""

    config: ModelConfig  # as given
    quant: QuantConfig
    context: int
    modes: Mapping[str, ActMode] = field(default_factory=dict)
    what_if: WhatIf = WhatIf()
    patterns: Mapping[str, Pattern] = field(default_factory=dict)  # found in weights, by op id
    engine: EngineChoice = EngineChoice.AUTO
    arithmetic: Arithmetic = Arithmetic.PRECISE
    facts: WeightFacts = NO_FACTS  # found in weights
    batch: int | None = None  # tokens of a prompt that go together; None: what pays
    # What choose_storage decided: all patterns that were found, and why each is stored or not.
    found: Mapping[str, Pattern] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> Mapping[str, int]:
        """Rank of the adapters beside the projections of the blocks, by role."""
        rank = self.what_if.eora_rank
        return dict.fromkeys(LINEAR_SUFFIXES, rank) if rank else self.facts.ranks

    @property
    def bits(self) -> dict[str, int]:
        """Bits of a weight by op id of the stored matrix."""
        settings = effective_settings(self.shape, self.quant)
        return {op_id: setting.bits for op_id, setting in settings.items()}

    @property
    def wish(self) -> EngineWish:
        """What it says about the engine: matrices that are to be sparse are for the cores."""
        reason = "N:M storage is asked for"
        staying = {name: reason for name in _paying_patterns(self) if self.is_asked_for(name)}
        return EngineWish(self.engine, self.bits, staying, self.batch)

    def is_asked_for(self, name: str) -> bool:
        """Whether N:M storage of a matrix was asked for, whatever it costs."""
        return bool(width_of(name, self.what_if) or required_pattern(self.quant, name))

    @property
    def shape(self) -> ModelConfig:
        """The model after the changes that only mean another config.json."""
        vocab = self.config.vocab_size if self.what_if.vocab is None else self.what_if.vocab
        layers = self.config.num_layers - self.what_if.depth
        return replace(self.config, num_layers=layers, vocab_size=vocab)

    def pattern_of(self, name: str) -> Pattern | None:
        """The N:M pattern that a matrix has, by op id; None for what stays whole."""
        return width_of(name, self.what_if) or self.patterns.get(name)


def check_design(design: Design) -> None:
    """Raise ConfigError with every option out of range, all at once."""
    problems = [*_check_what_if(design)]
    shape = design.config if problems else design.shape
    checks = (
        partial(effective_settings, shape, design.quant),
        partial(check_lower_config, shape, LowerConfig(design.context, design.modes)),
    )
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError("some options cannot be used", problems)


def build_program(design: Design) -> Program:
    """The program of a design that `check_design` accepts; `constants` is empty."""
    lower = LowerConfig(design.context, design.modes, arithmetic=design.arithmetic)
    blocks = design.what_if.layer_order or range(design.shape.num_layers)
    silent = silent_among(design.facts.silent, blocks)
    facts = replace(design.facts, ranks=design.ranks, blocks=_blocks(design), silent=silent)
    patterns = _paying_patterns(design)
    program = outline_program(design.shape, design.quant, lower, patterns, facts)
    return _with_kv_bits(program, design.what_if.kv_bits)


def _check_what_if(design: Design) -> Iterator[Problem]:
    config, what_if = design.config, design.what_if
    last = config.num_layers - 1
    if not 0 <= what_if.depth <= last:
        allowed = f"0..{last} removed blocks of {config.num_layers}"
        yield Problem("--depth", str(what_if.depth), allowed)
    if what_if.vocab is not None and not 1 <= what_if.vocab <= MAX_VOCAB:
        yield Problem("--vocab", str(what_if.vocab), f"1..{MAX_VOCAB} tokens")
    if what_if.kv_bits not in KV_BITS:
        allowed = f"{', '.join(map(str, KV_BITS))} ({RUNTIME_KV_BITS} is what the runtime stores)"
        yield Problem("--kv-bits", str(what_if.kv_bits), allowed)
    inputs = _block_shapes(config)
    if what_if.eora_rank is not None:
        most = min(min(rows, columns) for rows, columns in inputs.values())
        if not 1 <= what_if.eora_rank <= most:
            allowed = f"1..{most}, the smallest side of a projection"
            yield Problem("--eora-rank", str(what_if.eora_rank), allowed)
    for name, (_, columns) in inputs.items():
        pattern = width_of(name, what_if)
        if pattern and pattern.group > columns:
            option = "--attn-width" if name.startswith("attn.") else "--mlp-width"
            yield Problem(f"{option} of {name}", str(pattern), f"M of at most {columns} inputs")
    if what_if.layer_order is not None and 0 <= what_if.depth <= last:
        yield from _check_order(config.num_layers - what_if.depth, what_if.layer_order)


def _check_order(layers: int, order: tuple[int, ...]) -> Iterator[Problem]:
    if not 1 <= len(order) <= MAX_LAYERS:
        yield Problem("--layer-order", f"{len(order)} blocks", f"1..{MAX_LAYERS} blocks")
    for block in dict.fromkeys(order):
        if not 0 <= block < layers:
            yield Problem("--layer-order", f"block {block}", f"0..{layers - 1}")


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """(n_out, n_in) of the projections of one block, by suffix."""
    shapes = expected_shapes(replace(config, num_layers=1))
    return {suffix: shapes[hf_name_of(f"l00.{suffix}")] for suffix in LINEAR_SUFFIXES}


def width_of(name: str, what_if: WhatIf) -> Pattern | None:
    """The pattern that a projection is pruned to, by id or suffix; None for what stays whole."""
    suffix = next((s for s in LINEAR_SUFFIXES if name in (s, f"{name.partition('.')[0]}.{s}")), "")
    if not suffix:
        return None
    return what_if.attn_width if suffix.startswith("attn.") else what_if.mlp_width


def _paying_patterns(design: Design) -> dict[str, Pattern]:
    """Patterns of the projections that are then stored sparse, by id."""
    found: dict[str, Pattern] = {}
    if not (design.what_if.attn_width or design.what_if.mlp_width or design.patterns):
        return found
    for name, dense in weight_layouts(design.shape, design.quant).items():
        pattern = design.pattern_of(name)
        if pattern and sparse_layout(dense, pattern).pays:
            found[name] = pattern
    return found


def _blocks(design: Design) -> tuple[int, ...] | None:
    """The stored block of every block that runs; None when all have weights of their own."""
    order, copies = design.what_if.layer_order, design.facts.blocks
    if copies is None:
        return order
    return copies[: design.shape.num_layers] if order is None else tuple(copies[b] for b in order)


def _with_kv_bits(program: Program, bits: int) -> Program:
    """The program with cache rows of `bits`; their scales stay as they are."""
    if bits == RUNTIME_KV_BITS:
        return program

    def change(spec: TensorSpec) -> TensorSpec:
        if spec.name not in ("kv.k", "kv.v"):
            return spec
        if bits == 16:
            return replace(spec, dtype=DType.I16)
        return replace(spec, shape=(*spec.shape[:2], spec.shape[2] // 2))  # head_dim is even

    tensors = {name: change(spec) for name, spec in program.tensors.items()}
    return replace(program, tensors=tensors)
