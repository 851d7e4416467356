"""The stage kinds by name. A kind's module is imported when a recipe names it."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from toolchain.compress.stage import Run, StageOptions
from toolchain.model.errors import ToolError

INSTALL = "pip install 'edgec[compress]'"


@dataclass(frozen=True, slots=True)
class StageKind:
    """Where a kind lives, what it does in a few words, the packages that it needs.

    A kind that neither moves blocks nor changes shapes must keep every mask of its input. `takes`
    and `gives` are forms of a checkpoint: "float", "float with bits" (chosen per projection),
    "quantized" or "adapter".
    """

    module: str
    summary: str
    needs: tuple[str, ...] = ("torch",)
    keeps_masks: bool = True
    takes: tuple[str, ...] = ("float",)
    gives: str = "float"


STAGES: dict[str, StageKind] = {
    "allocate-bits": StageKind(
        "toolchain.compress.allocate_bits",
        "bits per projection under a byte budget",
        gives="float with bits",
    ),
    "depth": StageKind("toolchain.compress.depth", "remove whole blocks", keeps_masks=False),
    "eora": StageKind(
        "toolchain.compress.eora",
        "a low-rank adapter beside a quantized model",
        keeps_masks=False,
        takes=("quantized",),
        gives="adapter",
    ),
    "layer-order": StageKind(
        "toolchain.compress.layer_order", "run blocks in any order", keeps_masks=False
    ),
    "lora": StageKind(
        "toolchain.compress.lora",
        "train low-rank updates and merge them under the masks",
        needs=("torch", "transformers", "peft"),
    ),
    "quantize": StageKind(
        "toolchain.compress.quantize",
        "RTN, GPTQ, AWQ, NF4 or LLM.int8",
        takes=("float", "float with bits"),
        gives="quantized",
    ),
    "structured": StageKind(
        "toolchain.compress.structured",
        "remove feed-forward neurons, heads and attention modules",
        keeps_masks=False,
    ),
    "width": StageKind("toolchain.compress.width", "zero single weights, N:M or by rate"),
}


@dataclass(frozen=True, slots=True)
class LoadedKind:
    """The two things that every stage module has."""

    options: type[StageOptions]
    run: Run


def load_kind(kind: str) -> LoadedKind:
    """Import a known kind; raises ToolError when a package that it needs is not installed."""
    entry = STAGES[kind]
    missing = [name for name in entry.needs if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the stage {kind} needs {', '.join(missing)}, not installed here"
        raise ToolError(what, fix=INSTALL)
    module: Any = importlib.import_module(entry.module)
    return LoadedKind(module.Options, module.run)
