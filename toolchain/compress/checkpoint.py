"""Float checkpoints as the stages see them: one block in memory at a time, in and out.

`Source` reads a Hugging Face directory with safetensors; `Writer` writes one of the same dtype,
tensor by tensor, in shards, with the tokenizer and the changed config.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolchain.compress.masks import MASKS_FILE, Mask, read_masks, write_masks
from toolchain.compress.tensor_files import save_tensors
from toolchain.model.checkpoint import INDEX_FILE, SINGLE_FILE, FloatModel, load_float_model
from toolchain.model.config import ModelConfig, read_config
from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.json_fields import read_json_object
from toolchain.model.names import EMBED, FINAL_NORM, HEAD, LINEAR_SUFFIXES, hf_name_of

SHARD_BYTES = 2 << 30
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK_SUFFIXES = ("attn.norm", *LINEAR_SUFFIXES[:4], "mlp.norm", *LINEAR_SUFFIXES[4:])
# What travels unchanged from checkpoint to checkpoint.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)

Tensor = Any  # torch.Tensor; torch is not seen by the type checker
Block = dict[str, Tensor]  # suffix like "attn.q_proj" to a weight


def block_name(block: int, suffix: str) -> str:
    """Hugging Face name of a weight of a block."""
    return hf_name_of(f"l{block:02d}.{suffix}")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A float checkpoint that a stage reads; `masks` is empty for a dense one."""

    directory: Path
    model: FloatModel
    masks: Mapping[str, Mask]

    @staticmethod
    def open(directory: Path) -> Source:
        """Raises CheckpointError or UnsupportedModelError as `load_float_model` does."""
        return Source(directory, load_float_model(directory), read_masks(directory))

    @property
    def config(self) -> ModelConfig:
        """Shape and constants."""
        return self.model.config

    def stored(self, name: str) -> Tensor:
        """A copy of one tensor in its stored dtype, on the CPU; refuses NaN and infinity."""
        ref = self.model.tensors[name]
        raw = torch.from_numpy(np.array(ref.raw()))
        tensor = raw.view(DTYPES[ref.dtype]).reshape(ref.shape)
        if not bool(torch.isfinite(tensor).all()):
            problem = Problem(f"tensor {name}", "NaN or infinite values", "finite values")
            raise CheckpointError("the weights are broken", [problem])
        return tensor

    def weight(self, name: str, device: str) -> Tensor:
        """One tensor in float32 on the device."""
        return self.stored(name).to(device=device, dtype=torch.float32)

    def block(self, index: int, device: str) -> Block:
        """The nine float32 weights of a block by suffix; matrices are (n_out, n_in)."""
        return {s: self.weight(block_name(index, s), device) for s in BLOCK_SUFFIXES}

    def head_name(self) -> str:
        """The matrix that makes logits: the embedding of a tied model."""
        return hf_name_of(EMBED if self.config.tie_word_embeddings else HEAD)

    def outside(self) -> tuple[str, ...]:
        """Names of the tensors outside the blocks, in model order."""
        ends = [EMBED, FINAL_NORM] + ([] if self.config.tie_word_embeddings else [HEAD])
        return tuple(map(hf_name_of, ends))


@dataclass(slots=True, eq=False)
class Writer:
    """Writes a checkpoint like `source` with changed config keys; call `finish` at the end."""

    source: Source
    out: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    _pending: dict[str, Tensor] = field(default_factory=dict)
    _pending_bytes: int = 0
    _shards: list[list[str]] = field(default_factory=list)
    _total: int = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """One tensor in the dtype to store; the same name twice is a mistake of the caller."""
        tensor = tensor.detach().cpu().contiguous()
        self._pending[name] = tensor
        size = tensor.numel() * tensor.element_size()
        self._pending_bytes += size
        self._total += size
        if self._pending_bytes >= SHARD_BYTES:
            self._flush()

    def copy_outside(self) -> None:
        """Embedding, final norm and head as they are."""
        for name in self.source.outside():
            self.add(name, self.source.stored(name))

    def finish(self, masks: Mapping[str, Mask]) -> None:
        """Names the shards, writes config.json, index, masks and companions."""
        self._flush()
        self._name_shards()
        write_config(self.source.directory, self.out, self.changes)
        copy_companions(self.source.directory, self.out)
        if masks:
            write_masks(self.out / MASKS_FILE, masks)
        for path in self.out.glob("*.safetensors"):  # the library makes them private
            shutil.copymode(self.out / "config.json", path)

    def _flush(self) -> None:
        if self._pending:
            path = self.out / f"part-{len(self._shards)}"
            save_tensors(self._pending, path, {"format": "pt"})
            self._shards.append(list(self._pending))
            self._pending = {}
            self._pending_bytes = 0

    def _name_shards(self) -> None:
        count = len(self._shards)
        if count == 1:
            (self.out / "part-0").rename(self.out / SINGLE_FILE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            (self.out / f"part-{number}").rename(self.out / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
        write_json(self.out / INDEX_FILE, index)


def write_config(source: Path, out: Path, changes: Mapping[str, Any]) -> None:
    """config.json with some keys changed; lists with one entry per block follow the depth."""
    values = read_json_object(source / "config.json")
    layers = changes.get("num_hidden_layers")
    kinds = values.get("layer_types")
    if layers is not None and isinstance(kinds, list):
        # Of all supported models every entry is the same.
        values["layer_types"] = (kinds * layers)[:layers]
    write_json(out / "config.json", values | dict(changes))
    read_config(out)  # raises at once if the stage asked for a shape that cannot be


def copy_companions(source: Path, out: Path) -> None:
    """Tokenizer files and the like."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def write_json(path: Path, value: object) -> None:
    """Indented JSON with a final newline, whole or not at all; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def copy_blocks(writer: Writer, order: tuple[int, ...]) -> dict[str, Mask]:
    """Writes the blocks of `order` one after the other, and returns their masks, renamed."""
    source, masks = writer.source, {}
    for target, block in enumerate(order):
        for suffix in BLOCK_SUFFIXES:
            name = block_name(block, suffix)
            writer.add(block_name(target, suffix), source.stored(name))
            if name in source.masks:
                masks[block_name(target, suffix)] = source.masks[name]
    return masks
