from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from toolchain.model.config import RopeConfig
from toolchain.model.rope import rope_angles


def test_default_by_hand() -> None:
    angles = rope_angles(RopeConfig(10000.0, "default"), head_dim=4, positions=3)
    assert angles.dtype == np.float64
    np.testing.assert_allclose(angles, [[0.0, 0.0], [1.0, 0.01], [2.0, 0.02]], rtol=1e-15)


def test_linear_divides_positions() -> None:
    angles = rope_angles(RopeConfig(10000.0, "linear", factor=4.0), head_dim=4, positions=2)
    np.testing.assert_allclose(angles[1], [0.25, 0.0025], rtol=1e-15)


def test_llama3_by_hand() -> None:
    # Turns within 64 positions: pair 0 about 10.2 (kept), pair 1 about 3.22 (blended), pair 2
    # about 1.02 (blended), pair 3 about 0.32 (divided). theta 100 and head_dim 8: 10 ** (-i / 2).
    config = RopeConfig(100.0, "llama3", 8.0, 1.0, 4.0, original_context=64)
    turns = 64 / math.sqrt(10) / (2 * math.pi)
    blend = (turns - 1) / 3
    angles = rope_angles(config, head_dim=8, positions=2)[1]
    assert angles[0] == 1.0
    assert angles[1] == pytest.approx((1 - blend) / 8 / math.sqrt(10) + blend / math.sqrt(10))
    assert angles[2] == pytest.approx(0.1 * (0.125 + 0.875 * (6.4 / (2 * math.pi) - 1) / 3))
    assert angles[3] == pytest.approx(10**-1.5 / 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head_dim", [6, 64])
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (RopeConfig(500000.0, "default"), {"rope_type": "default"}),
        (RopeConfig(10000.0, "linear", 2.5), {"rope_type": "linear", "factor": 2.5}),
        (
            RopeConfig(500000.0, "llama3", 8.0, 1.0, 4.0, 8192),
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
    ],
)
def test_equals_transformers(config: RopeConfig, parameters: dict[str, Any], head_dim: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    hf_config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=16384,
        rope_parameters={**parameters, "rope_theta": config.theta},
    )
    inverse_frequencies = LlamaRotaryEmbedding(hf_config).inv_freq.double().numpy()
    ours = rope_angles(config, head_dim, 2)[1]
    np.testing.assert_allclose(ours, inverse_frequencies, rtol=1e-6)  # theirs is float32
