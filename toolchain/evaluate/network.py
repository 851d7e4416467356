"""The real-valued network that a checkpoint, a quantized model or a compiled build stands for.

What the NumPy forward pass (`float_run.py`) computes and the ONNX exporter (`onnx_graph.py`)
writes. Matrices keep their integers, so that a referee runs exactly the weights of the firmware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from types import MappingProxyType

import numpy as np

from codegen.bundle import LoadedBundle
from sim.ops import signed16
from sim.session import read_constants
from toolchain.evaluate.scoring import F32, F64
from toolchain.model.adapters import ADAPTER_MARK
from toolchain.model.checkpoint import FloatModel
from toolchain.model.config import ModelConfig
from toolchain.model.errors import InternalError
from toolchain.model.input_order import table_of
from toolchain.model.lower import SITE_OF
from toolchain.model.names import EMBED, HEAD, hf_name_of, linear_ids, norm_ids
from toolchain.model.outline import ACTIVATION_BITS, program_shape
from toolchain.model.packing import WeightInts
from toolchain.model.program import SHIFT_BITS, ActMode, Op, OpKind, Program, ProgramShape
from toolchain.model.quantize import QuantModel, QuantTensor
from toolchain.model.rope import rope_angles
from toolchain.model.silent_parts import part_of

GAMMA_UNIT = 2.0**-15  # of integer norm weights; the scale behind them takes the rest


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """A projection with an adapter beside it: W x + B (A x)."""

    base: QuantTensor  # W
    down: QuantTensor  # A, (rank, n_in)
    up: QuantTensor  # B, (n_out, rank)


Matrix = F32 | QuantTensor | Adapted


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A Llama-style decoder in real numbers."""

    shape: ProgramShape
    eps: float
    cos: F64  # (context, head_dim / 2)
    sin: F64
    matrices: Mapping[str, Matrix]  # by op id: embed, the projections, lm_head; (n_out, n_in)
    norms: Mapping[str, F64]  # by op id, (hidden,)


def dense(matrix: Matrix) -> F32:
    """The real weights in float32, (n_out, n_in); of an adapted projection W + B A."""
    if isinstance(matrix, Adapted):
        return dense(matrix.base) + dense(matrix.up) @ dense(matrix.down)
    if isinstance(matrix, QuantTensor):
        return matrix.dequantize().astype(np.float32)
    return matrix


def network_of_float(model: FloatModel, context: int | None = None) -> Network:
    """All weights of a checkpoint, read into memory."""
    config = model.config
    matrices: dict[str, Matrix] = {
        op_id: model.load(hf_name_of(op_id)) for op_id in (EMBED, *linear_ids(config))
    }
    tied = config.tie_word_embeddings
    matrices[HEAD] = matrices[EMBED] if tied else model.load(hf_name_of(HEAD))
    norms = {name: model.load(hf_name_of(name)).astype(np.float64) for name in norm_ids(config)}
    return _assemble(config, matrices, norms, context)


def network_of_quant(model: QuantModel, context: int | None = None) -> Network:
    """The weights that the integers of a quantized model stand for, without silent parts."""
    matrices = {EMBED: model.embed, **model.linears, HEAD: model.head}
    matrices |= {tensor.name: tensor for pair in model.adapters.values() for tensor in pair}
    matrices = {n: each for n, each in matrices.items() if part_of(n) not in model.silent}
    return _assemble(model.config, _with_adapters(matrices), model.norms, context)


def _with_adapters(matrices: Mapping[str, QuantTensor]) -> dict[str, Matrix]:
    """Projections together with their adapters; the others as given."""
    found: dict[str, Matrix] = {}
    for name, matrix in matrices.items():
        down, up = (matrices.get(f"{name}{ADAPTER_MARK}{part}") for part in "ab")
        if ADAPTER_MARK not in name:
            found[name] = Adapted(matrix, down, up) if down and up else matrix
    return found


def _assemble(
    config: ModelConfig,
    matrices: Mapping[str, Matrix],
    norms: Mapping[str, F64],
    context: int | None,
) -> Network:
    shape = program_shape(config, context or config.max_position_embeddings)
    angles = rope_angles(config.rope, config.head_dim, shape.context)
    return Network(
        shape,
        config.rms_norm_eps,
        np.cos(angles),
        np.sin(angles),
        MappingProxyType(dict(matrices)),
        MappingProxyType(dict(norms)),
    )


def network_of_build(bundle: LoadedBundle) -> Network:
    """What the constants in the blobs of a build stand for (docs/numerics.md 2 to 5, inverted).

    Scales are known to the 16 bits of their requantization constants, norm weights to 16 bits,
    rotary factors to 14 fraction bits. The unit of a norm's weights is not stored apart from the
    scales of the matrices that read it: it is taken as `GAMMA_UNIT`, and the scales make up for it.
    """
    program = bundle.program
    constants = read_constants(program, bundle.plan, bundle.blobs)
    bits = {row["name"]: row["bits"] for row in bundle.manifest["weights"]}
    matrices: dict[str, QuantTensor] = {}
    norms: dict[str, F64] = {}
    eps = 0.0
    for op in program.ops:
        if op.kind is OpKind.EMBED:
            words = _plain(constants[op.inputs[1]])
            scale = real_of_words(words) * 2.0**-program.residual_bits
            weights = _ints(constants[op.inputs[0]])
            matrices[op.id] = _tensor(program, op, weights, bits[op.inputs[0]], scale)
        elif op.kind is OpKind.LINEAR:
            weights = _ints(constants[op.inputs[2]])
            stored = int(_plain(constants[op.inputs[3]])[op.attrs["shift_index"]])
            shift = stored & SHIFT_BITS
            scale = real_of_words(weights.requant) / _output_unit(program, op, shift)
            tensor = _tensor(program, op, weights, bits[op.inputs[2]], scale)
            gather = table_of(program, op)
            order = None if gather is None else _plain(constants[gather]).astype(np.int64)
            matrices[op.id] = replace(tensor, order=order)
        elif op.kind is OpKind.RMSNORM:
            norms[op.id] = _plain(constants[op.inputs[1]]).astype(np.float64) * GAMMA_UNIT
            eps = op.attrs["eps"] / (program.shape.hidden * 2.0 ** (2 * program.residual_bits))
    table = _plain(constants["rope.table"]).astype(np.float64) / 16384.0
    cos, sin = np.split(table, 2, axis=1)
    adapted = _with_adapters(matrices)
    return Network(program.shape, eps, cos, sin, MappingProxyType(adapted), MappingProxyType(norms))


def real_of_words(words: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> F64:
    """Real values M * 2^-e of packed requantization constants."""
    wide = words.astype(np.int64)
    real: F64 = np.ldexp((wide >> 16).astype(np.float64), -signed16(wide))
    return real


def _output_unit(program: Program, op: Op, shift: int) -> float:
    """What a requantization constant of `op` holds besides the scale of its row."""
    base, _, part = op.role.partition(ADAPTER_MARK)
    site = SITE_OF[base.rsplit(".", 1)[-1]]
    if part == "b":
        c_in = 2.0**-ACTIVATION_BITS / 127.0
    elif site == "o_in":
        c_in = 2.0**-ACTIVATION_BITS / 127.0 / 127.0
    elif site == "down_in":
        c_in = 2.0 ** (-2 * ACTIVATION_BITS) / 127.0
    else:
        c_in = sqrt(program.shape.hidden) * GAMMA_UNIT / 127.0
    residual = site in ("o_in", "down_in") and part != "a"
    out_bits = program.residual_bits if residual else ACTIVATION_BITS
    unit = c_in * 2.0**out_bits
    return unit * 127.0 * 2.0**shift if op.mode is ActMode.A16 else unit


def _tensor(program: Program, op: Op, weights: WeightInts, bits: int, scale: F64) -> QuantTensor:
    layout = program.engine_layout_of(op) or program.layout_of(op)
    group_size = layout.group_size
    return QuantTensor(op.id, weights.values, bits, group_size, weights.multipliers, scale)


def _ints(value: object) -> WeightInts:
    if not isinstance(value, WeightInts):
        raise InternalError("a packed matrix was read as a plain array")
    return value


def _plain(value: object) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if not isinstance(value, np.ndarray):
        raise InternalError("a plain constant was read as a packed matrix")
    return value
