"""Which bytes hold an activation: those of a step, or those of a token of a prompt's batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory_planner.plan import Placement, Plan
from sim.ops import Ints
from toolchain.model.program import Kind, TensorSpec


@dataclass(frozen=True, slots=True)
class Chosen:
    """The tokens that ops work for: places in the batch, None without one."""

    batch: Mapping[str, tuple[Placement, ...]]  # by tensor, for each place of a batch
    tokens: tuple[int, ...] = ()

    def places(self, plan: Plan, name: str) -> Sequence[Placement]:
        """One place per token."""
        if self.tokens and name in self.batch:
            return [self.batch[name][token] for token in self.tokens]
        return [plan.placements[name]]


def token_places(plan: Plan, tensors: Mapping[str, TensorSpec]) -> dict[str, tuple[Placement, ...]]:
    """Where each token of a batch has its activations; every one has a name of its own."""
    if plan.prefill is None:
        return {}
    how, buffer = plan.prefill, plan.placements[plan.prefill.buffer]
    return {
        name: tuple(
            Placement(
                f"{name} of token {token}",
                buffer.region,
                buffer.offset + token * how.stride + offset,
                tensors[name].size,
                buffer.first,
                buffer.last,
            )
            for token in range(how.batch)
        )
        for name, offset in how.offsets.items()
    }


def decode(
    raw: npt.NDArray[np.uint8], spec: TensorSpec, shape: tuple[int, ...] | None = None
) -> Ints:
    """The values of a tensor's bytes, or of a part of it with another shape."""
    assert spec.kind is not Kind.WEIGHT
    typed = np.frombuffer(raw.tobytes(), np.dtype(spec.dtype.value).newbyteorder("<"))
    return typed.astype(np.int64).reshape(spec.shape if shape is None else shape)


def encode(value: Ints, spec: TensorSpec) -> npt.NDArray[np.generic]:
    """A tensor's values as they are stored."""
    typed = value.reshape(spec.shape).astype(np.dtype(spec.dtype.value).newbyteorder("<"))
    assert (typed == value.reshape(spec.shape)).all(), f"{spec.name} exceeds {spec.dtype}"
    return typed
