"""How much each matrix of a model minds being quantized, and what one bit more or less changes.

Everything is measured on calibration windows by the float forward pass in NumPy. Per matrix, with
all others in float: the SNR of the weights, SNR and cosine of its outputs on the inputs that the
float model gives it, and the loss in nats per token.

The loss is the mean Kullback-Leibler divergence of the predicted distributions from those of the
float model. It equals the expected rise of the negative log-likelihood on text that the float
model is right about, is never negative, and needs far fewer tokens than the rise on the text
itself, which for a single matrix drowns in noise (the report has it, too). The sum of all losses
predicts the loss of the whole quantized model to first order; the report sets the measured one
beside it. Bytes are asked of the packer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import dense, network_of_float
from toolchain.evaluate.scoring import F32, Ints
from toolchain.model.checkpoint import FloatModel
from toolchain.model.coded_settings import with_codes
from toolchain.model.group_scales import quantize_matrix
from toolchain.model.names import EMBED, HEAD, hf_name_of
from toolchain.model.outline import weight_layouts
from toolchain.model.packing import WeightLayout, packing_for_bits
from toolchain.model.quant_settings import (
    HIGHEST_BITS,
    LOWEST_BITS,
    QuantConfig,
    TensorSetting,
    effective_settings,
)
from toolchain.model.quantize import MAX_SNR_DB, QuantTensor, quantize_adapters, quantize_tensor
from toolchain.model.silent_parts import find_silent, part_of
from toolchain.model.sparsity import find_patterns

Progress = Callable[[str], None]
Weights = Mapping[str, F32]


@dataclass(frozen=True, slots=True)
class Effect:
    """One matrix at one width, all others in float."""

    bits: int
    size: int  # stored bytes, scales included
    weight_snr_db: float
    output_snr_db: float
    output_cosine: float
    loss: float  # KL divergence from the float model, nats per token
    nll_change: float  # of the text itself, nats per token


@dataclass(frozen=True, slots=True)
class MatrixSensitivity:
    """A matrix at its setting, and one bit to either side where there is one."""

    op_id: str
    shape: tuple[int, int]
    group_size: int  # columns per scale
    effect: Effect
    less: Effect | None
    more: Effect | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """All matrices, and the mean negative log-likelihood (nats per token) of whole models."""

    matrices: tuple[MatrixSensitivity, ...]
    float_nll: float
    quantized_nll: float  # all matrices at their settings, float arithmetic
    quantized_loss: float  # KL divergence of that model from the float model

    @property
    def predicted_loss(self) -> float:
        """The sum of the losses of all matrices."""
        return sum(matrix.effect.loss for matrix in self.matrices)

    @property
    def predicted_nll(self) -> float:
        """The float model's plus the predicted loss."""
        return self.float_nll + self.predicted_loss


def measure_sensitivity(
    model: FloatModel, quant: QuantConfig, windows: Sequence[Ints], progress: Progress
) -> Sensitivity:
    """Measure every matrix of `model` that a program has, around the settings of `quant`.

    Adapters beside integer codes stay as a build has them while their matrix changes. Raises
    ConfigError for settings that cannot be used.
    """
    quant = with_codes(model, quant)
    products = {
        op_id: dense(up) @ dense(down) for op_id, (down, up) in quantize_adapters(model, {}).items()
    }
    silent = find_silent(model)
    settings = {
        op_id: setting
        for op_id, setting in effective_settings(model.config, quant).items()
        if part_of(op_id) not in silent
    }
    layouts = weight_layouts(model.config, quant, find_patterns(model, quant))
    bench = _Bench(model, windows)
    quantized: dict[str, F32] = {}
    found = []
    for op_id, setting in settings.items():
        progress(op_id)
        inputs = bench.inputs(op_id)
        effects = {}
        code = model.codes.get(hf_name_of(op_id))
        base = bench.weights[op_id] if code is None else code.read().dequantize()
        for bits in _widths(setting.bits):
            if bits == setting.bits:  # a coded matrix as it is
                weights = dense(quantize_tensor(model, op_id, setting)[0])
            else:
                weights = _quantized(base, replace(setting, bits=bits))
            weights = weights + products[op_id] if op_id in products else weights
            effects[bits] = bench.effect(op_id, weights, bits, layouts[op_id], inputs)
            if bits == setting.bits:
                quantized[op_id] = weights
        rows, columns = bench.weights[op_id].shape
        found.append(
            MatrixSensitivity(
                op_id,
                (rows, columns),
                layouts[op_id].group_size,
                effects[setting.bits],
                effects.get(setting.bits - 1),
                effects.get(setting.bits + 1),
            )
        )
    nll, loss = bench.run(quantized)
    return Sensitivity(tuple(found), bench.base, nll, loss)


def _widths(bits: int) -> Iterator[int]:
    return (b for b in (bits - 1, bits, bits + 1) if LOWEST_BITS <= b <= HIGHEST_BITS)


def _quantized(weights: F32, setting: TensorSetting) -> F32:
    """The real weights after quantization, (n_out, n_in)."""
    columns = weights.shape[1]
    group = columns if setting.group_size == -1 else min(setting.group_size, columns)
    result = quantize_matrix(weights, setting.bits, group)
    return dense(
        QuantTensor("", result.values, setting.bits, group, result.multipliers, result.scale)
    )


class _Bench:
    """The float model with its residual stream before each block, for all windows."""

    def __init__(self, model: FloatModel, windows: Sequence[Ints]) -> None:
        self._probed: dict[str, list[F32]] = {}
        self._wanted = ""
        self._session = FloatSession(network_of_float(model), self._probe)
        self._windows = windows
        self._tied = model.config.tie_word_embeddings
        self._layers = model.config.num_layers
        self.weights: Weights = dict(self._session.weights)
        # Behind block n - 1, per window; a change in block n leaves it as it is.
        self._states = [[self.weights[EMBED][row[:-1]] for row in windows]]
        for layer in range(self._layers):
            self._states.append([self._session.block(layer, x) for x in self._states[-1]])
        self._float = [log_softmax(self._session.head(x)) for x in self._states[-1]]
        self.base, _ = self._run_from(self._layers)

    def _probe(self, op_id: str, x: F32) -> None:
        if op_id == self._wanted:
            self._probed.setdefault(op_id, []).append(x)

    def inputs(self, op_id: str) -> F32:
        """Inputs (tokens, n_in) of a projection; of a lookup, its one-hot rows are left out.

        A tied embedding is judged by what it does as the head.
        """
        if op_id == EMBED and not self._tied:
            return np.empty((0, 0), np.float32)
        self._wanted = HEAD if op_id == EMBED else op_id
        layer = _layer(self._wanted)
        for x in self._states[self._layers if layer is None else layer]:
            if layer is None:
                self._session.head(x)
            else:
                self._session.block(layer, x)
        found = np.concatenate(self._probed.pop(self._wanted))
        self._wanted = ""
        return found

    def effect(
        self, op_id: str, weights: F32, bits: int, layout: WeightLayout, inputs: F32
    ) -> Effect:
        """What `weights` in the place of the float ones change."""
        original = self.weights[op_id]
        if inputs.size:
            before, after = inputs @ original.T, inputs @ weights.T
        else:
            ids = np.concatenate([row[:-1] for row in self._windows])
            before, after = original[ids], weights[ids]
        size = replace(layout, packing=packing_for_bits(bits)).size
        nll, loss = self.run({op_id: weights})
        return Effect(
            bits=bits,
            size=size,
            weight_snr_db=snr_db(original, weights),
            output_snr_db=snr_db(before, after),
            output_cosine=cosine(before, after),
            loss=loss,
            nll_change=nll - self.base,
        )

    def run(self, changed: Weights) -> tuple[float, float]:
        """Mean negative log-likelihood and KL divergence with some weights replaced."""
        with self._replaced(changed):
            if EMBED in changed:
                states = [self._session.weights[EMBED][row[:-1]] for row in self._windows]
                return self._run_from(0, states)
            layers = [_layer(op_id) for op_id in changed]
            first = min((layer for layer in layers if layer is not None), default=self._layers)
            return self._run_from(first)

    @contextmanager
    def _replaced(self, changed: Weights) -> Iterator[None]:
        self._session.weights.update(changed)
        if self._tied and EMBED in changed:
            self._session.weights[HEAD] = changed[EMBED]
        try:
            yield
        finally:
            self._session.weights.update(self.weights)

    def _run_from(self, first: int, states: Sequence[F32] | None = None) -> tuple[float, float]:
        """From the residual stream before block `first` on."""
        nll, divergence, count = 0.0, 0.0, 0
        rows = zip(self._windows, states or self._states[first], self._float, strict=True)
        for tokens, state, reference in rows:
            x = state
            for layer in range(first, self._layers):
                x = self._session.block(layer, x)
            found = log_softmax(self._session.head(x))
            nll -= float(np.take_along_axis(found, tokens[1:, None], axis=1).sum(dtype=np.float64))
            terms = np.exp(reference) * (reference - found)
            divergence += float(terms.sum(dtype=np.float64))
            count += len(found)
        return nll / count, divergence / count


def log_softmax(logits: F32) -> F32:
    """Logarithm of the probabilities, (T, vocab)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: F32 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _layer(op_id: str) -> int | None:
    """Block of a projection, None outside the blocks."""
    block = op_id.split(".", maxsplit=1)[0]
    return None if op_id in (EMBED, HEAD) else int(block[1:])


def snr_db(signal: F32, approximation: F32) -> float:
    """Power of `signal` over that of the difference in dB, within +-MAX_SNR_DB."""
    wide = signal.astype(np.float64)
    power = float((wide**2).sum())
    noise = float(((approximation - wide) ** 2).sum())
    if noise == 0:
        return MAX_SNR_DB
    if power == 0:
        return -MAX_SNR_DB
    return max(-MAX_SNR_DB, min(MAX_SNR_DB, 10 * math.log10(power / noise)))


def cosine(left: F32, right: F32) -> float:
    """Cosine of the angle between two arrays taken as vectors; 0 when one is zero."""
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    norms = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norms if norms else 0.0
