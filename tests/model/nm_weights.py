"""Matrices with N:M patterns, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolchain.model.nm_pattern import Pattern


def remove(
    weights: npt.NDArray[Any], pattern: Pattern, rng: np.random.Generator
) -> npt.NDArray[Any]:
    """A copy of `weights` (n_out, n_in) with N random zeros in every whole group."""
    result = weights.copy()
    rows, columns = weights.shape
    groups = pattern.groups_of(columns)
    order = np.argsort(rng.random((rows, groups, pattern.group)), axis=2)
    where = np.arange(groups)[:, None] * pattern.group + order[:, :, : pattern.removed]
    np.put_along_axis(result, where.reshape(rows, groups * pattern.removed), 0, axis=1)
    return result
