"""The reports of a compile as plain JSON values: memory fit, quantization, latency.

Sizes are bytes, as the packer and the planner count them; nothing is computed twice. `edgec fit`
prints the same memory report from a program without weights.
"""

from __future__ import annotations

from typing import Any

from memory_planner.plan import Plan
from sim.latency import LatencyReport
from toolchain.model.program import Program
from toolchain.model.quantize import QuantModel

Json = dict[str, Any]


def build_reports(
    quant: QuantModel, program: Program, plan: Plan, latency: LatencyReport
) -> dict[str, Json]:
    """File name under report/ -> content."""
    return {
        "fit.json": fit_report(program, plan, latency),
        "quantization.json": quantization_report(quant, program),
        "latency.json": latency.to_dict(),
    }


def fit_report(program: Program, plan: Plan, latency: LatencyReport) -> Json:
    """Use of every region, the rows that sum to it, and what the KV cache costs per position."""
    shape = program.shape
    parameters = _parameters(program)
    return {
        "fits": True,
        "target": plan.target,
        "context": shape.context,
        "parameters": {"dense": parameters, "kept": parameters},
        "bytes": {
            "fp16": 2 * parameters,
            "packed": sum(spec.size for spec in program.tensors.values() if spec.layout),
        },
        "kv_cache_bytes_per_position": shape.layers * shape.kv_heads * 2 * (shape.head_dim + 4),
        "regions": [
            {
                "name": region.name,
                "capacity": region.capacity,
                "used": region.used,
                "free": region.free,
                "arena_lower_bound": region.peak,
                "arena": region.arena_size,
            }
            for region in plan.regions
        ],
        "rows": [
            {"region": row.region, "category": row.category, "bytes": row.size} for row in plan.rows
        ],
        "estimate": {
            "position": latency.position,
            "cycles_per_token": latency.cycles_per_token,
            "tokens_per_second": round(latency.tokens_per_second, 1),
            "bound_tokens_per_second": round(latency.bound_tokens_per_second, 1),
        },
    }


def _parameters(program: Program) -> int:
    """Weights of the model, tied tensors once; tables that edgec adds do not count."""
    specs = program.tensors.values()
    matrices = sum(spec.layout.rows * spec.layout.columns for spec in specs if spec.layout)
    norms = sum(spec.shape[0] for spec in specs if spec.name.endswith(".gamma"))
    return matrices + norms


def quantization_report(quant: QuantModel, program: Program) -> Json:
    """Per stored matrix: setting, packing, bytes, and the signal-to-noise ratio of its weights."""
    tensors = []
    for name, tensor in {"embed": quant.embed, **quant.linears, "lm_head": quant.head}.items():
        spec = program.tensors.get(f"{name}.weight")
        if spec is None or spec.layout is None:  # a tied head is the embedding
            continue
        tensors.append(
            {
                "op": name,
                "rows": spec.layout.rows,
                "columns": spec.layout.columns,
                "bits": tensor.bits,
                "group_size": tensor.group_size,
                "packing": spec.layout.packing.value,
                "bytes": spec.size,
                "scale_bytes": spec.layout.scale_size,
                "snr_db": round(quant.weight_snr_db[name], 2),
            }
        )
    sites = {op.role: op.mode.value for op in program.ops if op.mode is not None}
    return {"tensors": tensors, "activations": sites, "residual_bits": program.residual_bits}
