"""Rotary embedding angles from RopeConfig, in float64.

Only the compiler calls this: firmware and simulator get integer tables made from these angles.
Pairing is the Hugging Face one: angle i turns elements i and i + head_dim / 2 of a head.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from toolchain.model.config import RopeConfig


def rope_angles(config: RopeConfig, head_dim: int, positions: int) -> npt.NDArray[np.float64]:
    """Angle in radians of every position and pair, (positions, head_dim // 2)."""
    frequencies = np.array([_frequency(config, head_dim, i) for i in range(head_dim // 2)])
    return np.outer(np.arange(positions, dtype=np.float64), frequencies)


def _frequency(config: RopeConfig, head_dim: int, pair: int) -> float:
    """Radians per position. Base: RoFormer (arXiv 2104.09864), theta ** (-2 i / head_dim)."""
    base = math.pow(config.theta, -2 * pair / head_dim)
    if config.kind == "linear":  # position interpolation, arXiv 2306.15595
        return base / config.factor
    if config.kind == "llama3":
        return _llama3(config, base)
    return base


def _llama3(config: RopeConfig, base: float) -> float:
    """Llama 3.1: stretch long wavelengths by `factor`, keep short ones, blend in between.

    Source: `_compute_llama3_parameters` in transformers (modeling_rope_utils.py), after Meta's
    reference code. `turns` is how often the pair turns within the original context.
    """
    turns = config.original_context * base / (2 * math.pi)
    if turns < config.low_freq_factor:
        return base / config.factor
    if turns > config.high_freq_factor:
        return base
    span = config.high_freq_factor - config.low_freq_factor
    blend = (turns - config.low_freq_factor) / span
    return (1 - blend) * base / config.factor + blend * base
