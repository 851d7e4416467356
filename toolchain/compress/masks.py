"""masks.safetensors: which weights of a checkpoint are removed for good.

One uint8 tensor (n_out, ceil(n_in / 8)) per pruned projection, under the name of its weight; bit
k % 8 of byte k // 8 is 1 where weight k of the row is kept (bits behind n_in are 0). The metadata
of the file holds n_in and, for N:M masks, the pattern: at least N of every M consecutive inputs of
every row are removed; inputs behind the last whole group may all stay.

A later stage may change kept weights only. `check_masked` proves it after every stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from toolchain.compress.tensor_files import save_tensors
from toolchain.model.checkpoint import FloatModel
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.mask_file import MASKS_FILE, Bools, Mask, read_masks

__all__ = ["MASKS_FILE", "Mask", "check_masked", "fits_pattern", "read_masks", "write_masks"]


def write_masks(path: Path, masks: Mapping[str, Mask]) -> None:
    """Write the file of a checkpoint; the same masks give the same bytes."""
    tensors = {
        name: torch.from_numpy(np.packbits(mask.keep, axis=1, bitorder="little"))
        for name, mask in masks.items()
    }
    facts = {
        name: {"inputs": mask.keep.shape[1], "pattern": mask.pattern}
        for name, mask in sorted(masks.items())
    }
    # One key: the order of several would follow a random hash.
    save_tensors(tensors, path, {"masks": json.dumps(facts)})


def check_masked(model: FloatModel, masks: Mapping[str, Mask]) -> None:
    """Raise CompressionError with every removed weight that is not exactly 0."""
    problems = []
    for name, mask in masks.items():
        ref = model.tensors.get(name)
        if ref is None or ref.shape != mask.keep.shape:
            found = "no such weight" if ref is None else f"shape {list(ref.shape)}"
            problems.append(Problem(f"mask of {name}", found, f"{list(mask.keep.shape)}"))
            continue
        alive = int(np.count_nonzero(ref.read()[~mask.keep]))
        if alive:
            problems.append(Problem(f"weights of {name}", f"{alive} removed but not 0", "all 0"))
    if problems:
        fix = f"restore the weights, or delete {MASKS_FILE} to begin with a dense model"
        raise CompressionError("masks and weights contradict each other", problems, fix)


def fits_pattern(keep: Bools, removed: int, group: int) -> bool:
    """Whether every whole group of every row lacks at least `removed` weights."""
    whole = keep.shape[1] // group
    if whole == 0:
        return False
    kept = keep[:, : whole * group].reshape(keep.shape[0], whole, group).sum(axis=2)
    return bool((kept <= group - removed).all())


def check_survived(before: Mapping[str, Mask], after: Mapping[str, Mask]) -> None:
    """Raise CompressionError when a stage that keeps shapes gave removed weights back."""
    problems = []
    for name, mask in before.items():
        later = after.get(name)
        if later is None:
            problems.append(Problem(f"mask of {name}", "none", "the mask of the stage before"))
        elif later.keep.shape != mask.keep.shape or bool((later.keep & ~mask.keep).any()):
            problems.append(Problem(f"mask of {name}", "removed weights kept again", "removed"))
    if problems:
        raise CompressionError("a stage undid the pruning before it", problems)
