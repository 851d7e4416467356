"""Engine programs for tests: tiny quantized models, planned with one choice of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory_planner.engines import Assignment, EngineChoice
from memory_planner.plan import Plan
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from tests.model.tiny import write_model
from toolchain.model.checkpoint import load_model
from toolchain.model.lower import lower_model
from toolchain.model.outline import SITES, LowerConfig
from toolchain.model.program import ActMode, Program
from toolchain.model.quantize import QuantConfig, quantize_model

SIRACUSA = load_target("siracusa")


@dataclass(frozen=True)
class Lowered:
    """A lowered model for the cores, and the bits of its matrices."""

    program: Program
    bits: Mapping[str, int]


def lowered(
    directory: Path,
    quant: QuantConfig,
    modes: Mapping[str, ActMode] | ActMode = ActMode.A16,
    **shape: Any,
) -> Lowered:
    """A random model of `shape`, quantized and lowered."""
    values = {"context": 8, **shape}
    write_model(directory, **values)
    model = quantize_model(load_model(directory), quant)
    widths = dict.fromkeys(SITES, modes) if isinstance(modes, ActMode) else modes
    program = lower_model(model, LowerConfig(values["context"], widths))
    bits = {name: tensor.bits for name, tensor in model.linears.items()}
    return Lowered(program, {**bits, "embed": model.embed.bits, "lm_head": model.head.bits})


def planned(
    model: Lowered, choice: EngineChoice = EngineChoice.NEUREKA, target: TargetSpec = SIRACUSA
) -> tuple[Assignment, Plan]:
    """The model with its linears assigned, and its plan."""
    assigned = choose_engines(model.program, target, choice, model.bits)
    return assigned, plan_memory(assigned.program, target)


def without_engine(target: TargetSpec = SIRACUSA) -> TargetSpec:
    """The target as if it had none."""
    return replace(target, engine=None)
