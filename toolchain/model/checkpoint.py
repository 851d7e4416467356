"""A Hugging Face checkpoint directory -> FloatModel: validated lazy references to its weights.

Weights are floats, or, for linears, integer codes of GPTQ (gptq_codes.py). Reads model.safetensors,
or the shards named by model.safetensors.index.json (a single file wins where both exist, as in
transformers). Names, shapes, dtypes and file layout are all checked before any weight is read, and
listed in one error. Weights stay on disk: `FloatModel.load` maps one tensor at a time. Nothing is
ever unpickled.

Shard names must be plain file names. A symbolic link is followed, because the download cache of
the Hugging Face hub is made of links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from toolchain.model.coded_tensors import check_codes, take_codes
from toolchain.model.config import ModelConfig, read_config
from toolchain.model.errors import CheckpointError, InternalError, Problem, UnsupportedModelError
from toolchain.model.foreign_formats import refusal
from toolchain.model.gptq_codes import CodeRef
from toolchain.model.gptq_settings import read_settings
from toolchain.model.input_order import Order
from toolchain.model.json_fields import ProblemLog, read_json_object, show
from toolchain.model.lora import Factors, base_directory, read_factors
from toolchain.model.mask_file import Mask, read_masks
from toolchain.model.names import (
    EMBED,
    HEAD,
    expected_shapes,
    hf_name_of,
    linear_ids,
    op_id_of,
)
from toolchain.model.nm_pattern import pattern_mask
from toolchain.model.safetensors_file import FLOAT_SIZES, TensorRef, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Frequencies that old checkpoints stored; they follow from the config.
_HARMLESS = re.compile(r".*\.rotary_emb\.inv_freq")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.safetensors")

Stored = dict[str, TensorRef | None]  # None: the tensor is there but malformed, problem noted


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A trained model; `tensors` maps each Hugging Face name to its place on disk.

    `codes`, by the same names, has the weights that are stored as integer codes; their parts are
    in `tensors` under their own names. `factors` has the adapters that are merged into weights,
    `masks` the weights that were removed for good.
    """

    config: ModelConfig
    tensors: Mapping[str, TensorRef]
    codes: Mapping[str, CodeRef] = field(default_factory=dict)
    factors: Mapping[str, Factors] = field(default_factory=dict)
    masks: Mapping[str, Mask] = field(default_factory=dict)

    def load(self, name: str) -> npt.NDArray[np.float32]:
        """A float32 copy, C-contiguous; matrices are (n_out, n_in). f16 and bf16 widen exactly.

        Codes are dequantized exactly, with the product of an adapter added. Adapters of floats are
        merged, and removed weights stay 0: those of masks.safetensors, or else of an N:M pattern.
        Raises CheckpointError if a value is NaN or infinite.
        """
        if name in self.codes:
            values = self.codes[name].read().dequantize()
            return self.factors[name].merged(values, None) if name in self.factors else values
        values = self.tensors[name].read()
        if name in self.factors:
            mask = self.masks.get(name)
            keep = pattern_mask(values) if mask is None else mask.keep
            values = self.factors[name].merged(values, keep)
        finite = np.isfinite(values)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            first = tuple(int(i) for i in np.unravel_index(bad[0], values.shape))
            found = f"{bad.size} NaN or infinite values, the first at index {first}"
            problem = Problem(f"tensor {name}", found, "finite values")
            raise CheckpointError("the weights are broken", [problem])
        return values

    def stored(self, name: str) -> npt.NDArray[np.float32]:
        """`load` without the adapter of integer codes, in the order of the stored columns."""
        return self.codes[name].read().columns() if name in self.codes else self.load(name)

    def first_zeros(self, name: str) -> int:
        """At most so many weights of the first row of a stored matrix are 0; reads little."""
        if name in self.codes:
            return self.codes[name].first_zeros()
        ref = self.tensors[name]
        if name in self.factors:  # their product counts
            return ref.shape[1]
        first = replace(ref, shape=ref.shape[1:], size=ref.size // ref.shape[0])
        return int(np.count_nonzero(first.read() == 0))

    @property
    def orders(self) -> Mapping[str, Order]:
        """Order of the stored columns by op id, of the matrices that have one of their own."""
        found = ((op_id_of(name), ref.order()) for name, ref in self.codes.items())
        return {op_id: order for op_id, order in found if order is not None}

    @property
    def adapters(self) -> Mapping[str, Factors]:
        """Adapters beside integer codes: linears of their own in the program."""
        return {name: each for name, each in self.factors.items() if name in self.codes}


def load_model(model_dir: Path) -> FloatModel:
    """Read config and tensor directory of a checkpoint; no weight is read yet.

    Raises CheckpointError or UnsupportedModelError with every problem of the config, or, if it has
    none, of the weight files.
    """
    if not model_dir.is_dir():
        if model_dir.suffix == ".gguf":
            raise UnsupportedModelError(
                "the model is not supported", [refusal(str(model_dir), "gguf")]
            )
        found = "a file" if model_dir.exists() else "nothing"
        problem = Problem(str(model_dir), found, "a Hugging Face model directory")
        raise CheckpointError("there is no model", [problem])
    adapter_dir, model_dir = model_dir, base_directory(model_dir)
    packed = sorted(model_dir.glob("*.gguf"))
    if packed and not (model_dir / "config.json").is_file():
        raise UnsupportedModelError("the model is not supported", [refusal(packed[0].name, "gguf")])
    config = read_config(model_dir)
    log = ProblemLog()
    subject = f"the checkpoint {adapter_dir}"
    stored = _read_directory(model_dir, log)
    if stored is None:
        log.raise_if_any(subject)
        raise InternalError("an unreadable weight file left no problem behind")
    codes = take_codes(stored, config, read_settings(model_dir, log), log)
    tensors = _select_expected(stored, config, codes, log)
    log.raise_if_any(subject)
    check_codes(codes, log)
    factors = _read_factors(adapter_dir, config, log)
    log.raise_if_any(subject)
    if config.tie_word_embeddings and hf_name_of(HEAD) in stored:
        _check_tied_head(stored, log)
        log.raise_if_any(subject)
    for name, code in codes.items():
        tensors |= {f"{name.removesuffix('.weight')}.{p}": ref for p, ref in code.parts.items()}
    masks = read_masks(model_dir) if factors else {}
    return FloatModel(
        config, MappingProxyType(tensors), MappingProxyType(codes), factors, MappingProxyType(masks)
    )


def load_float_model(model_dir: Path) -> FloatModel:
    """The same for code that needs every weight as floats; refuses codes with what does read them.

    Raises UnsupportedModelError, and what `load_model` raises.
    """
    model = load_model(model_dir)
    allowed = "a checkpoint in f32, f16 or bf16"
    if model.codes:
        found = f"integer codes of {len(model.codes)} linears"
        problem = Problem(str(model_dir), found, allowed)
        raise UnsupportedModelError("the weights are quantized already", [problem])
    if model.factors:
        problem = Problem(str(model_dir), f"an adapter of {len(model.factors)} linears", allowed)
        fix = "merge it first (merge_and_unload of PEFT)"
        raise UnsupportedModelError("the weights have an adapter", [problem], fix)
    return model


def _read_factors(directory: Path, config: ModelConfig, log: ProblemLog) -> Mapping[str, Factors]:
    """The adapters to merge, and those beside integer codes."""
    linears = [*linear_ids(config), *([] if config.tie_word_embeddings else [HEAD])]
    shapes = expected_shapes(config)
    return read_factors(directory, {n: shapes[n] for n in map(hf_name_of, linears)}, log)


def _read_directory(model_dir: Path, log: ProblemLog) -> Stored | None:
    """Every stored tensor by name, from the single file or the shards; None if unreadable."""
    if (model_dir / SINGLE_FILE).exists():
        return read_header(model_dir / SINGLE_FILE, log)
    if (model_dir / INDEX_FILE).exists():
        return _read_shards(model_dir, log)
    pickled = [
        path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in model_dir.glob(pattern)
    ]
    fix = "pickled weights are never unpickled; convert them to safetensors" if pickled else ""
    found = ", ".join(sorted(pickled)) or "nothing"
    problem = Problem(str(model_dir), found, f"{SINGLE_FILE} or {INDEX_FILE}", fix)
    raise CheckpointError("the model has no readable weights", [problem])


def _read_shards(model_dir: Path, log: ProblemLog) -> Stored | None:
    """All shards together; a tensor that its shard lacks maps to None, its problem noted."""
    weight_map = _read_weight_map(model_dir / INDEX_FILE, log)
    stored: Stored = dict.fromkeys(weight_map)
    for file in sorted({file for file in weight_map.values() if file is not None}):
        refs = read_header(model_dir / file, log)
        if refs is None:
            continue
        for name in sorted(refs.keys() | {n for n, f in weight_map.items() if f == file}):
            if name not in refs:
                log.add_broken(f"tensor {show(name)}", "nothing", f"its data in {file}")
            elif weight_map.get(name) != file:
                allowed = f"only tensors that {INDEX_FILE} maps to this file"
                log.add_broken(file, f"tensor {show(name)}", allowed)
            else:
                stored[name] = refs[name]
    return stored if weight_map else None


def _read_weight_map(path: Path, log: ProblemLog) -> dict[str, str | None]:
    """Tensor name to shard; None for a shard name that could leave the directory (noted)."""
    value = read_json_object(path).get("weight_map")
    if not isinstance(value, dict) or not value:
        log.add_broken(f"weight_map in {path.name}", show(value), "an object: tensor to file name")
        return {}
    weight_map: dict[str, str | None] = {}
    for name, file in value.items():
        is_plain = isinstance(file, str) and _PLAIN_NAME.fullmatch(file) is not None
        weight_map[name] = file if is_plain else None
        if not is_plain:
            where = f"weight_map[{show(name)}] in {path.name}"
            log.add_broken(where, show(file), "a plain file name that ends in .safetensors")
    return weight_map


def _select_expected(
    stored: Stored, config: ModelConfig, codes: Mapping[str, CodeRef], log: ProblemLog
) -> dict[str, TensorRef]:
    """The expected tensors, in model order; missing, misshapen and unknown ones are noted."""
    shapes = expected_shapes(config)
    selected = {}
    for name, shape in shapes.items():
        if name in codes:
            continue
        ref = stored.get(name)
        if name not in stored:
            fix = "a tied model sets tie_word_embeddings" if name == hf_name_of(HEAD) else ""
            log.add_broken(f"tensor {name}", "nothing", f"shape {list(shape)}", fix)
        elif ref is not None and ref.shape != shape:
            allowed = f"shape {list(shape)} by config.json"
            log.add_broken(f"tensor {name}", f"shape {list(ref.shape)}", allowed)
        elif ref is not None and ref.dtype == "I32":
            log.add_unsupported(f"tensor {name}", 'dtype "I32"', f"one of {', '.join(FLOAT_SIZES)}")
        elif ref is not None:
            selected[name] = ref
    tied_head = {hf_name_of(HEAD)} if config.tie_word_embeddings else set()
    for name in sorted(stored.keys() - shapes.keys() - tied_head):
        if not _HARMLESS.fullmatch(name):
            found = "a tensor that the architecture does not have"
            log.add_unsupported(
                f"tensor {show(name)}", found, f"the weights of {config.architecture}"
            )
    return selected


def _check_tied_head(stored: Stored, log: ProblemLog) -> None:
    """A stored head of a tied model must be the embedding, bit for bit."""
    embed, head = stored[hf_name_of(EMBED)], stored[hf_name_of(HEAD)]
    if embed is None or head is None:
        return
    if not embed.equals(head):
        allowed = f"the same bits as {hf_name_of(EMBED)}, since tie_word_embeddings is true"
        fix = "set tie_word_embeddings to false if the head was trained apart"
        log.add_broken(f"tensor {hf_name_of(HEAD)}", "other values", allowed, fix)
