"""What the weights of a checkpoint say about the structure of its program."""

from __future__ import annotations

from toolchain.model.checkpoint import FloatModel
from toolchain.model.input_order import gathers_of
from toolchain.model.outline import WeightFacts
from toolchain.model.quantize import adapter_ranks_of


def facts_of(model: FloatModel) -> WeightFacts:
    """Adapters and orders of codes; nothing for a model of floats."""
    layers = model.config.num_layers
    return WeightFacts(adapter_ranks_of(model), gathers_of(model.orders, layers))
