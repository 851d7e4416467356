"""What the weights of a checkpoint say about the structure of its program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from fnmatch import fnmatchcase

from toolchain.model.block_copies import copied_blocks
from toolchain.model.checkpoint import FloatModel
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.input_order import gathers_of
from toolchain.model.names import hf_name_of
from toolchain.model.nm_pattern import Pattern
from toolchain.model.outline import WeightFacts
from toolchain.model.quant_settings import QuantConfig, effective_settings
from toolchain.model.quantize import adapter_ranks_of
from toolchain.model.silent_parts import find_silent, part_of


def facts_of(model: FloatModel, quant: QuantConfig, patterns: Mapping[str, Pattern]) -> WeightFacts:
    """Adapters, orders of codes, copied blocks and silent parts, as `quantize_model` finds them.

    Raises ConfigError with every override and sparse rule that matches silent parts alone.
    """
    layers, silent = model.config.num_layers, find_silent(model)
    problems = [*_idle_rules(model, quant, silent)]
    if problems:
        fix = "leave them out: a part whose last projection is 0 leaves the program"
        raise ConfigError("some settings would have no effect", problems, fix)
    return WeightFacts(
        adapter_ranks_of(model),
        gathers_of(model.orders, layers),
        copied_blocks(model, quant, patterns),
        silent,
    )


def _idle_rules(model: FloatModel, quant: QuantConfig, silent: Set[str]) -> Iterator[Problem]:
    """Rules that a user wrote; those of codes name one coded matrix each."""
    ids = effective_settings(model.config, quant)
    patterns = [("override", rule.pattern) for rule in quant.overrides]
    patterns += [("sparse rule", rule.match) for rule in quant.sparse]
    for what, pattern in dict.fromkeys(patterns) if silent else ():
        matched = [op_id for op_id in ids if fnmatchcase(op_id, pattern)]
        coded = matched == [pattern] and hf_name_of(pattern) in model.codes
        if matched and not coded and all(part_of(op_id) in silent for op_id in matched):
            found = f"matches {', '.join(matched)} alone"
            yield Problem(f"{what} {pattern!r}", found, "a matrix that the program has")
