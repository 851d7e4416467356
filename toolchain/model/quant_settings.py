"""QuantConfig -> the bits and group size of every matrix, each override in effect or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from toolchain.model.config import ModelConfig
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.names import EMBED, HEAD, linear_ids
from toolchain.model.nm_pattern import Pattern

LOWEST_BITS, HIGHEST_BITS = 2, 8
PER_CHANNEL = -1


@dataclass(frozen=True, slots=True)
class Override:
    """Other settings for the op ids that match `pattern` (fnmatch); None leaves one as it is."""

    pattern: str
    bits: int | None = None
    group_size: int | None = None


@dataclass(frozen=True, slots=True)
class SparseRule:
    """Which N:M patterns the op ids that match `match` (fnmatch) may be stored with.

    Of those that hold in the weights the one of fewest bytes counts; none at all: stay dense.
    Unless it is `required` or `always` stored, a compile stores it only where that is worth it.
    """

    match: str
    patterns: tuple[Pattern, ...]
    required: bool = False  # they must hold
    always: bool = False  # stored whenever they hold

    def __str__(self) -> str:
        if self.required:
            return ",".join(map(str, self.patterns))
        if self.always:
            return "found"
        return "auto" if self.patterns else "off"


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """How to quantize and store: bits 2..8; group_size in columns, -1: one scale per output."""

    bits: int = 4
    group_size: int = 32
    embed_bits: int = 8
    head_bits: int = 8
    overrides: tuple[Override, ...] = ()  # applied in order, the last one wins
    sparse: tuple[SparseRule, ...] = ()  # the last that matches counts; none: whatever is found


@dataclass(frozen=True, slots=True)
class TensorSetting:
    """Effective setting of one matrix; group_size -1 is one group per row."""

    bits: int
    group_size: int


def effective_settings(config: ModelConfig, quant: QuantConfig) -> Mapping[str, TensorSetting]:
    """Setting per op id: embed, the projections in order of execution, lm_head if untied.

    Raises ConfigError with every value out of range, every override that changes nothing or
    matches nothing, and settings that a tied head cannot have.
    """
    problems = [*_check_values(quant)]
    settings = {EMBED: TensorSetting(quant.embed_bits, PER_CHANNEL)}
    settings |= dict.fromkeys(linear_ids(config), TensorSetting(quant.bits, quant.group_size))
    settings[HEAD] = TensorSetting(quant.head_bits, PER_CHANNEL)
    for override in quant.overrides:
        matched = [op_id for op_id in settings if fnmatchcase(op_id, override.pattern)]
        if not matched:
            examples = ", ".join([*list(settings)[:8], HEAD])
            allowed = f"a pattern that matches an op id, such as {examples}"
            problems.append(Problem("override", f"pattern {override.pattern!r}", allowed))
        for op_id in matched:
            settings[op_id] = _apply(settings[op_id], override)
    problems += _check_vocabulary(config, settings)
    if problems:
        raise ConfigError("the quantization settings cannot be used", problems)
    if config.tie_word_embeddings:
        del settings[HEAD]
    return MappingProxyType(settings)


def rule_of(quant: QuantConfig, op_id: str) -> SparseRule | None:
    """The rule of a linear that counts; None: whatever is found."""
    rules = [rule for rule in quant.sparse if fnmatchcase(op_id, rule.match)]
    return rules[-1] if rules else None


def required_pattern(quant: QuantConfig, op_id: str) -> Pattern | None:
    """The N:M pattern that the weights of a linear were required to have."""
    rule = rule_of(quant, op_id)
    return rule.patterns[0] if rule and rule.required else None


def _apply(setting: TensorSetting, override: Override) -> TensorSetting:
    if override.bits is not None:
        setting = replace(setting, bits=override.bits)
    if override.group_size is not None:
        setting = replace(setting, group_size=override.group_size)
    return setting


def _check_values(quant: QuantConfig) -> Iterator[Problem]:
    for name in ("bits", "embed_bits", "head_bits"):
        yield from _check_bits(name, getattr(quant, name))
    yield from _check_group_size("group_size", quant.group_size)
    for override in quant.overrides:
        where = f"override {override.pattern!r}"
        if override.bits is None and override.group_size is None:
            yield Problem(where, "neither bits nor group_size", "at least one of them")
        if override.bits is not None:
            yield from _check_bits(f"{where}: bits", override.bits)
        if override.group_size is not None:
            yield from _check_group_size(f"{where}: group_size", override.group_size)


def _check_bits(where: str, bits: int) -> Iterator[Problem]:
    if isinstance(bits, bool) or not LOWEST_BITS <= bits <= HIGHEST_BITS:
        yield Problem(where, str(bits), f"{LOWEST_BITS}..{HIGHEST_BITS} bits")


def _check_group_size(where: str, group_size: int) -> Iterator[Problem]:
    if isinstance(group_size, bool) or (group_size < 1 and group_size != PER_CHANNEL):
        yield Problem(where, str(group_size), "columns >= 1, or -1 (one scale per output channel)")


def _check_vocabulary(
    config: ModelConfig, settings: Mapping[str, TensorSetting]
) -> Iterator[Problem]:
    """The embedding is looked up by row, so one scale per row; a tied head is the same tensor."""
    tied = config.tie_word_embeddings
    for op_id in (EMBED, HEAD) if tied else (EMBED,):
        group_size = settings[op_id].group_size
        if group_size != PER_CHANNEL:
            reason = "-1 (one scale per row of the embedding)"
            fix = 'a pattern like "l*.*" leaves the embedding out'
            yield Problem(f"group size of {op_id}", str(group_size), reason, fix)
    if tied and settings[EMBED].bits != settings[HEAD].bits:
        found = f"{settings[HEAD].bits} bits"
        allowed = f"{settings[EMBED].bits} bits as the embedding, which is the same tensor"
        yield Problem("head_bits of a tied model", found, allowed, "set both alike")
