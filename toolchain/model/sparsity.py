"""Which N:M pattern each matrix is stored with: found in its weights, or asked for.

The zeros of a checkpoint stay zeros when it is quantized, because the quantization is symmetric. So
a pattern that holds in the real weights holds in the integers, and sparse storage changes no
result. The embedding is looked up by row and stays dense, and so does a head tied to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from toolchain.model.checkpoint import FloatModel
from toolchain.model.config import ModelConfig
from toolchain.model.errors import ConfigError, Problem, QuantizationError
from toolchain.model.matrix_storage import smallest_layout
from toolchain.model.names import HEAD, expected_shapes, hf_name_of, linear_ids
from toolchain.model.nm_pattern import PATTERNS, Pattern, first_violation
from toolchain.model.outline import weight_layouts
from toolchain.model.packing import WeightLayout
from toolchain.model.quant_settings import QuantConfig, SparseRule
from toolchain.model.silent_parts import find_silent, part_of
from toolchain.model.sparse_packing import UNIT, SparseLayout

AUTO = SparseRule("*", PATTERNS)
FOUND = SparseRule("*", PATTERNS, always=True)
OFF = SparseRule("*", ())


def find_patterns(model: FloatModel, quant: QuantConfig) -> Mapping[str, Pattern]:
    """The pattern of every matrix for which sparse storage takes fewer bytes, by op id.

    Reads the weights of a matrix unless its rule is to stay dense, or its part of the block leaves
    the program (silent_parts.py). Raises ConfigError for settings
    that cannot be used, QuantizationError naming every matrix that lacks a required pattern.
    """
    rules = _effective_rules(model.config, quant)
    layouts = weight_layouts(model.config, quant)
    problems = [*_check_groups(rules, layouts)]
    if problems:
        raise ConfigError("some matrices cannot be stored sparse", problems)
    found, silent = {}, find_silent(model)
    for op_id, rule in rules.items():
        if not rule.patterns or part_of(op_id) in silent:
            continue
        if not rule.required and not _may_hold(model, op_id, rule.patterns):
            continue
        weights = model.stored(hf_name_of(op_id))
        if rule.required:
            problems += _violations(op_id, weights, rule.patterns)
        holding = (pattern for pattern in rule.patterns if _holds(weights, pattern))
        layout = smallest_layout(layouts[op_id], holding)
        if isinstance(layout, SparseLayout):
            found[op_id] = layout.pattern
    if problems:
        fix = "prune the checkpoint to the pattern, or leave these matrices out: --sparse auto"
        raise QuantizationError("weights do not have the pattern asked for", problems, fix)
    return MappingProxyType(found)


def _effective_rules(config: ModelConfig, quant: QuantConfig) -> dict[str, SparseRule]:
    """The rule of every matrix that may be sparse; raises ConfigError for one that matches none."""
    ids = [*linear_ids(config), *([] if config.tie_word_embeddings else [HEAD])]
    rules = dict.fromkeys(ids, AUTO)
    problems = []
    for rule in quant.sparse:
        matched = [op_id for op_id in ids if fnmatchcase(op_id, rule.match)]
        rules |= dict.fromkeys(matched, rule)
        if not matched:
            examples = ", ".join(dict.fromkeys([*ids[:7], ids[-1]]))
            allowed = f"a pattern that matches a linear, such as {examples}"
            problems.append(Problem("--sparse", repr(rule.match), allowed))
    if problems:
        raise ConfigError("the sparsity settings cannot be used", problems)
    return rules


def _check_groups(
    rules: Mapping[str, SparseRule], layouts: Mapping[str, WeightLayout]
) -> Iterator[Problem]:
    for op_id, rule in rules.items():
        layout = layouts[op_id]
        if rule.required and layout.groups > 1 and layout.group_size % UNIT:
            allowed = f"groups of a multiple of {UNIT} inputs, or one group (-1)"
            yield Problem(f"--sparse {rule} of {op_id}", f"groups of {layout.group_size}", allowed)


def _may_hold(model: FloatModel, op_id: str, patterns: tuple[Pattern, ...]) -> bool:
    """Whether the first row has zeros enough for a pattern: that of most matrices has not."""
    name = hf_name_of(op_id)
    zeros, columns = model.first_zeros(name), expected_shapes(model.config)[name][1]
    return any(zeros >= each.groups_of(columns) * each.removed for each in patterns)


def _holds(weights: npt.NDArray[np.generic], pattern: Pattern) -> bool:
    rows, columns = weights.shape
    needed = rows * pattern.groups_of(columns) * pattern.removed
    zeros = weights.size - np.count_nonzero(weights)
    return bool(zeros >= needed) and first_violation(weights, pattern) is None


def _violations(
    op_id: str, weights: npt.NDArray[np.generic], patterns: tuple[Pattern, ...]
) -> Iterator[Problem]:
    for pattern in patterns:
        violation = first_violation(weights, pattern)
        if violation is not None:
            row, group, zeros = violation
            first = group * pattern.group
            where = f"{op_id}, row {row}, inputs {first}..{first + pattern.group - 1}"
            allowed = f"at least {pattern.removed} ({pattern})"
            yield Problem(where, f"{zeros} zeros", allowed)
