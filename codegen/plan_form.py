"""The form of plan.json, derived from the dataclasses that it holds."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from codegen.forms import Each, Fixed, Form
from memory_planner.engine_plan import ChainPlan, EngineLinear, EnginePlan, JobPlan, PiecePlan
from memory_planner.engine_registers import REGISTERS
from memory_planner.plan import LinearPlan, Placement, Plan, PrefillPlan, StreamPlan, Transfer
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Op, ProgramShape, TensorSpec
from toolchain.model.requant_table import RequantLayout
from toolchain.model.sparse_packing import SparseLayout


def form_of(record: type, **others: Form) -> dict[str, Form]:
    """An object with the fields of a dataclass; `others` spells those that JSON writes its way."""
    hints = get_type_hints(record)
    return {
        field.name: others.get(field.name) or _form(hints[field.name]) for field in fields(record)
    }


def _form(hint: Any) -> Form:
    """The form of an annotation: a scalar, a union, a tuple of equal items or a mapping."""
    origin, items = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return tuple(None if item is NoneType else _form(item) for item in items)
    if origin is tuple:
        return [_form(items[0])]
    if origin is not None:
        return Each(_form(items[1]))
    if isinstance(hint, type) and is_dataclass(hint):
        return form_of(hint)
    return str if issubclass(hint, Enum) else hint


def _optional(form: dict[str, Form], *names: str) -> dict[str, Form]:
    return {f"{name}?" if name in names else name: inner for name, inner in form.items()}


_SPARSE = {**form_of(SparseLayout, pattern=str), "fields": str}
_OP = form_of(Op)
_TRANSFER = Fixed((int,) * len(fields(Transfer)))
_TABLE = {**form_of(RequantLayout), "packing": str}
_LAYOUT = (form_of(WeightLayout), _SPARSE, form_of(EngineLayout), _TABLE)
_JOB = form_of(JobPlan, registers=Fixed((int,) * REGISTERS))
_PIECE = Fixed((int,) * len(fields(PiecePlan)))
_CHAIN = form_of(ChainPlan, linears=[form_of(EngineLinear, pieces=[_PIECE])], jobs=[_JOB])
_TENSOR = form_of(TensorSpec, layout=_LAYOUT)
_PLAN = form_of(
    Plan,
    placements=[form_of(Placement)],
    engine=form_of(EnginePlan, chains=[_CHAIN]),
    linears=[form_of(LinearPlan, transfers=[_TRANSFER])],
    streams=_optional(form_of(StreamPlan), "begins"),
    prefill=_optional(form_of(PrefillPlan, chains=[_CHAIN]), "chains"),
)

PLAN_FORM: Form = {
    "format": int,
    "program": {
        "shape": form_of(ProgramShape),
        "residual_bits": int,
        "arithmetic?": str,
        "tensors": [_optional(_TENSOR, "layout")],
        "ops": [_optional(_OP, "mode", "attrs")],
    },
    "plan": _optional(_PLAN, "streams", "engine", "prefill"),
}
