"""Quantized formats that no integer program can hold exactly: why not, and the nearest that can.

The codes of a format are compiled unchanged or not at all. What a format stores is told by
`quant_method` of its settings; the reasons are those of the published definitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain.model.errors import Problem
from toolchain.model.json_fields import ProblemLog
from toolchain.model.safetensors_file import read_header

FLOAT_4 = "compile the float checkpoint with --bits 4, or quantize it to GPTQ"
FLOAT_8 = "compile the float checkpoint with --bits 8"
SUPPORTED = "GPTQ of 2, 3, 4 or 8 bits, AWQ of version gemm, and floats in f32, f16 or bf16"
MOST_MODULES = 12  # named in one message

_PART = re.compile(r"(.*\.[a-z_]+_proj|lm_head|model\.embed_tokens)\.(?!(?:weight|bias)$).+")
_LOOKUP = "weights are entries of a table of real numbers, not multiples of a step"
_REASONS: Mapping[str, tuple[str, str]] = {
    "awq": (
        "versions other than gemm lie in the order of their GPU kernels",
        "save it with version gemm, or quantize with method awq of `edgec compress`",
    ),
    "nf4": (f"NF4: {_LOOKUP}", FLOAT_4),
    "fp4": (f"FP4: {_LOOKUP}", FLOAT_4),
    "int8": ("LLM.int8() multiplies columns of large activations as float16", FLOAT_8),
    "fp8": ("weights are 8-bit floats, and the kernels multiply integers", FLOAT_8),
    "fbgemm_fp8": ("weights are 8-bit floats, and the kernels multiply integers", FLOAT_8),
    "mxfp4": (f"MXFP4: {_LOOKUP}", FLOAT_4),
    "hqq": ("its zero points are real numbers, not integers", FLOAT_4),
    "aqlm": (f"additive codebooks: {_LOOKUP}", FLOAT_4),
    "quip": (f"lattice codebooks: {_LOOKUP}", FLOAT_4),
    "vptq": (f"vector codebooks: {_LOOKUP}", FLOAT_4),
    "higgs": (f"vector codebooks: {_LOOKUP}", FLOAT_4),
    "exl2": ("bits change within a matrix", FLOAT_4),
    "exl3": (f"trellis codes: {_LOOKUP}", FLOAT_4),
    "marlin": (
        "its words are permuted for GPU kernels",
        "compile the GPTQ checkpoint that it was made from",
    ),
    "gptq_p": (
        "its words are split into planes of bits",
        "save the checkpoint in format gptq or gptq_v2",
    ),
    "bitblas": (
        "its words are permuted for GPU kernels",
        "compile the GPTQ checkpoint that it was made from",
    ),
    "auto-round": (
        "its own packing is not read",
        "export with AutoRound's format auto_gptq",
    ),
    "gguf": ("GGUF blocks mix scales, minima and codes in ways of their own", FLOAT_4),
}


def kind_of(settings: Mapping[str, object]) -> str:
    """The key of the reasons for a quantization_config, or the method as it stands."""
    method = str(settings.get("quant_method", settings.get("method", ""))).lower()
    if method == "bitsandbytes":
        if settings.get("load_in_8bit"):
            return "int8"
        return str(settings.get("bnb_4bit_quant_type", "nf4")).lower()
    return method.replace("auto_round", "auto-round")


def quantized_modules(model_dir: Path) -> tuple[str, ...]:
    """Names of the modules that hold more than a weight and a bias, in order of their names."""
    names: set[str] = set()
    for path in sorted(model_dir.glob("model*.safetensors")):
        names |= (read_header(path, ProblemLog()) or {}).keys()
    matches = map(_PART.fullmatch, sorted(names))
    return tuple(dict.fromkeys(match[1] for match in matches if match))


def refusal(where: str, kind: str, modules: Sequence[str] = ()) -> Problem:
    """The problem of a checkpoint in format `kind`; `modules` are those stored in it."""
    reason, fix = _REASONS.get(kind, ("the meaning of its codes is unknown to edgec", FLOAT_4))
    return Problem(where, f"{kind or 'no method'} ({reason}){_listed(modules)}", SUPPORTED, fix)


def _listed(modules: Sequence[str]) -> str:
    if not modules:
        return ""
    named = ", ".join(modules[:MOST_MODULES])
    more = len(modules) - MOST_MODULES
    return f" in {len(modules)} modules: {named}{f' and {more} more' if more > 0 else ''}"
