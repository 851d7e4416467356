"""What the weights of a checkpoint say about the structure of its program."""

from __future__ import annotations

from collections.abc import Mapping

from toolchain.model.block_copies import copied_blocks
from toolchain.model.checkpoint import FloatModel
from toolchain.model.input_order import gathers_of
from toolchain.model.nm_pattern import Pattern
from toolchain.model.outline import WeightFacts
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.quantize import adapter_ranks_of
from toolchain.model.silent_parts import find_silent


def facts_of(model: FloatModel, quant: QuantConfig, patterns: Mapping[str, Pattern]) -> WeightFacts:
    """Adapters, orders of codes, copied blocks and silent parts, as `quantize_model` finds them."""
    layers = model.config.num_layers
    return WeightFacts(
        adapter_ranks_of(model),
        gathers_of(model.orders, layers),
        copied_blocks(model, quant, patterns),
        find_silent(model),
    )
