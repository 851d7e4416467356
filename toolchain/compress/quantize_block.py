"""One block of a model through a method of the stage `quantize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from toolchain.compress import awq
from toolchain.compress.checkpoint import Block, Source, Tensor, block_name
from toolchain.compress.forward import Passes
from toolchain.compress.gptq import Hessian, Manner, quantize_matrix
from toolchain.compress.grids import GridKind, round_to_nearest
from toolchain.compress.llm_int8 import quantize_int8
from toolchain.compress.nf4 import quantize_nf4
from toolchain.compress.quantized import Matrix
from toolchain.model.names import LINEAR_SUFFIXES

if TYPE_CHECKING:
    from toolchain.compress.quantize import Options

# Projections that read the same input, in order of execution.
TOGETHER = (
    ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    ("attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@dataclass(frozen=True, slots=True, eq=False)
class BlockJob:
    """What all blocks share; `kinds` by op id, empty for methods without a grid."""

    options: Options
    kinds: Mapping[str, GridKind]
    passes: Passes | None
    copies: Mapping[int, int] = field(default_factory=dict)  # blocks that get codes of another

    def kinds_of(self, block: int) -> dict[str, GridKind]:
        """Grid by suffix."""
        prefix = f"l{block:02d}."
        return {s: self.kinds[prefix + s] for s in LINEAR_SUFFIXES if prefix + s in self.kinds}


@dataclass(frozen=True, slots=True, eq=False)
class BlockResult:
    """Quantized projections and changed floats by suffix, states behind the block."""

    matrices: dict[str, Matrix]
    changed: dict[str, Tensor] = field(default_factory=dict)
    states: Tensor | None = None
    details: dict[str, dict[str, Any]] = field(default_factory=dict)


def quantize_block(
    job: BlockJob, source: Source, block: int, weights: Block, states: Tensor
) -> BlockResult:
    """`weights` in float32, changed in place; `states` in front of the block, None without text."""
    return _METHODS[job.options.method](job, source, block, weights, states)


def repeat_block(
    job: BlockJob, first: BlockResult, weights: Block, states: Tensor | None
) -> BlockResult:
    """The result of an equal block once more; `states` in front of the copy, `weights` its own."""
    changed = {suffix: tensor.clone() for suffix, tensor in first.changed.items()}
    if states is None:
        return BlockResult(first.matrices, changed)
    if job.options.method == "gptq":  # whose later blocks see what the codes compute
        weights |= {s: m.decode().to(states_device(job)) for s, m in first.matrices.items()}
    return BlockResult(first.matrices, changed, _run(job, states, weights, None))


def _rtn(job: BlockJob, _: Source, block: int, weights: Block, __: Tensor) -> BlockResult:
    kinds = job.kinds_of(block)
    return BlockResult({s: round_to_nearest(weights[s], kind) for s, kind in kinds.items()})


def _nf4(job: BlockJob, _: Source, __: int, weights: Block, ___: Tensor) -> BlockResult:
    return BlockResult({s: quantize_nf4(weights[s], job.options.block) for s in LINEAR_SUFFIXES})


def _int8(job: BlockJob, _: Source, block: int, weights: Block, states: Tensor) -> BlockResult:
    largest: dict[str, Tensor] = {}

    def tap(suffix: str, x: Tensor) -> None:
        found = x.abs().amax(dim=0)
        largest[suffix] = torch.maximum(largest[suffix], found) if suffix in largest else found

    after = _run(job, states, weights, tap)
    threshold = job.options.threshold
    found = {s: quantize_int8(weights[s], largest[s], threshold) for s in LINEAR_SUFFIXES}
    counts = {f"l{block:02d}.{s}": len(matrix.columns) for s, matrix in found.items()}
    return BlockResult(dict(found), {}, after, {"outlier_columns": counts})


def _gptq(job: BlockJob, source: Source, block: int, weights: Block, states: Tensor) -> BlockResult:
    kinds, matrices = job.kinds_of(block), dict[str, Matrix]()
    for suffixes in TOGETHER:
        hessian = Hessian.zero(weights[suffixes[0]].shape[1], states_device(job))

        def tap(suffix: str, x: Tensor, h: Hessian = hessian, first: str = suffixes[0]) -> None:
            if suffix == first:
                h.add(x)
                raise _SeenError

        _run_to_tap(job, states, weights, tap)
        mean = hessian.mean()
        for suffix in suffixes:
            mask = source.masks.get(block_name(block, suffix))
            matrix = quantize_matrix(
                weights[suffix],
                mean,
                kinds[suffix],
                None if mask is None else torch.from_numpy(mask.keep),
                Manner(job.options.damp, job.options.desc_act),
            )
            matrices[suffix] = matrix
            weights[suffix] = matrix.decode().to(mean.device)
    return BlockResult(matrices, {}, _run(job, states, weights, None))


def _awq(job: BlockJob, _: Source, block: int, weights: Block, states: Tensor) -> BlockResult:
    seen: dict[str, awq.InputStatistics] = {}

    def tap(suffix: str, x: Tensor) -> None:
        if suffix not in seen:
            seen[suffix] = awq.InputStatistics.zero(x.shape[1], states_device(job))
        seen[suffix].add(x)

    after = _run(job, states, weights, tap)  # scaling does not change what the block computes
    kinds = job.kinds_of(block)
    alphas = awq.scale_block(weights, seen, kinds)
    matrices: dict[str, Matrix] = {s: round_to_nearest(weights[s], k) for s, k in kinds.items()}
    norms = {suffix: weights[suffix] for suffix in ("attn.norm", "mlp.norm")}
    named = {f"l{block:02d}.{maker}": alpha for maker, alpha in alphas.items()}
    return BlockResult(matrices, norms, after, {"alpha": named})


def states_device(job: BlockJob) -> str:
    """Where the arithmetic runs."""
    assert job.passes is not None
    return job.passes.device


def _run(
    job: BlockJob, states: Tensor, weights: Block, tap: Callable[[str, Tensor], None] | None
) -> Tensor:
    assert job.passes is not None
    runner = job.passes.runner
    return job.passes.apply(states, lambda x, w: runner(x, w, tap), weights)


class _SeenError(Exception):
    """Raised by a tap that has seen what it is for."""


def _run_to_tap(
    job: BlockJob, states: Tensor, weights: Block, tap: Callable[[str, Tensor], None]
) -> None:
    """The batches of `_run`, each only as far as the tap wants."""

    def form(x: Tensor, w: Block) -> Tensor:
        assert job.passes is not None
        with suppress(_SeenError):
            job.passes.runner(x, w, tap)
        return x[:0]

    assert job.passes is not None
    job.passes.apply(states, form, weights)


_METHODS: dict[str, Callable[..., BlockResult]] = {
    "rtn": _rtn,
    "gptq": _gptq,
    "awq": _awq,
    "nf4": _nf4,
    "llm.int8": _int8,
}
METHODS = tuple(_METHODS)
