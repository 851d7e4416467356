"""Checkpoints with quantized projections beside the float rest: written, and read back.

`quantize_config.json` (also `quantization_config` of config.json) names the format: `gptq` and
`gptq_v2` as GPTQModel reads them, `bitsandbytes` for NF4 and LLM.int8(). Bits that differ from
module to module stand under `dynamic`, as GPTQModel has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from toolchain.compress.adapter import Adapter, base_of, is_adapter, read_adapter
from toolchain.compress.checkpoint import (
    BLOCK_SUFFIXES,
    Block,
    Source,
    Tensor,
    Writer,
    block_name,
    write_json,
)
from toolchain.compress.gptq_format import V1, CodeMatrix, read_codes
from toolchain.compress.llm_int8 import Int8Matrix, read_int8
from toolchain.compress.masks import Mask, read_masks
from toolchain.compress.nf4 import Nf4Matrix, read_nf4
from toolchain.compress.tensor_directory import TensorDirectory
from toolchain.model.checkpoint import FloatModel
from toolchain.model.config import parse_config
from toolchain.model.errors import CompressionError, Problem
from toolchain.model.gptq_settings import SETTINGS_FILE
from toolchain.model.json_fields import ProblemLog, read_json_object
from toolchain.model.names import LINEAR_SUFFIXES

Matrix = CodeMatrix | Nf4Matrix | Int8Matrix
Settings = dict[str, Any]


def is_quantized(directory: Path) -> bool:
    """Whether a directory holds a checkpoint that `write_config` finished."""
    return (directory / SETTINGS_FILE).is_file()


def module_of(name: str) -> str:
    """Name of the module of a weight."""
    return name.removesuffix(".weight")


def add_matrix(writer: Writer, name: str, matrix: Matrix, settings: Settings) -> None:
    """Hands the tensors of one quantized weight to the writer."""
    module = module_of(name)
    if isinstance(matrix, CodeMatrix):
        tensors = matrix.tensors(module, str(settings["checkpoint_format"]))
    else:
        tensors = matrix.tensors(module)
    for key, tensor in tensors.items():
        writer.add(key, tensor)


def write_config(out: Path, settings: Settings) -> None:
    """Both places of the settings; the last step of writing a quantized checkpoint."""
    write_json(out / SETTINGS_FILE, settings)
    values = read_json_object(out / "config.json")
    write_json(out / "config.json", values | {"quantization_config": settings})


def gptq_settings(bits: Mapping[str, int], **common: Any) -> Settings:
    """quantize_config.json of integer codes; `bits` by weight name, `common` may hold any key."""
    usual = max(set(bits.values()), key=lambda value: (list(bits.values()).count(value), value))
    dynamic = {
        f"+:^{re.escape(module_of(name))}$": {"bits": value}
        for name, value in bits.items()
        if value != usual
    }
    settings = {
        "bits": usual,
        "lm_head": False,
        "quant_method": "gptq",
        "pack_dtype": "int32",
        **common,
    }
    return settings | ({"dynamic": dynamic} if dynamic else {})


def bits_of(settings: Mapping[str, Any], module: str) -> int:
    """Bits of a module's codes."""
    for pattern, values in cast("dict[str, Any]", settings.get("dynamic") or {}).items():
        if re.match(pattern.removeprefix("+:"), module):
            return int(values["bits"])
    return int(settings["bits"])


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedSource(Source):
    """A quantized checkpoint as a stage or a perplexity reads it; weights decode to float32."""

    settings: Settings = field(default_factory=dict)
    tensors: TensorDirectory = field(default_factory=lambda: TensorDirectory({}))
    adapter: Adapter | None = None

    @staticmethod
    def open(directory: Path) -> QuantizedSource:
        """A quantized checkpoint, or an adapter on one; CheckpointError for what is neither."""
        adapter = read_adapter(directory) if is_adapter(directory) else None
        base = directory if adapter is None else base_of(directory)
        settings = cast("Settings", read_json_object(base / SETTINGS_FILE))
        values = read_json_object(base / "config.json")
        values.pop("quantization_config", None)
        log = ProblemLog()
        config = parse_config(values, log)
        log.raise_if_any(f"the checkpoint {base}")
        tensors, model = TensorDirectory.open(base), FloatModel(config, {})
        return QuantizedSource(base, model, read_masks(base), settings, tensors, adapter)

    def stored(self, name: str) -> Tensor:
        """A weight on the CPU: decoded to float32 where it is quantized, without the adapter."""
        matrix = self.matrix(name)
        if matrix is not None:
            return matrix.decode()
        return self.tensors.load(name)

    def matrix(self, name: str) -> Matrix | None:
        """The quantized form of a weight; None for one that is stored as floats."""
        module = module_of(name)
        if f"{module}.qweight" in self.tensors.files:
            checkpoint_format = str(self.settings.get("checkpoint_format", V1))
            bits = bits_of(self.settings, module)
            return read_codes(self.tensors.of_module(module), module, bits, checkpoint_format)
        if f"{name}.absmax" in self.tensors.files:
            return read_nf4(self.tensors.of_module(module), module)
        if f"{module}.SCB" in self.tensors.files:
            return read_int8(self.tensors.of_module(module), module)
        return None

    def block(self, index: int, device: str) -> Block:
        """Weights of a block by suffix; what computes in another way comes as a function."""
        found: Block = {}
        for suffix in BLOCK_SUFFIXES:
            name = block_name(index, suffix)
            matrix = self.matrix(name) if suffix in LINEAR_SUFFIXES else None
            weight = self.stored(name) if matrix is None else matrix.decode()
            found[suffix] = weight.to(device=device, dtype=torch.float32)
            factors = self.adapter.factors(module_of(name)) if self.adapter else None
            if factors is not None:
                down, up = (part.to(device=device, dtype=torch.float32) for part in factors)
                found[suffix] = found[suffix] + up @ down
            elif isinstance(matrix, Int8Matrix):
                found[suffix] = matrix.project
        return found


def open_any(directory: Path) -> Source:
    """A float checkpoint, a quantized one, or an adapter on a quantized one."""
    quantized = is_quantized(directory) or is_adapter(directory)
    return QuantizedSource.open(directory) if quantized else Source.open(directory)


def check_zeros(source: Source, masks: Mapping[str, Mask]) -> None:
    """Raise CompressionError with every removed weight that does not decode to exactly 0."""
    problems = []
    for name, mask in masks.items():
        alive = int(torch.count_nonzero(source.stored(name)[torch.from_numpy(~mask.keep)]))
        if alive:
            problems.append(Problem(f"weights of {name}", f"{alive} removed but not 0", "all 0"))
    if problems:
        raise CompressionError("masks and weights contradict each other", problems)
