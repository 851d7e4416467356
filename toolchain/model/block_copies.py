"""Which blocks of a checkpoint are copies of an earlier one, bit for bit.

Copies are what `edgec compress` writes for a block that runs more than once. They are found in the
stored bytes, whatever made them; bits and storage must be equal too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from toolchain.model.checkpoint import FloatModel
from toolchain.model.names import LINEAR_SUFFIXES, hf_name_of
from toolchain.model.nm_pattern import Pattern
from toolchain.model.quant_settings import QuantConfig, effective_settings
from toolchain.model.safetensors_file import TensorRef

NORMS = ("attn.norm", "mlp.norm")


def copied_blocks(
    model: FloatModel, quant: QuantConfig, patterns: Mapping[str, Pattern]
) -> tuple[int, ...] | None:
    """For every block the first one that is equal; None when all differ.

    `quant` has the settings of the codes, `patterns` are those that `find_patterns` found.
    """
    settings = effective_settings(model.config, quant)
    firsts: list[int] = []
    blocks = []
    for layer in range(model.config.num_layers):
        ids = [f"l{layer:02d}.{suffix}" for suffix in LINEAR_SUFFIXES]
        for first in firsts:
            others = [f"l{first:02d}.{suffix}" for suffix in LINEAR_SUFFIXES]
            alike = all(
                settings[a] == settings[b] and patterns.get(a) == patterns.get(b)
                for a, b in zip(ids, others, strict=True)
            )
            if alike and _equal(model, layer, first):
                blocks.append(first)
                break
        else:
            firsts.append(layer)
            blocks.append(layer)
    return tuple(blocks) if len(firsts) < len(blocks) else None


def _equal(model: FloatModel, layer: int, other: int) -> bool:
    left, right = dict(_parts(model, layer)), dict(_parts(model, other))
    if left.keys() != right.keys() or _facts(model, layer) != _facts(model, other):
        return False
    if not all(ref.equals(right[name]) for name, ref in left.items()):
        return False
    for suffix in LINEAR_SUFFIXES:
        masks = [model.masks.get(hf_name_of(f"l{i:02d}.{suffix}")) for i in (layer, other)]
        one, two = (None if mask is None else mask.keep for mask in masks)
        if (one is None) != (two is None):
            return False
        if one is not None and two is not None and not np.array_equal(one, two):
            return False
    return True


def _parts(model: FloatModel, layer: int) -> Iterator[tuple[str, TensorRef]]:
    """Everything that is stored of a block, norms first: they differ at once in most models."""
    for suffix in (*NORMS, *LINEAR_SUFFIXES):
        name = hf_name_of(f"l{layer:02d}.{suffix}")
        if name in model.codes:
            for part, ref in model.codes[name].parts.items():
                yield f"{suffix}.{part}", ref
        else:
            yield suffix, model.tensors[name]
        if name in model.factors:
            yield f"{suffix}.A", model.factors[name].down
            yield f"{suffix}.B", model.factors[name].up


def _facts(model: FloatModel, layer: int) -> list[object]:
    """How the bytes of a block are read."""
    names = [hf_name_of(f"l{layer:02d}.{suffix}") for suffix in LINEAR_SUFFIXES]
    found: list[object] = [model.factors[n].scale if n in model.factors else None for n in names]
    for ref in (model.codes[name] for name in names if name in model.codes):
        found.append((ref.bits, ref.group_size, ref.version))
    return found
