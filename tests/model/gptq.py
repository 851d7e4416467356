"""Turns a tiny float model into a GPTQ checkpoint: field by field, as the format's table has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.model.spoil import Encoded
from tests.model.tiny import encode_tensor, pack_safetensors, write_json, write_model
from toolchain.model.checkpoint import load_model
from toolchain.model.names import HEAD, hf_name_of, linear_ids

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Coded:
    """What was written of one matrix."""

    codes: Ints  # (n_out, n_in)
    zeros: Ints  # (n_out, n_groups)
    scales: npt.NDArray[np.float16]  # (n_out, n_groups)
    group: int
    groups: Ints  # (n_in,), the group of every input

    @property
    def integers(self) -> Ints:
        return self.codes - self.zeros[:, self.groups]

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        scales = self.scales[:, self.groups]
        weights: npt.NDArray[np.float64] = self.integers.astype(np.float64) * scales
        return weights

    @property
    def order(self) -> Ints:
        """Inputs group by group."""
        return np.argsort(self.groups, kind="stable")


@dataclass(frozen=True, slots=True)
class Format:
    """How to write it; `special` has other bits by op id."""

    bits: int = 4
    group_size: int = 8
    version: str = "gptq"
    sym: bool = True
    special: Mapping[str, int] | None = None
    head: bool = False
    settings_file: bool = False
    desc_act: str = ""  # "site": one random order for all that read a vector, "each", "o_proj"


def pack_bits(fields: Ints, bits: int) -> npt.NDArray[np.int32]:
    """(rows, n) fields -> (rows, words), the first field in the lowest bits."""
    words = []
    for row in fields:
        stream = sum(int(value) << (bits * index) for index, value in enumerate(row))
        count = -(-len(row) * bits // 32)
        words.append([stream >> (32 * index) & 0xFFFFFFFF for index in range(count)])
    return np.array(words, np.uint32).view(np.int32)


def quantize(
    weights: npt.NDArray[np.float32], written: Format, bits: int, order: Ints | None = None
) -> Coded:
    """Plain rounding; without `sym` the codes of a group span its minimum and maximum.

    Groups are made of consecutive inputs of `order`.
    """
    rows, columns = weights.shape
    size, sym = columns if written.group_size == -1 else written.group_size, written.sym
    inputs = np.arange(columns) if order is None else order
    groups = np.empty(columns, np.int64)
    groups[inputs] = np.arange(columns) // size
    top, zeros, scales = (1 << bits) - 1, [], []
    codes = np.empty((rows, columns), np.int64)
    for start in range(0, columns, size):
        part = weights[:, inputs[start : start + size]].astype(np.float64)
        low, high = np.minimum(part.min(axis=1), -1e-3), np.maximum(part.max(axis=1), 1e-3)
        if sym:
            low, high = -np.maximum(-low, high), np.maximum(-low, high)
        scale = ((high - low) / top).astype(np.float16)
        middle = np.full(rows, 1 << (bits - 1))
        zero = middle if sym else np.clip(np.rint(-low / scale), 1, top).astype(np.int64)
        rounded = np.rint(part / scale[:, None].astype(np.float64)) + zero[:, None]
        codes[:, inputs[start : start + size]] = np.clip(rounded, 0, top)
        zeros.append(zero)
        scales.append(scale)
    return Coded(codes, np.stack(zeros, 1), np.stack(scales, 1), size, groups)


def order_of(op_id: str, columns: int, written: Format) -> Ints | None:
    """A random order of inputs, by what `desc_act` says."""
    if not written.desc_act or (written.desc_act == "o_proj" and "o_proj" not in op_id):
        return None
    key = op_id
    if written.desc_act == "site":
        for role in ("k_proj", "v_proj", "up_proj"):
            key = key.replace(role, {"up_proj": "gate_proj"}.get(role, "q_proj"))
    return np.random.default_rng(list(key.encode())).permutation(columns)


def tensors_of(module: str, coded: Coded, bits: int, version: str) -> Encoded:
    if version == "awq":
        return awq_tensors_of(module, coded)
    stored = coded.zeros - (1 if version == "gptq" else 0)
    arrays = {
        "qweight": np.ascontiguousarray(pack_bits(coded.codes, bits).T),
        "qzeros": pack_bits(stored.T, bits),
        "g_idx": coded.groups.astype(np.int32),
    }
    found: Encoded = {
        f"{module}.{part}": ("I32", array.shape, array.tobytes()) for part, array in arrays.items()
    }
    found[f"{module}.scales"] = encode_tensor(coded.scales.T.astype(np.float32), "f16")
    return found


def awq_tensors_of(module: str, coded: Coded) -> Encoded:
    """Version gemm: eight outputs per word, the even ones in the lower half."""

    def packed(fields: Ints) -> npt.NDArray[np.int32]:
        words = fields.reshape(len(fields), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return pack_bits(words.reshape(fields.shape), 4)

    arrays = {"qweight": packed(coded.codes.T), "qzeros": packed(coded.zeros.T)}
    found: Encoded = {
        f"{module}.{part}": ("I32", array.shape, array.tobytes()) for part, array in arrays.items()
    }
    found[f"{module}.scales"] = encode_tensor(coded.scales.T.astype(np.float32), "f16")
    return found


def write_gptq(
    directory: Path,
    written: Format = Format(),
    change: Callable[[Encoded], None] = lambda _: None,
    settings: Mapping[str, Any] | None = None,
    **shape: Any,
) -> dict[str, Coded]:
    """Writes a coded checkpoint; `change` may spoil its tensors. What was coded, by op id."""
    write_model(directory, **shape)
    model = load_model(directory)
    special = written.special or {}
    encoded: Encoded = {}
    coded: dict[str, Coded] = {}
    linears = {hf_name_of(op_id): op_id for op_id in linear_ids(model.config)}
    if written.head:
        linears[hf_name_of(HEAD)] = HEAD
    for name in model.tensors:
        op_id = linears.get(name)
        if op_id is None:
            encoded[name] = encode_tensor(model.load(name), "f32")
            continue
        bits = special.get(op_id, written.bits)
        weights = model.load(name)
        coded[op_id] = quantize(weights, written, bits, order_of(op_id, weights.shape[1], written))
        module = name.removesuffix(".weight")
        encoded |= tensors_of(module, coded[op_id], bits, written.version)
    change(encoded)
    (directory / "model.safetensors").write_bytes(pack_safetensors(encoded))
    values: dict[str, Any] = {
        "bits": written.bits,
        "group_size": written.group_size,
        "sym": written.sym,
        "desc_act": bool(written.desc_act),
        "lm_head": written.head,
        "checkpoint_format": written.version,
        **(settings or {}),
    }
    if special:
        names = {op_id: hf_name_of(op_id).removesuffix(".weight") for op_id in special}
        values["dynamic"] = {f"+:^{names[o]}$": {"bits": bits} for o, bits in special.items()}
    if written.settings_file:
        write_json(directory / "quantize_config.json", values)
    else:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        own: dict[str, Any] = {"quant_method": "gptq"}
        if written.version == "awq":
            own = {"quant_method": "awq", "version": "gemm", "zero_point": True}
            del values["checkpoint_format"]
        write_json(path, config | {"quantization_config": own | values})
    return coded
