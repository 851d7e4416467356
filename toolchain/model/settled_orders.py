"""QuantModel -> the same model with every order of inputs where the program can have it.

The inputs of down_proj are neurons: their order becomes that of the rows of gate_proj and up_proj.
The matrices A of adapters read what their projection reads, so their columns follow its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toolchain.model.input_order import Order, folds
from toolchain.model.quantize import QuantModel, QuantTensor

T = TypeVar("T", bound=np.generic)
MAKERS = ("mlp.gate_proj", "mlp.up_proj")


def settle_orders(model: QuantModel) -> tuple[QuantModel, Mapping[str, Order]]:
    """The model with the order of down_proj folded away, and the others that are left, by op id."""
    orders = {name: t.order for name, t in model.linears.items() if t.order is not None}
    if model.head.order is not None:
        orders[model.head.name] = model.head.order
    if not orders:
        return model, {}
    linears, adapters = dict(model.linears), dict(model.adapters)
    for name, order in orders.items():
        if name in adapters:
            down, up = adapters[name]
            values = _frozen(np.ascontiguousarray(down.values[:, order]))
            adapters[name] = replace(down, values=values), up
        if not folds(name):
            continue
        block = name.partition(".")[0]
        linears[name] = replace(linears[name], order=None)
        for maker in (f"{block}.{suffix}" for suffix in MAKERS):
            linears[maker] = _rows(linears[maker], order)
            if maker in adapters:
                adapters[maker] = adapters[maker][0], _rows(adapters[maker][1], order)
    settled = replace(model, linears=MappingProxyType(linears), adapters=MappingProxyType(adapters))
    return settled, {name: order for name, order in orders.items() if not folds(name)}


def _rows(tensor: QuantTensor, order: Order) -> QuantTensor:
    """A matrix with its rows in another order."""
    return replace(
        tensor,
        values=_frozen(tensor.values[order]),
        multipliers=_frozen(tensor.multipliers[order]),
        scale=_frozen(tensor.scale[order]),
    )


def _frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    array.setflags(write=False)
    return array
