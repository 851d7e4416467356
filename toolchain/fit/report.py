"""The fit report as JSON values: one function for `edgec fit` and for report/fit.json of a bundle.

Sizes are bytes, as the packer and the planner count them; the rows of a region sum to its `used`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memory_planner.explain import Shortfall
from memory_planner.footprint import kv_position_size
from sim.profile import prefill
from sim.step import decode_step
from toolchain.fit.engines import engine_entries
from toolchain.fit.placements import weight_placements
from toolchain.fit.planning import Outcome, contributors
from toolchain.fit.sizes import count_parameters, gptq_checkpoint_size, packed_size
from toolchain.fit.speed import OFF_CHIP_BYTES_PER_SECOND, Speed
from toolchain.fit.width import width_report
from toolchain.model.errors import Problem
from toolchain.model.program import OpKind
from toolchain.model.silent_parts import cache_slots, silent_in

if TYPE_CHECKING:
    from toolchain.fit.remedies import Remedy

Json = dict[str, Any]


def fit_report(outcome: Outcome, remedies: Sequence[Remedy] = ()) -> Json:
    """Everything that is known about a planned design; docs/fit.md explains every key."""
    design, program, plan = outcome.design, outcome.program, outcome.plan
    parameters = count_parameters(design, program)
    return {
        "fits": outcome.fits,
        "target": plan.target,
        "context": design.context,
        "shape": asdict(program.shape),
        "silent": sorted(silent_in(program)),
        "settings": _settings(outcome),
        "what_if": design.what_if.to_dict(),
        "estimates": design.what_if.estimates(),
        "parameters": asdict(parameters),
        "bytes": {
            "fp16": 2 * parameters.dense,
            "gptq_checkpoint": gptq_checkpoint_size(design, program),
            "packed": packed_size(program),
        },
        "width": width_report(design, program),
        "kv_cache_bytes_per_position": _position_size(outcome),
        "kv_cache": _kv_cache(outcome),
        "regions": [
            {
                "name": region.name,
                "capacity": region.capacity,
                "used": region.used,
                "free": region.free,
                "arena_lower_bound": region.peak,
                "arena_proven": region.proven,
                "arena": region.arena_size,
            }
            for region in plan.regions
        ],
        "rows": [
            {"region": row.region, "category": row.category, "bytes": row.size} for row in plan.rows
        ],
        "placements": weight_placements(program, plan, outcome.target),
        "linears": engine_entries(outcome.decisions),
        "off_chip": _off_chip(outcome.speed),
        "problems": _problems(outcome.problems, outcome.shortfalls),
        "remedies": [remedy.to_dict() for remedy in remedies],
        "estimate": {
            "position": outcome.speed.position,
            "cycles_per_token": outcome.speed.cycles_per_token,
            "tokens_per_second": _rounded(outcome.speed.tokens_per_second),
            "bound_tokens_per_second": _rounded(outcome.speed.bound_tokens_per_second),
            "conservative_cycles_per_token": outcome.speed.conservative_cycles,
            "conservative_tokens_per_second": _rounded(
                outcome.speed.conservative_tokens_per_second
            ),
            "energy_uj_per_token": _energy(outcome.speed),
            "prefill": _prefill(outcome),
        },
    }


def _prefill(outcome: Outcome) -> Json:
    """The tokens up to the position of the estimate as one prompt, without bytes that lack room."""
    position = outcome.speed.position
    step = decode_step(outcome.program, outcome.plan, outcome.target, position)
    cost = prefill(step, position + 1)
    rate = _rounded(cost.tokens_per_second)
    how = {"tokens_per_second": rate, **cost.choice.to_dict(), "method": cost.choice.text}
    return {"tokens": cost.tokens, "cycles": cost.cycles, **how}


def _settings(outcome: Outcome) -> Json:
    """Bits and groups as asked for, activation widths by the op that quantizes them."""
    quant = outcome.design.quant
    modes = {
        op.role: op.mode.value
        for op in outcome.program.ops
        if op.mode is not None and op.kind is not OpKind.LINEAR
    }
    return {
        "bits": quant.bits,
        "group_size": quant.group_size,
        "embed_bits": quant.embed_bits,
        "head_bits": quant.head_bits,
        "overrides": [asdict(override) for override in quant.overrides],
        "activations": modes,
        "arithmetic": outcome.program.arithmetic.value,
        "prefill_batch": "auto" if outcome.design.batch is None else outcome.design.batch,
    }


def _rounded(rate: float) -> float:
    """Four digits: more would pretend to know."""
    return float(f"{rate:.4g}")


def _position_size(outcome: Outcome) -> int:
    """Bytes of KV cache per position, of all blocks."""
    program, bits = outcome.program, outcome.design.what_if.kv_bits
    return len(cache_slots(program)) * kv_position_size(program.shape, bits)


def _kv_cache(outcome: Outcome) -> Json:
    """Bytes of the cache, and per position as a formula."""
    shape, bits = outcome.program.shape, outcome.design.what_if.kv_bits
    width = f"{shape.head_dim}" if bits == 8 else f"{shape.head_dim} * {bits} / 8"
    blocks = len(cache_slots(outcome.program))
    return {
        "bits": bits,
        "formula": f"{blocks} blocks * 2 * {shape.kv_heads} KV heads * ({width} + 4) bytes",
        "bytes": _position_size(outcome) * shape.cache_rows,
    }


def _energy(speed: Speed) -> Json | None:
    """Limits of the energy of one token; None when the target has no figures."""
    if speed.energy is None:
        return None
    total = speed.energy.total
    spans = {"low": total.low, "nominal": total.nominal, "high": total.high}
    return {name: _rounded(value) for name, value in spans.items()}


def _off_chip(speed: Speed) -> Json:
    return {
        "bytes": speed.off_chip_size,
        "missing": speed.missing,
        "bytes_per_second": OFF_CHIP_BYTES_PER_SECOND,
        "status": "assumed",
        "ms_per_token": round(1000 * speed.off_chip_seconds, 3),
        "exposed_ms_per_token": round(1000 * speed.exposed_seconds, 3),
    }


def _problems(problems: Sequence[Problem], shortfalls: Sequence[Shortfall]) -> list[Json]:
    """Each problem as text; those of a region also with its numbers."""
    facts: list[Json] = [
        {
            "region": shortfall.region,
            "capacity": shortfall.capacity,
            "need": shortfall.need,
            "excess": shortfall.excess,
            "contributors": [
                {"name": name, "count": count, "bytes": size}
                for name, count, size in contributors(shortfall)
            ],
            "cannot_coexist": shortfall.conflict_facts(),
        }
        for shortfall in shortfalls
    ]
    numbers = facts or [{} for _ in problems]
    return [asdict(problem) | more for problem, more in zip(problems, numbers, strict=True)]
