"""Writes a GPTQ checkpoint by hand, from the layout of its tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file


def write_gptq(source: Path, target: Path, group: int) -> dict[str, npt.NDArray[np.float32]]:
    """Round `source` to 4 bits, symmetric, `group` inputs per scale; returns the real weights.

    Per linear of K inputs and N outputs: qweight int32 [K/8, N], eight inputs per word from the low
    nibble on, stored unsigned; scales float16 [K/group, N]; qzeros int32 [K/group, N/8], which
    holds the zero point less one; g_idx int32 [K].
    """
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    real = {name: values.astype(np.float32) for name, values in tensors.items()}
    packed: dict[str, npt.NDArray[np.generic]] = {}
    for name, values in tensors.items():
        if not name.endswith("_proj.weight"):
            packed[name] = values.astype(np.float16)
            real[name] = values.astype(np.float16).astype(np.float32)
            continue
        base = name.removesuffix(".weight")
        n_out, n_in = values.shape
        groups = values.reshape(n_out, n_in // group, group)
        scales = (np.abs(groups).max(axis=2) / 7).astype(np.float16)
        steps = scales.astype(np.float32)[:, :, None]
        codes = np.clip(np.rint(groups / steps), -8, 7).astype(np.int64)
        real[name] = (codes * steps).reshape(n_out, n_in).astype(np.float32)
        stored = (codes.reshape(n_out, n_in).T + 8).astype(np.uint32).reshape(n_in // 8, 8, n_out)
        shifts = np.arange(0, 32, 4, dtype=np.uint32)
        words = (stored << shifts[:, None]).sum(1).astype(np.uint32).view(np.int32)
        packed[f"{base}.qweight"] = np.ascontiguousarray(words)  # the order of its bytes is written
        zeros = np.full((n_in // group, n_out // 8), 0x77777777, np.int32)
        packed |= {f"{base}.qzeros": zeros, f"{base}.scales": np.ascontiguousarray(scales.T)}
        packed[f"{base}.g_idx"] = (np.arange(n_in) // group).astype(np.int32)
    save_file(packed, target / "model.safetensors", {"format": "pt"})
    settings = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "sym": True,
        "desc_act": False,
        "checkpoint_format": "gptq",
    }
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config |= {"quantization_config": settings, "torch_dtype": "float16"}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return real
