"""The reports of a compile as plain JSON values: memory fit, quantization, latency.

Sizes are bytes, as the packer and the planner count them; nothing is computed twice. `edgec fit`
prints the same memory report from a program without weights.
"""

from __future__ import annotations

from typing import Any

from sim.profile import Profile
from toolchain.fit.planning import Outcome
from toolchain.fit.report import fit_report
from toolchain.model.matrix_storage import packing_name
from toolchain.model.packing import WeightInts
from toolchain.model.program import (
    FAST_FACTOR_BITS,
    FAST_SUM_BITS,
    NARROW_AT,
    NARROW_BITS,
    Arithmetic,
    MatrixLayout,
    OpKind,
    Program,
    fast_drop,
)
from toolchain.model.quantize import QuantModel

Json = dict[str, Any]


def build_reports(quant: QuantModel, outcome: Outcome, profile: Profile) -> dict[str, Json]:
    """File name under report/ -> content."""
    return {
        "fit.json": fit_report(outcome),
        "quantization.json": quantization_report(quant, outcome.program),
        "latency.json": profile.to_dict(),
    }


def _origin(quant: QuantModel, op_id: str) -> Json:
    """Of a matrix whose integers are those of the checkpoint: what happened to its scales."""
    if op_id not in quant.scale_changes:
        return {}
    return {
        "integers": "checkpoint",
        "scale_change_max": float(f"{quant.scale_changes[op_id]:.3g}"),
    }


def _rounding(program: Program, weight: str) -> Json:
    """Bits that fast arithmetic leaves to the sums and scales of a matrix (numerics 11)."""
    if program.arithmetic is Arithmetic.PRECISE:
        return {}
    linears = (op for op in program.ops if op.kind is OpKind.LINEAR and weight in op.inputs)
    op = next(linears, None)
    if op is None:
        return {}  # an embedding of its own
    scalings = program.constants["linear.shift"]
    assert not isinstance(scalings, WeightInts)
    scaling = int(scalings[op.attrs["shift_index"]])
    narrow = scaling >> NARROW_AT & NARROW_BITS
    bits = {"sum_bits": FAST_SUM_BITS + narrow, "factor_bits": FAST_FACTOR_BITS - narrow}
    return {**bits, "dropped_bits": fast_drop(scaling)}


def quantization_report(quant: QuantModel, program: Program) -> Json:
    """Per stored matrix: setting, packing, bytes, and the signal-to-noise ratio of its weights."""
    tensors = []
    adapters = {each.name: each for pair in quant.adapters.values() for each in pair}
    matrices = {"embed": quant.embed, **quant.linears, **adapters, "lm_head": quant.head}
    for name, tensor in matrices.items():
        spec, table = (program.tensors.get(f"{name}.{part}") for part in ("weight", "requant"))
        if spec is None or not isinstance(spec.layout, MatrixLayout):
            continue  # a tied head is the embedding
        beside = table.size if table and table.layout else 0  # of an engine's words
        tensors.append(
            {
                "op": name,
                "rows": spec.layout.rows,
                "columns": spec.layout.columns,
                "bits": tensor.bits,
                "group_size": tensor.group_size,
                "packing": packing_name(spec.layout),
                "bytes": spec.size + beside,
                "scale_bytes": spec.scale_size + (table.scale_size if beside and table else 0),
                "snr_db": round(quant.weight_snr_db[tensor.name], 2),
                **_origin(quant, tensor.name),
                **_rounding(program, spec.name),
            }
        )
    sites = {op.role: op.mode.value for op in program.ops if op.mode is not None}
    how = {"residual_bits": program.residual_bits, "arithmetic": program.arithmetic.value}
    return {"tensors": tensors, "activations": sites, **how}
