"""The reports of a compile as plain JSON values: memory fit, quantization, latency.

Sizes are bytes, as the packer and the planner count them; nothing is computed twice. `edgec fit`
prints the same memory report from a program without weights.
"""

from __future__ import annotations

from typing import Any

from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from sim.profile import Profile
from toolchain.fit.design import Design
from toolchain.fit.planning import Outcome
from toolchain.fit.report import fit_report
from toolchain.fit.speed import speed_of
from toolchain.model.matrix_storage import packing_name
from toolchain.model.program import Program
from toolchain.model.quantize import QuantModel

Json = dict[str, Any]


def build_reports(
    quant: QuantModel, program: Program, plan: Plan, target: TargetSpec, profile: Profile
) -> dict[str, Json]:
    """File name under report/ -> content."""
    context = program.shape.context
    design = Design(quant.config, quant.quant, context, patterns=quant.patterns)
    speed = speed_of(profile.readings, profile.energy)
    outcome = Outcome(design, program, plan, speed, target, problems=(), shortfalls=())
    return {
        "fit.json": fit_report(outcome),
        "quantization.json": quantization_report(quant, program),
        "latency.json": profile.to_dict(),
    }


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
                "packing": packing_name(spec.layout),
                "bytes": spec.size,
                "scale_bytes": spec.layout.scale_size,
                "snr_db": round(quant.weight_snr_db[name], 2),
            }
        )
    sites = {op.role: op.mode.value for op in program.ops if op.mode is not None}
    return {"tensors": tensors, "activations": sites, "residual_bits": program.residual_bits}
