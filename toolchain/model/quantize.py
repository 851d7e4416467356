"""FloatModel -> QuantModel: integer weights for every matrix, one at a time, without torch.

Projections get `bits` and `group_size`; embedding and head have settings of their own; overrides
change single tensors by op id pattern. All settings are checked before any weight is read. The
method is round-to-nearest with a clip search (group_scales.py). Matrices that the checkpoint stores
as integer codes keep them (gptq_codes.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from toolchain.model.adapters import ADAPTER_BITS, ADAPTER_MARK, role_of
from toolchain.model.block_copies import copied_blocks
from toolchain.model.checkpoint import FloatModel
from toolchain.model.coded_settings import with_codes
from toolchain.model.config import ModelConfig
from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.gptq_codes import CodeMatrix
from toolchain.model.group_scales import quantize_matrix, split_groups
from toolchain.model.input_order import Order, original_order
from toolchain.model.names import (
    EMBED,
    HEAD,
    expected_shapes,
    hf_name_of,
    linear_ids,
    norm_ids,
    op_id_of,
)
from toolchain.model.nm_pattern import Pattern
from toolchain.model.quant_settings import (
    PER_CHANNEL,
    Override,
    QuantConfig,
    TensorSetting,
    effective_settings,
)
from toolchain.model.scale_multipliers import fit_scales
from toolchain.model.silent_parts import find_silent
from toolchain.model.sparsity import find_patterns

__all__ = [
    "MAX_SNR_DB",
    "Fidelity",
    "Override",
    "QuantConfig",
    "QuantModel",
    "QuantTensor",
    "TensorSetting",
    "effective_settings",
    "hf_name_of",
    "op_id_of",
    "quantize_model",
    "quantize_tensor",
]

MAX_SNR_DB = 200.0  # stands for an exact tensor, so that reports hold finite numbers only


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """One quantized matrix: weight = values * multipliers * scale. Arrays are read-only."""

    name: str  # op id
    values: npt.NDArray[np.int8]  # (n_out, n_in), -2^(bits-1)..2^(bits-1)-1; 8 bits: -127..127
    bits: int  # 2..8
    group_size: int  # columns per group, the last group may be partial; n_in when per channel
    multipliers: npt.NDArray[np.uint8]  # (n_out, n_groups), 1..255; all 1 when there is one group
    scale: npt.NDArray[np.float64]  # (n_out,), > 0
    order: Order | None = None  # column j of `values` is input order[j]; None: as the inputs are

    def dequantize(self) -> npt.NDArray[np.float64]:
        """The real weights that the integers stand for, (n_out, n_in), by input."""
        n_in = self.values.shape[1]
        multipliers = np.repeat(self.multipliers.astype(np.int64), self.group_size, axis=1)
        weights = (self.values * multipliers[:, :n_in]) * self.scale[:, None]
        return original_order(weights, self.order)


@dataclass(frozen=True, slots=True, eq=False)
class QuantModel:
    """A quantized model; norm weights stay real, lowering turns them into integers."""

    config: ModelConfig
    quant: QuantConfig
    embed: QuantTensor  # one group per row
    head: QuantTensor  # the same object as `embed` when tied
    linears: Mapping[str, QuantTensor]  # by op id, in order of execution
    norms: Mapping[str, npt.NDArray[np.float64]]  # by op id, (hidden_size,)
    weight_snr_db: Mapping[str, float]  # by op id of each stored matrix, at most MAX_SNR_DB
    patterns: Mapping[str, Pattern]  # by op id of each matrix that is stored sparse
    # By op id of each matrix whose integers come from the checkpoint: the largest relative change
    # of a group's scale.
    scale_changes: Mapping[str, float] = field(default_factory=dict)
    blocks: tuple[int, ...] | None = None  # for every block the one it is a copy of, if any is
    # A and B by op id of the projections whose roles have adapters, beside integer codes.
    adapters: Mapping[str, tuple[QuantTensor, QuantTensor]] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()  # parts of blocks that the program goes without

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of the adapters by role; those of equal roles are equal."""
        return {role_of(op_id): down.values.shape[0] for op_id, (down, _) in self.adapters.items()}


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well the integers stand for the weights of the checkpoint."""

    snr_db: float  # at most MAX_SNR_DB
    scale_change: float | None = None  # of a coded matrix: the largest, relative


def quantize_model(
    model: FloatModel,
    quant: QuantConfig,
    progress: Callable[[str], None] | None = None,
    patterns: Mapping[str, Pattern] | None = None,
) -> QuantModel:
    """Quantize every matrix; `progress` is called with each op id before its turn.

    `patterns`: what `find_patterns` says of the same arguments, if that is known already. Raises
    ConfigError with all bad settings before any weight is read, CheckpointError for weights that
    are NaN or infinite, and what `find_patterns` raises.
    """
    config, quant = model.config, with_codes(model, quant)
    if patterns is None:
        patterns = find_patterns(model, quant)
    tensors: dict[str, QuantTensor] = {}
    snr_db: dict[str, float] = {}
    changes: dict[str, float] = {}
    for op_id, setting in effective_settings(config, quant).items():
        if progress is not None:
            progress(op_id)
        tensors[op_id], fidelity = quantize_tensor(model, op_id, setting)
        snr_db[op_id] = fidelity.snr_db
        if fidelity.scale_change is not None:
            changes[op_id] = fidelity.scale_change
    norms = {op_id: _read_norm(model, op_id) for op_id in norm_ids(config)}
    return QuantModel(
        config=config,
        quant=quant,
        embed=tensors[EMBED],
        head=tensors[EMBED] if config.tie_word_embeddings else tensors[HEAD],
        linears=MappingProxyType({op_id: tensors[op_id] for op_id in linear_ids(config)}),
        norms=MappingProxyType(norms),
        weight_snr_db=MappingProxyType(snr_db),
        patterns=patterns,
        scale_changes=MappingProxyType(changes),
        blocks=copied_blocks(model, quant, patterns),
        adapters=MappingProxyType(quantize_adapters(model, snr_db)),
        silent=find_silent(model),
    )


def adapter_ranks_of(model: FloatModel) -> dict[str, int]:
    """Rank by role, the largest of its blocks, in the order of the roles."""
    found: dict[str, int] = {}
    for op_id in (*linear_ids(model.config), HEAD):
        factors, role = model.adapters.get(hf_name_of(op_id)), role_of(op_id)
        if factors is not None:
            found[role] = max(found.get(role, 0), factors.rank)
    return found


def quantize_adapters(
    model: FloatModel, snr_db: dict[str, float]
) -> dict[str, tuple[QuantTensor, QuantTensor]]:
    """A and B in 8 bits of every projection of an adapted role, by op id; adds to `snr_db`.

    Blocks share code, so a smaller rank, or none, becomes that of the role with zeros.
    """
    ranks, found = adapter_ranks_of(model), {}
    shapes = expected_shapes(model.config)
    for op_id in (*linear_ids(model.config), HEAD):
        rank = ranks.get(role_of(op_id))
        if rank is not None:
            name = hf_name_of(op_id)
            rows, columns = shapes[name]
            pair = _balanced(model, name, (rank, rows, columns))
            down, up = (
                _factor(f"{op_id}{ADAPTER_MARK}{part}", values, snr_db)
                for part, values in zip("ab", pair, strict=True)
            )
            found[op_id] = down, up
    return found


def _balanced(
    model: FloatModel, name: str, size: tuple[int, int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A and scale * B with zeros up to the rank, rows of A near the size of the matrix' rows.

    A power of two moves from one factor to the other for each of the ranks, which changes no
    product; then A x has the size of the projection's output, whose fixed point suits it.
    """
    rank, rows, columns = size
    down, up = np.zeros((rank, columns)), np.zeros((rows, rank))
    factors = model.adapters.get(name)
    if factors is not None:
        down[: factors.rank] = factors.down.read()
        up[:, : factors.rank] = factors.up.read().astype(np.float64) * factors.scale
        wanted = math.sqrt(float(np.mean(model.stored(name).astype(np.float64) ** 2)))
        own = np.sqrt((down**2).mean(axis=1))
        ratio = np.where(own > 0, wanted / np.where(own > 0, own, 1.0), 1.0)
        power = np.ldexp(1.0, np.frexp(np.where(ratio > 0, ratio, 1.0))[1])
        down, up = down * power[:, None], up / power
    return down.astype(np.float32), up.astype(np.float32)


def _factor(name: str, weights: npt.NDArray[np.float32], snr_db: dict[str, float]) -> QuantTensor:
    if not np.isfinite(weights).all():
        problem = Problem(name, "NaN or infinite values", "finite values")
        raise CheckpointError("an adapter is broken", [problem])
    tensor, snr_db[name] = _rounded(name, weights, TensorSetting(ADAPTER_BITS, PER_CHANNEL))
    return tensor


def quantize_tensor(
    model: FloatModel, op_id: str, setting: TensorSetting
) -> tuple[QuantTensor, Fidelity]:
    """One matrix as integers; those of a coded one are its codes, and `setting` must be theirs."""
    code = model.codes.get(hf_name_of(op_id))
    if code is not None:
        return _take_codes(op_id, code.read(), setting)
    tensor, snr_db = _rounded(op_id, model.load(hf_name_of(op_id)), setting)
    return tensor, Fidelity(snr_db)


def _rounded(
    name: str, weights: npt.NDArray[np.float32], setting: TensorSetting
) -> tuple[QuantTensor, float]:
    """Floats as integers by round-to-nearest, and their signal-to-noise ratio in dB."""
    n_in = weights.shape[1]
    group_size = n_in if setting.group_size == PER_CHANNEL else min(setting.group_size, n_in)
    result = quantize_matrix(weights, setting.bits, group_size)
    for array in (result.values, result.multipliers, result.scale):
        array.setflags(write=False)
    tensor = QuantTensor(
        name, result.values, setting.bits, group_size, result.multipliers, result.scale
    )
    return tensor, _snr_db(float(result.power.sum()), float(result.squared_error.sum()))


def _take_codes(
    op_id: str, matrix: CodeMatrix, setting: TensorSetting
) -> tuple[QuantTensor, Fidelity]:
    """The integers as they are; only the scales of groups are approximated."""
    squares = split_groups(matrix.values.astype(np.float32), matrix.group_size) ** 2
    scales = fit_scales(matrix.scales.astype(np.float64), squares.sum(axis=2))
    values = matrix.values.astype(np.int8)
    for array in (values, scales.multipliers, scales.scale):
        array.setflags(write=False)
    tensor = QuantTensor(
        op_id,
        values,
        setting.bits,
        matrix.group_size,
        scales.multipliers,
        scales.scale,
        matrix.order,
    )
    snr_db = _snr_db(scales.power, scales.squared_error)
    return tensor, Fidelity(snr_db, scales.largest_change)


def _snr_db(power: float, squared_error: float) -> float:
    """Signal-to-noise ratio in dB, capped at MAX_SNR_DB (an exact tensor has no noise)."""
    if squared_error == 0:
        return MAX_SNR_DB
    return min(MAX_SNR_DB, 10 * math.log10(power / squared_error))


def _read_norm(model: FloatModel, op_id: str) -> npt.NDArray[np.float64]:
    weights = model.load(hf_name_of(op_id)).astype(np.float64)
    weights.setflags(write=False)
    return weights
