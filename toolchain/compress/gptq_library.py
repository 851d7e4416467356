"""GPTQ by the package gptqmodel: a float checkpoint and token windows -> codes by weight name.

What the package needs on few CPU cores, and how its output becomes reproducible: its own files are
read once and dropped; edgec writes the codes itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from toolchain.compress.checkpoint import Tensor
from toolchain.compress.gptq_format import CodeMatrix, read_codes
from toolchain.compress.grids import PER_CHANNEL, GridKind
from toolchain.compress.packages import surroundings
from toolchain.compress.quantized import module_of
from toolchain.compress.tensor_directory import TensorDirectory
from toolchain.model.errors import CompressionError, EnvironmentFailureError, Problem
from toolchain.model.gptq_settings import SETTINGS_FILE
from toolchain.model.json_fields import read_json_object

ENVIRONMENT = {
    "GPTQMODEL_CPU_WORKERS": "2",  # it wants more cores than small machines have
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class LibraryJob:
    """What the package is asked for."""

    source: Path
    kind: GridKind
    damp: float
    by_activation: bool
    device: str


def reason_against(shapes: Mapping[str, tuple[int, ...]], bits: int) -> str | None:
    """Why the package cannot pack matrices of these shapes; None when it can."""
    for name, (rows, columns) in shapes.items():
        unit = 32 if bits == 3 else 32 // bits
        if rows % unit or columns % unit:
            return f"{name} is {rows} x {columns}, not in multiples of {unit}"
    return None


def quantize_with_library(
    job: LibraryJob, tokens: Tensor, names: list[str], scratch: Path
) -> dict[str, CodeMatrix]:
    """Codes of the weights `names`; raises CompressionError when the package fails.

    `tokens` is (samples, positions); `scratch` is a directory for the package's own output.
    """
    job = replace(job, source=job.source.resolve())
    with TemporaryDirectory(dir=scratch.resolve()) as folder:
        try:
            # It leaves a folder of logs in the current directory.
            with surroundings(ENVIRONMENT), chdir(folder):
                _run(job, tokens, folder)
        except Exception as error:  # it raises types of its own
            text = str(error).strip().split("\n")[0] or type(error).__name__
            if getattr(error, "errno", None) is not None or "(os error" in text:
                fix = "make room, then run the same again"
                raise EnvironmentFailureError(f"gptqmodel: {text}", fix=fix) from error
            problem = Problem("gptqmodel", text, "a quantized model")
            fix = 'engine = "edgec" uses the implementation of edgec'
            raise CompressionError("GPTQ fails", [problem], fix) from error
        found = TensorDirectory.open(Path(folder))
        settings = read_json_object(Path(folder) / SETTINGS_FILE)
        checkpoint_format = str(settings["checkpoint_format"])
        return {
            name: read_codes(
                found.of_module(module_of(name)), module_of(name), job.kind.bits, checkpoint_format
            )
            for name in names
        }


def _run(job: LibraryJob, tokens: Tensor, folder: str) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig  # noqa: PLC0415 - 7 to 14 s
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()  # a second bar would break ours
    kind = job.kind
    settings: dict[str, Any] = {
        "bits": kind.bits,
        "group_size": kind.group_size,
        "sym": kind.sym,
        "desc_act": job.by_activation,
        "damp_percent": job.damp,
        "mse": 2.4 if kind.clip else 0.0,
        "pack_impl": "original",  # the default one compiles C++ for a minute
        "offload_to_disk": False,
        "device": job.device,
    }
    if kind.group_size == PER_CHANNEL or job.by_activation:
        settings["act_group_aware"] = False
    # float16: else scales are rounded to bfloat16.
    model = GPTQModel.load(str(job.source), QuantizeConfig(**settings), dtype=torch.float16)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens.tolist()]
    model.quantize(rows, batch_size=1)
    model.save(folder)
