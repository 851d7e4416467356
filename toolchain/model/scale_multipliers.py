"""Real group scales -> integer multipliers and a row scale, for codes that must not change.

A group's scale s becomes m * S with m in 1..255 and S real per output. Per row the best of the
possible largest multipliers is taken, and S by least squares, both weighted with the sum of squared
codes: the squared error of the weights is least among them. One group per row stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolchain.model.group_scales import MAX_MULTIPLIER

F64 = npt.NDArray[np.float64]
_LOWEST_TOP = 128  # below, doubling all multipliers is at least as good


@dataclass(frozen=True, slots=True, eq=False)
class RowScales:
    """Multipliers and scales of a matrix, and what they change."""

    multipliers: npt.NDArray[np.uint8]  # (n_out, n_groups), 1..255
    scale: F64  # (n_out,), > 0
    squared_error: float  # of the weights
    power: float  # of the weights
    largest_change: float  # relative, of the scale of a group with a code other than 0


def fit_scales(scales: F64, energy: F64) -> RowScales:
    """Both arguments (n_out, n_groups) and >= 0; `energy` is the sum of squared codes of a group.

    A row without weights other than 0 gets multipliers 1 and the largest scale of the others, or
    2^-10.
    """
    weights = np.where(scales > 0, energy, 0.0)
    power = (weights * scales**2).sum(axis=1)
    if scales.shape[1] == 1:
        multipliers, scale = np.ones_like(scales), scales[:, 0].copy()
    else:
        multipliers, scale = _search(scales, weights)
    neutral = scale[scale > 0].max(initial=0.0) or 2.0**-10
    scale = np.where(scale > 0, scale, neutral)
    real = multipliers * scale[:, None]
    counted = weights > 0
    change = np.abs(real / np.where(counted, scales, 1.0) - 1)[counted]
    return RowScales(
        multipliers.astype(np.uint8),
        scale,
        float((weights * (real - scales) ** 2).sum()),
        float(power.sum()),
        float(change.max(initial=0.0)),
    )


def _search(scales: F64, weights: F64) -> tuple[F64, F64]:
    """Multipliers and S that leave the least of sum of weights * (scales - m S)^2 per row."""
    top = np.where(weights > 0, scales, 0.0).max(axis=1, keepdims=True)
    relative = scales / np.where(top > 0, top, 1.0)
    best: F64 = np.ones_like(scales)
    scale: F64 = np.zeros(len(scales))
    best_explained: F64 = np.zeros(len(scales))
    for largest in range(MAX_MULTIPLIER, _LOWEST_TOP - 1, -1):
        candidate = np.clip(np.rint(relative * largest), 1, MAX_MULTIPLIER)
        along = (weights * scales * candidate).sum(axis=1)
        norm = (weights * candidate**2).sum(axis=1)
        safe = np.where(norm > 0, norm, 1.0)
        # The error is power - along^2 / norm.
        explained = along**2 / safe
        better = explained > best_explained
        best_explained = np.where(better, explained, best_explained)
        best = np.where(better[:, None], candidate, best)
        scale = np.where(better, along / safe, scale)
    return best, scale
