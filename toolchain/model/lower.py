"""QuantModel -> Program: the ops of one decode step and every integer constant, computed once.

All real arithmetic of the product that reaches the firmware ends here: scales become 16-bit
multipliers with an exponent, tables become integers (docs/numerics.md). The overflow bounds of
numerics 9 are proven for each matrix; what cannot be proven is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from toolchain.model.config import ModelConfig
from toolchain.model.errors import Problem, QuantizationError
from toolchain.model.input_order import gathers_of, order_tables
from toolchain.model.linear_scaling import (
    MAX_HEADROOM,
    linear_scaling,
    narrowing,
    shared_scalings,
)
from toolchain.model.matrix_storage import sparse_layout
from toolchain.model.names import HEAD
from toolchain.model.outline import (
    ACTIVATION_BITS,
    LowerConfig,
    WeightFacts,
    assemble_program,
    attention_constants,
    check_lower_config,
    with_facts,
)
from toolchain.model.packing import WeightInts, WeightLayout, packing_for_bits
from toolchain.model.program import NARROW_AT, ActMode, Arithmetic, Program
from toolchain.model.quantize import QuantModel, QuantTensor
from toolchain.model.rope import rope_angles
from toolchain.model.schedule import GATE_TABLES
from toolchain.model.settled_orders import settle_orders

SITE_OF = {
    "q_proj": "attn_in",
    "k_proj": "attn_in",
    "v_proj": "attn_in",
    "o_proj": "o_in",
    "gate_proj": "mlp_in",
    "up_proj": "mlp_in",
    "down_proj": "down_in",
    "lm_head": "head_in",
}
INT32_MAX = (1 << 31) - 1
FAST_HALF = 1 << 12  # fast arithmetic adds half of what it drops
CREST = 16.0  # largest element of a quantized vector to its root mean square, a guess


def reals_to_multipliers(
    real: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(M, e) with real ~ M * 2^-e and 2^15 <= M < 2^16, for each real > 0 (numerics 0, mexp)."""
    fraction, exponent = np.frexp(real)
    m = np.round(fraction * 65536.0).astype(np.int64)
    e = 16 - exponent.astype(np.int64)
    over = m == 65536
    return np.where(over, m >> 1, m), np.where(over, e - 1, e)


def requant_words(real: npt.NDArray[np.float64], where: str) -> npt.NDArray[np.uint32]:
    """Packed requantization constants M << 16 | (e & 0xFFFF)."""
    m, e = reals_to_multipliers(real)
    if np.abs(e).max() > 1000:
        raise QuantizationError(
            "a scale is out of the range of the requantization",
            [Problem(where, f"exponent {int(e[np.abs(e).argmax()])}", "-1000..1000")],
        )
    return ((m << 16) | (e & 0xFFFF)).astype(np.uint32)


def high_bits(l1: int) -> int:
    """b of numerics 2: the largest b <= 8 with (64.5 * l1 + 1) * 2^b <= 2^31 - 1, or -1."""
    return next((b for b in range(8, -1, -1) if (129 * l1 + 2) << b <= 2 * INT32_MAX), -1)


@dataclass(frozen=True, slots=True, eq=False)
class LoweredLinear:
    """A matrix with its requantization, ready to pack."""

    weights: WeightInts
    layout: WeightLayout
    scaling: int  # element of linear.shift


def lower_linear(
    tensor: QuantTensor,
    mode: ActMode,
    c_in: float,
    out_bits: int,
    arithmetic: Arithmetic = Arithmetic.PRECISE,
) -> LoweredLinear:
    """Requantization constants of one matrix whose output has `out_bits` fraction bits.

    c_in: real value of one unit of q * A * 2^E (with the 1/127 of A8 in it, for both modes).
    Raises QuantizationError when an accumulator could overflow 32 bits.
    """
    rows, columns = tensor.values.shape
    layout = WeightLayout(
        packing_for_bits(tensor.bits), rows, columns, min(tensor.group_size, columns)
    )
    widths = np.diff([*range(0, columns, layout.group_size), columns])
    whole = tensor.values * np.repeat(tensor.multipliers.astype(np.int64), widths, axis=1)
    l1 = int(np.abs(whole).sum(axis=1).max())
    bits = high_bits(l1) if mode is ActMode.A16 else 8
    most = INT32_MAX - (FAST_HALF if arithmetic is Arithmetic.FAST else 0)
    limit = INT32_MAX * 2 // 129 if mode is ActMode.A16 else most // 127
    if bits < 0 or l1 > limit:
        raise QuantizationError(
            "an accumulator could overflow 32 bits",
            [Problem(tensor.name, f"largest row sum of |weight| {l1}", f"at most {limit}")],
            fix="use per-channel scales (group size -1) or fewer bits for this layer",
        )
    scale = tensor.scale * c_in * 2.0**out_bits
    if mode is ActMode.A16:
        scale = tensor.scale * c_in * 127.0 * 2.0 ** (out_bits + 8 - bits)
    weights = WeightInts(tensor.values, tensor.multipliers, requant_words(scale, tensor.name))
    largest = ((l1 << 14 >> (8 - bits)) + 1) if mode is ActMode.A16 else 127 * l1
    headroom = min(31 - largest.bit_length(), MAX_HEADROOM)
    scaling = linear_scaling(8 - bits, headroom, weights.requant)
    if arithmetic is Arithmetic.FAST and l1:
        rms = np.median(np.sqrt((whole.astype(np.float64) ** 2).sum(axis=1))) / CREST
        unit = 2.0 ** (14 + bits - 8) if mode is ActMode.A16 else 127.0
        scaling |= narrowing(max(float(rms), 1.0) * unit, scaling) << NARROW_AT
    return LoweredLinear(weights, layout, scaling)


def lower_norm(gamma: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int16], float]:
    """(int16 gamma, real value of one unit): gamma * 2^k with max |gamma| in [2^14, 2^15)."""
    k = 15 - int(np.frexp(np.abs(gamma).max())[1]) if np.any(gamma) else 0
    ints = np.clip(np.rint(gamma * 2.0**k), -32768, 32767).astype(np.int16)
    return ints, 2.0**-k


def rope_table(config: ModelConfig, context: int) -> npt.NDArray[np.int16]:
    """cos then sin of each position in Q14: int16 (context, head_dim)."""
    angles = rope_angles(config.rope, config.head_dim, context)
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    rounded: npt.NDArray[np.int16] = np.rint(table * 16384.0).astype(np.int16)
    return rounded


def exp2_table() -> npt.NDArray[np.uint16]:
    """round(2^15 * 2^(-i/256)), i = 0..255."""
    return np.rint(2.0**15 * 2.0 ** (-np.arange(256) / 256)).astype(np.uint16)


def fast_exp2_table(exp_bits: int) -> npt.NDArray[np.uint16]:
    """round(2^(exp_bits - d/256)), d = 2i + 1/2, i = 0..2048, and d = 0 for i = 0."""
    d = 2 * np.arange(2049) + 0.5
    d[0] = 0.0
    return np.rint(2.0 ** (exp_bits - d / 256)).astype(np.uint16)


def sigmoid_table() -> npt.NDArray[np.uint16]:
    """round(2^15 / (1 + exp(-i/16))), i = 0..256."""
    return np.rint(32768.0 / (1.0 + np.exp(-np.arange(257) / 16))).astype(np.uint16)


def silu_table() -> npt.NDArray[np.uint16]:
    """What silu(x) lacks of x: T[i] = round(2^16 * x / (1 + exp(x))), x = i/32.

    512 pairs (T[i + 1] - T[i], T[i]), the difference as int16: words with T[i] as upper half.
    """
    x = np.arange(513) / 32
    values = np.rint(65536.0 * x / (1.0 + np.exp(x))).astype(np.int16)
    return np.stack([np.diff(values), values[:-1]], axis=1).ravel().view(np.uint16)


def input_constants(model: QuantModel, gamma_units: Mapping[str, float]) -> dict[str, float]:
    """c_in of every linear: the real value of one unit of its quantized input, 1/127 included."""
    root = sqrt(model.config.hidden_size)
    constants = {"lm_head": root * gamma_units["final.norm"] / 127.0}
    for name in model.linears:
        block, part, role = name.split(".")
        if role == "o_proj":
            constants[name] = 2.0**-ACTIVATION_BITS / 127.0 / 127.0
        elif role == "down_proj":
            constants[name] = 2.0 ** (-2 * ACTIVATION_BITS) / 127.0
        else:
            constants[name] = root * gamma_units[f"{block}.{part}.norm"] / 127.0
    return constants


def lower_model(model: QuantModel, config: LowerConfig) -> Program:
    """The integer program of a quantized model.

    Raises ConfigError for a context or site out of range, QuantizationError when an overflow
    bound cannot be proven.
    """
    check_lower_config(model.config, config)
    model, orders = settle_orders(model)
    norms = {name: lower_norm(gamma) for name, gamma in model.norms.items()}
    c_in = input_constants(model, {name: unit for name, (_, unit) in norms.items()})
    residual = config.residual_bits
    linears: dict[str, LoweredLinear] = {}
    for name, tensor in [*model.linears.items(), ("lm_head", model.head)]:
        role = name.rsplit(".", 1)[-1]
        out_bits = residual if role in ("o_proj", "down_proj") else ACTIVATION_BITS
        linears[name] = lower_linear(
            tensor, config.mode(SITE_OF[role]), c_in[name], out_bits, config.arithmetic
        )
    tied = model.head is model.embed
    layouts = {
        name: sparse_layout(linear.layout, model.patterns[name])
        if name in model.patterns
        else linear.layout
        for name, linear in linears.items()
    }
    if tied:
        layouts["embed"] = layouts.pop("lm_head")
    else:
        rows, columns = model.embed.values.shape
        packing = packing_for_bits(model.embed.bits)
        layouts["embed"] = WeightLayout(packing, rows, columns, columns, requant=False)
    adapters = _adapters(model, config, c_in)
    constants = _constants(model, config, norms, linears, tied)
    scalings = shared_scalings(
        {name: linear.scaling for name, linear in linears.items()}, SITE_OF, config.arithmetic
    )
    scalings += [linear.scaling for linear in adapters.values()]
    constants["linear.shift"] = np.array(scalings, np.uint32)
    constants |= {f"{name}.weight": linear.weights for name, linear in adapters.items()}
    gathers = gathers_of(orders, model.config.num_layers)
    inputs = {name: linear.layout.columns for name, linear in linears.items()}
    constants |= order_tables(orders, gathers, inputs, model.config.num_layers)
    program = assemble_program(model.config, layouts, config, constants)
    return with_facts(program, WeightFacts(model.ranks, gathers, model.blocks, model.silent))


def _adapters(
    model: QuantModel, config: LowerConfig, c_in: Mapping[str, float]
) -> dict[str, LoweredLinear]:
    """A and B of every adapted projection, by op id, in the order of the ops."""
    found = {}
    low = 2.0**-ACTIVATION_BITS / 127.0
    for name in (*model.linears, HEAD):
        if name not in model.adapters:
            continue
        role = name.rsplit(".", 1)[-1]
        out_bits = config.residual_bits if role in ("o_proj", "down_proj") else ACTIVATION_BITS
        mode, (down, up) = config.mode(SITE_OF[role]), model.adapters[name]
        how = config.arithmetic
        found[down.name] = lower_linear(down, mode, c_in[name], ACTIVATION_BITS, how)
        found[up.name] = lower_linear(up, mode, low, out_bits, how)
    return found


def _constants(
    model: QuantModel,
    config: LowerConfig,
    norms: Mapping[str, tuple[npt.NDArray[np.int16], float]],
    linears: Mapping[str, LoweredLinear],
    tied: bool,
) -> dict[str, WeightInts | npt.NDArray[np.generic]]:
    embed = model.embed
    words = requant_words(embed.scale * 2.0**config.residual_bits, "embed")
    plain = WeightInts(embed.values, embed.multipliers, np.zeros_like(words))
    constants: dict[str, WeightInts | npt.NDArray[np.generic]] = {
        "embed.weight": linears["lm_head"].weights if tied else plain,
        "embed.requant": words,
        "rope.table": rope_table(model.config, config.context),
    }
    gate_table = GATE_TABLES[config.arithmetic][0]
    if config.arithmetic is Arithmetic.FAST:
        exp_bits = attention_constants(model.config.head_dim, config.context)["exp_bits"]
        constants |= {"lut.exp2": fast_exp2_table(exp_bits), gate_table: silu_table()}
    else:
        constants |= {"lut.exp2": exp2_table(), gate_table: sigmoid_table()}
    constants.update({f"{name}.gamma": gamma for name, (gamma, _) in norms.items()})
    for name, linear in linears.items():
        if not (tied and name == "lm_head"):
            constants[f"{name}.weight"] = linear.weights
    return constants
