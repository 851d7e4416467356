"""The integer program of a quantized model without a target: what a compile of it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sim.generate import LOGIT_UNIT
from sim.session import Session
from toolchain.calibrate import CALIBRATION_TOKENS, fit_residual_bits, sample_tokens
from toolchain.evaluate.session_model import SessionModel
from toolchain.model.lower import lower_model
from toolchain.model.outline import LowerConfig, check_lower_config
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantModel
from toolchain.model.tokenizer import Tokenizer


def model_of_quant(
    quant: QuantModel, tokenizer: Tokenizer, context: int, modes: Mapping[str, ActMode]
) -> SessionModel:
    """`quant` on the fast integer simulator, with the fixed point that `edgec compile` chooses.

    Raises QuantizationError when an overflow bound of the arithmetic fails.
    """
    config = LowerConfig(context, modes)
    check_lower_config(quant.config, config)
    sample = sample_tokens(tokenizer, quant.config, min(CALIBRATION_TOKENS, context))
    config = replace(config, residual_bits=fit_residual_bits(quant, config, sample))
    program = lower_model(quant, config)
    return SessionModel(Session(program, program.constants), context, LOGIT_UNIT)
