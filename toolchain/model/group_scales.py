"""Symmetric round-to-nearest of a weight matrix with group scales, on plain arrays.

A weight is value * multiplier * scale: `scale` real per output row, `multiplier` an integer 1..255
per group of columns, `value` an integer of `bits` bits. The last group of a row may be partial.
The clipping of each group is searched to minimise the squared error, and the values are rounded
against multiplier * scale, so that the integer model and its float image have the same weights.

Elementwise float operations and sums only, no BLAS: the result does not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

MAX_MULTIPLIER = 255

# Steps tried, as ratios to amax / (largest value + 1/2). Long groups of few bits clip most, short
# ones gain from a step beyond amax. Measured on Gaussian groups, the best ratio lies within these
# bounds for 97 % of the groups of 32 to 4096 weights, and for 85 % of those of 8.
_LOWEST_RATIO = {2: 0.35, 3: 0.45, 4: 0.5, 5: 0.6, 6: 0.7, 7: 0.8, 8: 0.88}
_HIGHEST_RATIO = 1.25
_RATIOS = 64
_POLISH_ROUNDS = 2
_HUGE_STEP = 1e30
_BLOCK_ELEMS = 1 << 18  # a block's buffers stay in the cache, and memory does not grow with n_out


@dataclass(frozen=True, slots=True, eq=False)
class GroupQuant:
    """A quantized matrix and, per row, the squared error against the original and its power."""

    values: npt.NDArray[np.int8]  # (n_out, n_in)
    multipliers: npt.NDArray[np.uint8]  # (n_out, n_groups)
    scale: F64  # (n_out,), > 0
    squared_error: F64  # (n_out,)
    power: F64  # (n_out,), sum of squared weights


def integer_range(bits: int) -> tuple[int, int]:
    """Lowest and highest value; 8 bits stay symmetric, as int8 activations do."""
    return (-127, 127) if bits == 8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def quantize_matrix(weights: F32, bits: int, group_size: int) -> GroupQuant:
    """Quantize finite `weights` (n_out, n_in) to 2..8 bits in groups of `group_size` columns.

    `group_size` is 1..n_in. The squared error of each row is at most that of `plain_rtn`. A row of
    zeros gets values 0, multipliers 1 and the largest scale of the other rows (or 2^-10).
    """
    rows = max(1, _BLOCK_ELEMS // weights.shape[1])
    blocks = [
        _quantize_block(weights[start : start + rows], bits, group_size)
        for start in range(0, weights.shape[0], rows)
    ]
    scale = np.concatenate([block.scale for block in blocks])
    # Exponents of requantisation follow the scale, so an arbitrary one would widen their range.
    neutral = scale.max() if scale.any() else 2.0**-10
    return GroupQuant(
        values=np.concatenate([block.values for block in blocks]),
        multipliers=np.concatenate([block.multipliers for block in blocks]),
        scale=np.where(scale > 0, scale, neutral),
        squared_error=np.concatenate([block.squared_error for block in blocks]),
        power=np.concatenate([block.power for block in blocks]),
    )


def plain_rtn(groups: F64, bits: int) -> tuple[F64, F64]:
    """Multipliers (n_out, n_groups) and scale (n_out,) without a search: amax spans the range."""
    amax = np.abs(groups).max(axis=2)
    return combine_scales(amax * _unclipped_step(bits))


def split_groups(weights: F32, group_size: int) -> F64:
    """Columns in groups, zero-padded at the end: (n_out, n_groups, group_size)."""
    n_out, n_in = weights.shape
    n_groups = -(-n_in // group_size)
    padded = np.zeros((n_out, n_groups * group_size))
    padded[:, :n_in] = weights
    return padded.reshape(n_out, n_groups, group_size)


def combine_scales(group_scales: F64) -> tuple[F64, F64]:
    """Group scales (n_out, n_groups) >= 0 as integer multipliers 1..255 times a row scale.

    The largest group gets 255. One group per row needs no multiplier: it stays exact with 1.
    """
    if group_scales.shape[1] == 1:
        return np.ones_like(group_scales), group_scales[:, 0]
    scale = group_scales.max(axis=1) / MAX_MULTIPLIER
    divisor = np.where(scale > 0, scale, 1.0)
    return np.clip(np.rint(group_scales / divisor[:, None]), 1, MAX_MULTIPLIER), scale


def search_steps(columns: F32, bits: int) -> F32:
    """Step of least squared error per column of `columns` (group_size, m), each within [-1, 1].

    First a grid of clip ratios, then Lloyd rounds: with the integers q fixed, the best step is
    <x, q> / <q, q>; rounding anew can only lower the error further.
    """
    low, high = integer_range(bits)
    unclipped = _unclipped_step(bits)
    ratios = [*np.linspace(_LOWEST_RATIO[bits], _HIGHEST_RATIO, _RATIOS), 1 / (unclipped * high)]
    best_error: F32 = np.full(columns.shape[1], np.inf, dtype=np.float32)
    best: F32 = np.ones(columns.shape[1], dtype=np.float32)
    for ratio in ratios:
        step: F32 = np.full_like(best, unclipped * ratio)
        best, best_error = _keep_better(columns, step, bits, best, best_error)
    for _ in range(_POLISH_ROUNDS):
        q = np.clip(np.rint(columns / best), low, high)
        norm = (q * q).sum(axis=0)
        step = np.where(norm > 0, (columns * q).sum(axis=0) / np.maximum(norm, 1), best)
        best, best_error = _keep_better(columns, step, bits, best, best_error)
    return best


def _quantize_block(weights: F32, bits: int, group_size: int) -> GroupQuant:
    groups = split_groups(weights, group_size)
    plain = _round_rows(groups, *plain_rtn(groups, bits), bits)
    searched = _round_rows(groups, *_searched_scales(groups, bits), bits)
    better = searched.squared_error < plain.squared_error
    values = np.where(better[:, None], searched.values, plain.values)
    return GroupQuant(
        values=values[:, : weights.shape[1]],
        multipliers=np.where(better[:, None], searched.multipliers, plain.multipliers),
        scale=np.where(better, searched.scale, plain.scale),
        squared_error=np.where(better, searched.squared_error, plain.squared_error),
        power=plain.power,
    )


def _searched_scales(groups: F64, bits: int) -> tuple[F64, F64]:
    """Multipliers and row scale of least squared error, both searched."""
    n_out, n_groups, group_size = groups.shape
    amax = np.abs(groups).max(axis=2)
    safe_amax = np.where(amax > 0, amax, 1.0)
    # Groups become columns: then every numpy operation runs along contiguous groups.
    flat = (groups / safe_amax[:, :, None]).reshape(n_out * n_groups, group_size)
    columns = np.ascontiguousarray(flat.T, dtype=np.float32)
    steps = search_steps(columns, bits).reshape(n_out, n_groups)
    multipliers, scale = combine_scales(steps * amax)
    if n_groups == 1:
        return multipliers, scale
    relative_scale = scale[:, None] / safe_amax
    return _refine_multipliers(columns, multipliers, relative_scale, bits), scale


def _refine_multipliers(columns: F32, multipliers: F64, relative_scale: F64, bits: int) -> F64:
    """The best of each multiplier and its neighbours, now that the row scale is fixed."""
    best_error: F32 = np.full(columns.shape[1], np.inf, dtype=np.float32)
    best: F32 = np.ones(columns.shape[1], dtype=np.float32)
    chosen: F64 = multipliers.reshape(-1)
    for change in (0, -1, 1, -2, 2):
        candidate = np.clip(multipliers + change, 1, MAX_MULTIPLIER)
        # A step far beyond the group rounds it to zeros; bounded, so that it stays finite.
        step = np.minimum(candidate * relative_scale, _HUGE_STEP).astype(np.float32).reshape(-1)
        step[step == 0] = 1  # a row of zeros
        best, error = _keep_better(columns, step, bits, best, best_error)
        chosen = np.where(error < best_error, candidate.reshape(-1), chosen)
        best_error = error
    return chosen.reshape(multipliers.shape)


def _keep_better(columns: F32, step: F32, bits: int, best: F32, best_error: F32) -> tuple[F32, F32]:
    """Per column the step of lower squared error, and that error; ties keep `best`."""
    low, high = integer_range(bits)
    rounded = columns / step
    np.rint(rounded, out=rounded)
    np.clip(rounded, low, high, out=rounded)
    rounded *= step
    rounded -= columns
    rounded *= rounded
    error = rounded.sum(axis=0)
    better = error < best_error
    return np.where(better, step, best), np.where(better, error, best_error)


def _round_rows(groups: F64, multipliers: F64, scale: F64, bits: int) -> GroupQuant:
    """Values for given scales; padding columns are still there."""
    low, high = integer_range(bits)
    steps = (multipliers * scale[:, None])[:, :, None]
    values = np.clip(np.rint(groups / np.where(steps > 0, steps, 1.0)), low, high)
    return GroupQuant(
        values=values.astype(np.int8).reshape(groups.shape[0], -1),
        multipliers=multipliers.astype(np.uint8),
        scale=scale,
        squared_error=((values * steps - groups) ** 2).sum(axis=(1, 2)),
        power=(groups**2).sum(axis=(1, 2)),
    )


def _unclipped_step(bits: int) -> float:
    """Step for amax = 1. Half a step beyond the highest value still rounds to it, except at 8
    bits, where -127 and 127 are alike and amax lands on 127.
    """
    high = integer_range(bits)[1]
    return 1 / 127 if bits == 8 else 1 / (high + 0.5)
