"""The simulator against the running prototype of the arithmetic: the same integers, every logit.

The prototype pairs adjacent elements in RoPE, the checkpoint pairs halves: rows of q and k are
permuted, which leaves every score unchanged.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sim.session import Session
from tests.paths import SHARED, STORIES, needs_shared
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.lower import lower_model
from toolchain.model.outline import SITES, LowerConfig
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig, QuantModel, QuantTensor, quantize_model

pytestmark = needs_shared
PROTOTYPE_LINEARS = {
    "wq": "attn.q_proj",
    "wk": "attn.k_proj",
    "wv": "attn.v_proj",
    "wo": "attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}


@pytest.fixture(scope="module")
def prototype() -> ModuleType:
    sys.path.insert(0, str(SHARED / "reference"))
    try:
        import isim  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    module: ModuleType = isim
    return module


@pytest.fixture(scope="module")
def stories() -> FloatModel:
    return load_model(STORIES)


def adjacent_pairs(rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Rows of q or k from half-split to adjacent RoPE pairs."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.swapaxes(halves, 1, 2).reshape(rows.shape)


def prototype_linear(isim: ModuleType, tensor: QuantTensor, permute: int = 0) -> Any:
    linear = isim.QLin()
    columns = tensor.values.shape[1]
    multipliers = np.repeat(tensor.multipliers.astype(np.int64), tensor.group_size, axis=1)
    ints = tensor.values * multipliers[:, :columns]
    scale = tensor.scale
    if permute:
        ints, scale = adjacent_pairs(ints, permute), adjacent_pairs(scale, permute)
    linear.Wi, linear.S, linear.K, linear.O = ints, scale, columns, len(ints)
    return linear


def prototype_model(isim: ModuleType, model: FloatModel, quant: QuantModel, mode: str) -> Any:
    config = model.config
    shape = SimpleNamespace(
        dim=config.hidden_size,
        hid=config.intermediate_size,
        L=config.num_layers,
        nh=config.num_heads,
        nkv=config.num_kv_heads,
        V=config.vocab_size,
        seq=config.max_position_embeddings,
        hs=config.head_dim,
        eps=config.rms_norm_eps,
        theta=config.rope.theta,
    )
    layers = range(config.num_layers)
    linears = {
        short: [
            prototype_linear(
                isim,
                quant.linears[f"l{i:02d}.{name}"],
                config.head_dim if short in ("wq", "wk") else 0,
            )
            for i in layers
        ]
        for short, name in PROTOTYPE_LINEARS.items()
    }
    linears["emb"] = linears["cls"] = prototype_linear(isim, quant.embed)
    norms = {
        "rms_att": [quant.norms[f"l{i:02d}.attn.norm"] for i in layers],
        "rms_ffn": [quant.norms[f"l{i:02d}.mlp.norm"] for i in layers],
        "rms_fin": quant.norms["final.norm"],
    }
    modes = dict.fromkeys(("xa", "xf", "xl", "o", "a"), mode)
    return isim.Model(shape, norms, F=16, FR=12, opt={"mode": modes}, ql=linears)


@pytest.mark.parametrize("mode", list(ActMode))
@pytest.mark.parametrize("group_size", [32, -1])
def test_every_logit_equals_the_prototype(
    prototype: ModuleType, stories: FloatModel, mode: ActMode, group_size: int
) -> None:
    quant = quantize_model(stories, QuantConfig(group_size=group_size))
    reference = prototype_model(prototype, stories, quant, "hl" if mode is ActMode.A16 else "8")
    config = LowerConfig(context=512, modes=dict.fromkeys(SITES, mode))
    program = lower_model(quant, config)
    tokens = np.random.default_rng(5).integers(0, 512, 96)
    logits = Session(program, program.constants).forward(tokens)
    expected = np.rint(reference.forward(tokens) * 65536).astype(np.int64)
    assert (logits == expected).all()
