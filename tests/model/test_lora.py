"""PEFT adapters: merged exactly, zeros kept; everything that means something else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.model.tiny import encode_tensor, pack_safetensors, write_json, write_model
from toolchain.model.checkpoint import load_float_model, load_model
from toolchain.model.errors import CheckpointError, EdgecError, UnsupportedModelError
from toolchain.model.nm_pattern import Pattern
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.sparsity import find_patterns

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
F32 = npt.NDArray[np.float32]


def random(rows: int, columns: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def write_adapter(
    directory: Path, factors: dict[str, tuple[F32, F32]], drop: str = "", **values: Any
) -> None:
    """Factors (A, B) by module, as PEFT saves them."""
    directory.mkdir(exist_ok=True)
    tensors = {}
    for module, (down, up) in factors.items():
        for half, factor in (("A", down), ("B", up)):
            name = f"base_model.model.{module}.lora_{half}.weight"
            if name != drop:
                tensors[name] = encode_tensor(factor, "f32")
    (directory / "adapter_model.safetensors").write_bytes(pack_safetensors(tensors))
    rank = next(iter(factors.values()))[0].shape[0]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    write_json(directory / "adapter_config.json", config | values)


def factors_of(module: str = Q, rank: int = 3) -> dict[str, tuple[F32, F32]]:
    rows, columns = (16, 16) if module == Q else (16, 24)
    return {module: (random(rank, columns, 1), random(rows, rank, 2))}


def test_merged(tmp_path: Path) -> None:
    base = load_model(write_model(tmp_path)).load(f"{Q}.weight")
    down, up = factors_of()[Q]
    write_adapter(tmp_path, factors_of())
    model = load_model(tmp_path)
    expected = base.astype(np.float64) + 2 * up.astype(np.float64) @ down.astype(np.float64)
    np.testing.assert_allclose(model.load(f"{Q}.weight"), expected, rtol=1e-6, atol=1e-6)
    other = load_model(write_model(tmp_path / "plain"))
    np.testing.assert_array_equal(model.load(f"{DOWN}.weight"), other.load(f"{DOWN}.weight"))
    with pytest.raises(UnsupportedModelError, match="have an adapter"):
        load_float_model(tmp_path)


def test_scales_of_single_modules(tmp_path: Path) -> None:
    write_model(tmp_path)
    both = factors_of() | factors_of(DOWN, rank=2)
    patterns: dict[str, Any] = {
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.mlp.down_proj": 5},
    }
    write_adapter(tmp_path, both, use_rslora=True, **patterns)
    found = load_model(tmp_path).factors
    assert found[f"{Q}.weight"].scale == pytest.approx(6 / np.sqrt(3))
    assert found[f"{DOWN}.weight"].scale == pytest.approx(5 / np.sqrt(2))


def test_an_adapter_that_names_its_base(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    write_adapter(tmp_path / "adapter", factors_of(), base_model_name_or_path="../base")
    assert set(load_model(tmp_path / "adapter").factors) == {f"{Q}.weight"}
    write_adapter(tmp_path / "adapter", factors_of(), base_model_name_or_path="some/model")
    with pytest.raises(CheckpointError, match="base of the adapter is not there"):
        load_model(tmp_path / "adapter")


def test_a_pattern_stays(tmp_path: Path) -> None:
    write_model(tmp_path, pruned={"l00.attn.q_proj": Pattern(2, 4)}, hidden_size=16)
    base = load_model(tmp_path).load(f"{Q}.weight")
    write_adapter(tmp_path, factors_of())
    model = load_model(tmp_path)
    merged = model.load(f"{Q}.weight")
    np.testing.assert_array_equal(merged == 0, base == 0)
    assert (merged != base).any()
    quant = QuantConfig(bits=8, group_size=-1)
    assert find_patterns(model, quant)["l00.attn.q_proj"] == Pattern(2, 4)


def test_masks_say_what_is_removed(tmp_path: Path) -> None:
    write_model(tmp_path)
    keep = np.ones((16, 16), bool)
    keep[3, 5] = False
    packed = np.packbits(keep, axis=1, bitorder="little")
    facts = json.dumps({f"{Q}.weight": {"inputs": 16, "pattern": None}})
    from safetensors.numpy import save_file

    save_file({f"{Q}.weight": packed}, tmp_path / "masks.safetensors", {"masks": facts})
    write_adapter(tmp_path, factors_of())
    assert np.argwhere(load_model(tmp_path).load(f"{Q}.weight") == 0).tolist() == [[3, 5]]


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"peft_type": "LOHA"}, UnsupportedModelError, "peft_type"),
        ({"use_dora": True}, UnsupportedModelError, "use_dora"),
        ({"bias": "all"}, UnsupportedModelError, "bias"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModelError, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, UnsupportedModelError, "adapter of the base"),
        ({"r": 4}, CheckpointError, "3, the rank of the factors"),
        ({"r": 0}, CheckpointError, "r: found 0"),
        ({"drop": f"base_model.model.{Q}.lora_B.weight"}, CheckpointError, "lora_B of"),
    ],
)
def test_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[EdgecError], text: str
) -> None:
    write_model(tmp_path)
    write_adapter(tmp_path, factors_of(), **changes)
    with pytest.raises(error, match=text):
        load_model(tmp_path)


def test_refused_tensors(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_adapter(tmp_path, {Q: (random(3, 15, 0), random(16, 3, 0))})
    with pytest.raises(CheckpointError, match=r"\[3, 15\] and \[16, 3\], allowed \[rank, 16\]"):
        load_model(tmp_path)
    write_adapter(tmp_path, {"model.norm": (random(3, 16, 0), random(16, 3, 0))})
    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.lora_A"):
        load_model(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="a pickle"):
        load_model(tmp_path)
