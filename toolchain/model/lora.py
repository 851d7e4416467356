"""PEFT adapters: adapter_config.json and adapter_model.safetensors, merged or kept as factors.

y = W x + s B (A x) with A (rank, n_in), B (n_out, rank) and s = alpha / r, or alpha / sqrt(r) with
use_rslora (PEFT's definitions). Beside a float checkpoint the product is added to W before the
quantization. Nothing is unpickled: adapter_model.bin is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt

from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.json_fields import FieldReader, ProblemLog, read_json_object, show
from toolchain.model.safetensors_file import FLOAT_SIZES, TensorRef, read_header

CONFIG_FILE, WEIGHTS_FILE, PICKLED_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
MAX_RANK = 1 << 12
_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# What changes the product or the base in a way that adding B A does not express.
_MUST_BE_FALSE = ("use_dora", "fan_in_fan_out", "use_qalora", "lora_bias")
_MUST_BE_EMPTY = ("modules_to_save", "alora_invocation_tokens", "target_parameters")
_CHANGED_BASE = ("pissa", "olora", "loftq", "corda")  # initialisations that replace W, too

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Factors:
    """Where A and B of one matrix lie; their product counts `scale` times."""

    down: TensorRef  # A, (rank, n_in)
    up: TensorRef  # B, (n_out, rank)
    scale: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.down.shape[0]

    def merged(self, weights: F32, keep: npt.NDArray[np.bool_] | None) -> F32:
        """float32(W + scale * B A) with the sum in float64; 0 where `keep` is False.

        One rank after the other, elementwise: the result does not depend on the machine.
        """
        down, up = self.down.read().astype(np.float64), self.up.read().astype(np.float64)
        total = weights.astype(np.float64)
        for rank in range(self.rank):
            total += (self.scale * up[:, rank])[:, None] * down[rank]
        if keep is not None:
            total[~keep] = 0.0
        return total.astype(np.float32)


def is_adapter(directory: Path) -> bool:
    """Whether an adapter lies in a directory, alone or beside a model."""
    return (directory / CONFIG_FILE).is_file()


def base_directory(directory: Path) -> Path:
    """The directory of the model: of an adapter alone, the one that it names.

    The name is a path, relative to the adapter or to the working directory. Raises CheckpointError
    when no model is there; nothing is downloaded.
    """
    if (directory / "config.json").is_file() or not is_adapter(directory):
        return directory
    name = read_json_object(directory / CONFIG_FILE).get("base_model_name_or_path")
    if isinstance(name, str):
        for base in (directory / name, Path(name)):
            if (base / "config.json").is_file():
                return base
    where = f"base_model_name_or_path in {CONFIG_FILE}"
    problem = Problem(where, show(name), "a directory with config.json")
    raise CheckpointError("the base of the adapter is not there", [problem])


def read_factors(
    directory: Path, shapes: Mapping[str, tuple[int, ...]], log: ProblemLog
) -> Mapping[str, Factors]:
    """Factors by name of the weight; `shapes` has every matrix that may have some.

    Problems of both files go to `log`; without an adapter the result is empty.
    """
    if not is_adapter(directory):
        return MappingProxyType({})
    values = read_json_object(directory / CONFIG_FILE)
    fields = FieldReader(values, f"{CONFIG_FILE}: ", log)
    _check_config(fields)
    path = directory / WEIGHTS_FILE
    if not path.exists() and (directory / PICKLED_FILE).exists():
        fix = "save the adapter as safetensors"
        log.add_broken(str(directory), f"{PICKLED_FILE}, a pickle", WEIGHTS_FILE, fix)
        return MappingProxyType({})
    stored = read_header(path, log) or {}
    halves: dict[str, dict[str, TensorRef]] = {}
    for name, ref in stored.items():
        match = _NAME.fullmatch(name)
        weight = f"{match[1]}.weight" if match else ""
        if match is None or len(shapes.get(weight, ())) != 2:
            log.add_unsupported(f"tensor {show(name)}", "an adapter", "lora_A, lora_B of linears")
        elif ref is not None:
            halves.setdefault(weight, {})[match[2]] = ref
    found = {}
    for weight, parts in halves.items():
        if _check_halves(weight, parts, shapes[weight], log):
            scale = _scale(values, fields, weight.removesuffix(".weight"), parts["A"].shape[0])
            found[weight] = Factors(parts["A"], parts["B"], scale)
    return MappingProxyType(found)


def _check_config(fields: FieldReader) -> None:
    if fields.text("peft_type") != "LORA" and fields.good("peft_type"):
        fields.unsupported("peft_type", fields.raw("peft_type"), '"LORA"')
    for key in _MUST_BE_FALSE:
        if fields.boolean(key, default=False):
            fields.unsupported(key, True, "false")
    for key in _MUST_BE_EMPTY:
        if fields.raw(key):
            fields.unsupported(key, fields.raw(key), "null")
    if fields.text("bias", default="none") != "none" and fields.good("bias"):
        fields.unsupported("bias", fields.raw("bias"), '"none"')
    start = fields.raw("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        fix = "convert it with save_pretrained(path_initial_model_for_weight_conversion=...)"
        fields.unsupported("init_lora_weights", start, f"an adapter of the base itself; {fix}")


def _check_halves(
    weight: str, parts: Mapping[str, TensorRef], shape: tuple[int, ...], log: ProblemLog
) -> bool:
    rows, columns = shape
    for half in "AB":
        if half not in parts:
            log.add_broken(f"lora_{half} of {weight}", "nothing", "both factors")
            return False
        if parts[half].dtype not in FLOAT_SIZES:
            allowed = f"one of {', '.join(FLOAT_SIZES)}"
            log.add_unsupported(f"lora_{half} of {weight}", parts[half].dtype, allowed)
            return False
    down, up = parts["A"].shape, parts["B"].shape
    good = len(down) == 2 and down[1] == columns and up == (rows, down[0]) and down[0] > 0
    if not good:
        allowed = f"[rank, {columns}] and [{rows}, rank]"
        log.add_broken(f"factors of {weight}", f"{list(down)} and {list(up)}", allowed)
    return good


def _scale(values: Mapping[str, object], fields: FieldReader, module: str, rank: int) -> float:
    """alpha / r of a module, as PEFT has it; the factors' own rank must be the one it says."""
    default_rank = fields.integer("r", 1, MAX_RANK)
    default_alpha = fields.number("lora_alpha", 0.0, 1e9)
    said = _of_pattern(values.get("rank_pattern"), module, default_rank)
    alpha = _of_pattern(values.get("alpha_pattern"), module, default_alpha)
    if said != rank and fields.good("r"):
        fields.broken("r", said, f"{rank}, the rank of the factors of {module}")
    return alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)


def _of_pattern(value: object, module: str, default: float) -> float:
    """The entry of rank_pattern or alpha_pattern whose key is the end of the module's name."""
    entries = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    for key, entry in entries.items():
        fits = re.match(rf"(.*\.)?({key})$", module)
        if fits and isinstance(entry, int | float) and not isinstance(entry, bool):
            return float(entry)
    return default
