"""Low-rank adapters in the layout of PEFT: adapter_config.json and adapter_model.safetensors.

y = W x + B (A x); `lora_A` is (rank, n_in), `lora_B` (n_out, rank), the scale lora_alpha / r is 1.
The directory holds no model: `base_model_name_or_path` is the path of the base, relative to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open

from toolchain.compress.checkpoint import Tensor, write_json
from toolchain.compress.tensor_files import save_tensors
from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.json_fields import read_json_object
from toolchain.model.lora import CONFIG_FILE, WEIGHTS_FILE

PREFIX = "base_model.model."
DOWN, UP = "lora_A.weight", "lora_B.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Factors (A, B) by module name."""

    rank: int
    by_module: Mapping[str, tuple[Tensor, Tensor]]

    def factors(self, module: str) -> tuple[Tensor, Tensor] | None:
        """A (rank, n_in) and B (n_out, rank) of a module, None for one without an adapter."""
        return self.by_module.get(module)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and no model of its own."""
    return (directory / CONFIG_FILE).is_file() and not (directory / "config.json").is_file()


def base_of(directory: Path) -> Path:
    """The directory of the base model; raises CheckpointError when it is not there."""
    name = str(read_json_object(directory / CONFIG_FILE).get("base_model_name_or_path"))
    base = directory / name
    if (base / "config.json").is_file():
        return base
    problem = Problem(f"{directory / CONFIG_FILE}: base_model_name_or_path", name, "a checkpoint")
    raise CheckpointError("the base of the adapter is not there", [problem])


def write_adapter(out: Path, adapter: Adapter, base: str) -> None:
    """Both files; `base` is the path of the base relative to the final directory."""
    tensors = {
        f"{PREFIX}{module}.{part}": factor.contiguous().cpu()
        for module, factors in adapter.by_module.items()
        for part, factor in zip((DOWN, UP), factors, strict=True)
    }
    save_tensors(tensors, out / WEIGHTS_FILE, {"format": "pt"})
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "r": adapter.rank,
        "target_modules": sorted({module.rsplit(".", 1)[1] for module in adapter.by_module}),
    }
    write_json(out / CONFIG_FILE, config)


def read_adapter(directory: Path) -> Adapter:
    """The adapter of a directory that `is_adapter` accepts; its scale is multiplied into B."""
    config = cast("dict[str, Any]", read_json_object(directory / CONFIG_FILE))
    scale = float(config["lora_alpha"]) / float(config["r"])
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    with safe_open(directory / WEIGHTS_FILE, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no dict
            tensor = file.get_tensor(name).float()
            if name.endswith(DOWN):
                down[name.removeprefix(PREFIX).removesuffix(f".{DOWN}")] = tensor
            else:
                up[name.removeprefix(PREFIX).removesuffix(f".{UP}")] = tensor * scale
    return Adapter(int(config["r"]), {module: (down[module], up[module]) for module in down})
