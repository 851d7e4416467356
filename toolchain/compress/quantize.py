"""Quantization of the projections; embedding, head and norms stay as they are.

- `rtn`: every weight to the nearest point of its grid (grids.py), the baseline;
- `gptq`: by the package gptqmodel for dense models, else by edgec's own implementation (gptq.py),
  which keeps removed weights at exactly 0 and knows bits per projection; blocks and, within one,
  projections in order of execution, with the inputs that the quantized ones before them make;
  a block that is a copy of an earlier one gets its codes;
- `awq`: awq.py, then rounding; `nf4`: nf4.py; `llm.int8`: llm_int8.py.

Integer codes are written as GPTQ checkpoints, whatever made them: `gptq` for symmetric grids,
`gptq_v2` for others. Bits come from the options, or from edgec_bits.toml of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolchain.compress.checkpoint import BLOCK_SUFFIXES, Source, Writer, block_name
from toolchain.compress.forward import Passes
from toolchain.compress.gptq_format import BITS, V1, V2
from toolchain.compress.gptq_library import LibraryJob, quantize_with_library, reason_against
from toolchain.compress.grids import GridKind
from toolchain.compress.publish import content_hash
from toolchain.compress.quantize_block import (
    METHODS,
    BlockJob,
    BlockResult,
    quantize_block,
    repeat_block,
)
from toolchain.compress.quantized import (
    Matrix,
    Settings,
    add_matrix,
    gptq_settings,
    write_config,
)
from toolchain.compress.stage import CalibratedOptions, RunContext, StageMetrics, option
from toolchain.model.bits_file import BITS_FILE, read_bits, write_outer_bits
from toolchain.model.block_copies import copied_blocks
from toolchain.model.config import ModelConfig
from toolchain.model.errors import CompressionError, Problem, ToolError
from toolchain.model.names import LINEAR_SUFFIXES, expected_shapes, hf_name_of, linear_ids
from toolchain.model.quant_settings import QuantConfig

CODES = ("rtn", "gptq", "awq")
DEFAULT_BITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CalibratedOptions):
    """Method and grid."""

    samples: int = option(64, "windows of calibration text", low=1, high=1 << 20)
    method: str = option("gptq", "how weights are rounded", choices=METHODS)
    bits: int | None = option(None, f"2, 3, 4 or 8; default: {BITS_FILE}, else 4", low=2, high=8)
    layers: dict[str, int] | None = option(
        None, "op id pattern to bits; the last that matches counts", low=2, high=8
    )
    group_size: int = option(128, "inputs per scale; -1: one per output", low=-1, high=1 << 18)
    sym: bool | None = option(None, "zero point in the middle; default: yes, but for awq")
    clip: bool = option(False, "shrink ranges to the least error")
    damp: float = option(0.01, "share of H's mean diagonal added to it", low=1e-6, high=1)
    desc_act: bool = option(False, "gptq: columns by activation, largest first")
    engine: str = option(
        "auto", "gptq by", choices=("auto", "gptqmodel", "edgec")
    )  # auto: the package for dense models
    block: int = option(64, "nf4: weights per scale", low=2, high=1 << 16)
    threshold: float = option(6.0, "llm.int8: abs of an outlier", low=0)

    def needs_text(self) -> bool:
        """Rounding needs none."""
        return self.method not in ("rtn", "nf4")

    @property
    def symmetric(self) -> bool:
        """`sym`, or its default."""
        return self.method != "awq" if self.sym is None else self.sym

    def problems(self) -> Iterator[Problem]:
        """Bits without a layout, groups that are none."""
        values = {"bits": self.bits} | {f"layers.{k}": v for k, v in (self.layers or {}).items()}
        for name, bits in values.items():
            if bits is not None and bits not in BITS:
                allowed = "2, 3, 4 or 8: GPTQ checkpoints have no common layout of others"
                fix = "edgec compile rounds a float checkpoint to any of 2..8 bits"
                yield Problem(name, str(bits), allowed, fix)
        if self.group_size == 0:
            yield Problem("group_size", "0", "-1, or at least 1")

    def idle(self) -> Mapping[str, str]:
        """What only some methods have."""
        idle = dict(CalibratedOptions.idle(self))
        if self.method not in CODES:
            grid = ("bits", "layers", "group_size", "sym", "clip")
            idle |= dict.fromkeys(grid, f"{self.method} has a grid of its own")
        if self.method != "gptq":
            idle |= dict.fromkeys(("damp", "desc_act", "engine"), "only gptq has it")
        if self.method != "nf4":
            idle["block"] = "only nf4 has it"
        if self.method != "llm.int8":
            idle["threshold"] = "only llm.int8 has it"
        return idle

    def misfits(self, config: ModelConfig) -> Iterator[Problem]:
        """Patterns that match nothing."""
        ids = linear_ids(config)
        for pattern in self.layers or {}:
            if not any(fnmatchcase(op_id, pattern) for op_id in ids):
                allowed = f"a pattern of op ids {ids[0]} to {ids[-1]}"
                yield Problem(f"layers.{pattern}", "matches nothing", allowed)


def run(source_dir: Path, out: Path, options: Options, run: RunContext) -> StageMetrics:
    """Writes a quantized checkpoint, with the masks of the input."""
    source = Source.open(source_dir)
    bits = _bits(source, options)
    kinds = {
        op_id: GridKind(value, options.group_size, options.symmetric, options.clip)
        for op_id, value in bits.items()
    }
    tokens = None
    if options.needs_text():
        tokens = run.texts.windows(source_dir, options, run.seed)
    copies = _copies(source, kinds) if options.method in CODES else {}
    against = _against_library(source, options, kinds)
    if copies and (options.method, options.engine) == ("gptq", "auto"):
        against = "blocks are copies of each other, and it would give each codes of its own"
    if options.method == "gptq" and against is None:
        assert tokens is not None
        kind = next(iter(kinds.values()))
        job = LibraryJob(source_dir, kind, options.damp, options.desc_act, run.device)
        run.progress("gptqmodel", 0, 0)
        names = [hf_name_of(op_id) for op_id in kinds]
        matrices: Mapping[str, Matrix] = quantize_with_library(job, tokens, names, out)
        settings = _settings(source, options, bits, f"gptqmodel:{version('gptqmodel')}")
        _write(source, out, matrices, settings)
        return StageMetrics(_metrics(options, bits, "gptqmodel"))
    settings = _settings(source, options, bits, "edgec")
    passes = None if tokens is None else Passes.make(source, tokens, run.device)
    blocks = BlockJob(options, kinds, passes, copies)
    details = _write_blocks(source, out, blocks, settings, run)
    values = _metrics(options, bits, "edgec") | details
    if options.method == "gptq" and options.engine == "auto":
        values["why_not_gptqmodel"] = against
    return StageMetrics(values)


def _bits(source: Source, options: Options) -> dict[str, int]:
    """Bits by op id; raises CompressionError when options and edgec_bits.toml disagree."""
    ids = linear_ids(source.config)
    if options.method not in CODES:
        return {}
    allocated = read_bits(source.directory)
    if allocated is not None and (options.bits is not None or options.layers):
        problem = Problem("bits and layers", "given", f"neither: {BITS_FILE} says them")
        raise CompressionError("the bits are chosen twice", [problem])
    found = dict.fromkeys(ids, DEFAULT_BITS if options.bits is None else options.bits)
    if allocated is not None:
        found = {op_id: allocated.bits[op_id] for op_id in ids}
    for pattern, value in (options.layers or {}).items():
        found |= {op_id: value for op_id in ids if fnmatchcase(op_id, pattern)}
    without = sorted({value for value in found.values() if value not in BITS})
    if without:
        fix = "give allocate-bits choices = [2, 3, 4, 8], or leave out this stage"
        problem = Problem(BITS_FILE, ", ".join(map(str, without)), "2, 3, 4 or 8 bits", fix)
        raise CompressionError("GPTQ checkpoints have no common layout of these bits", [problem])
    return found


def _copies(source: Source, kinds: Mapping[str, GridKind]) -> dict[int, int]:
    """The first block that is equal, by block that is a copy of one and is to have equal bits."""
    blocks = copied_blocks(source.model, QuantConfig(), {}) or ()

    def grids(block: int) -> list[GridKind | None]:
        return [kinds.get(f"l{block:02d}.{suffix}") for suffix in LINEAR_SUFFIXES]

    return {
        block: first
        for block, first in enumerate(blocks)
        if block != first and grids(block) == grids(first)
    }


def _against_library(source: Source, options: Options, kinds: Mapping[str, GridKind]) -> str | None:
    """Why gptqmodel does not do it; raises when it is asked for all the same."""
    if options.method != "gptq":
        return "another method"
    shapes = expected_shapes(source.config)
    wanted = {op_id: shapes[hf_name_of(op_id)] for op_id in kinds}
    reason = None
    if source.masks:
        reason = "it would give removed weights other values than 0"
    elif len({kind.bits for kind in kinds.values()}) > 1:
        reason = "bits differ between projections"
    elif options.engine == "edgec":
        reason = "engine is edgec"
    elif find_spec("gptqmodel") is None:
        reason = "not installed"
    else:
        reason = reason_against(wanted, next(iter(kinds.values())).bits)
    if options.engine == "gptqmodel" and reason is not None:
        if reason == "not installed":
            raise ToolError("gptqmodel is not installed", fix="pip install 'edgec[compress]'")
        problem = Problem("engine", "gptqmodel", f"auto or edgec: {reason}")
        raise CompressionError("gptqmodel cannot quantize this model", [problem])
    return reason


def _settings(source: Source, options: Options, bits: Mapping[str, int], maker: str) -> Settings:
    """quantize_config.json; it names the input, so that no adapter is made for another one."""
    origin = {"method": options.method, "source_hash": content_hash(source.directory)}
    meta = {"quantizer": [maker], "edgec": origin}
    if options.method == "nf4":
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": "float16",
            "meta": meta,
        }
    if options.method == "llm.int8":
        return {
            "quant_method": "bitsandbytes",
            "load_in_8bit": True,
            "llm_int8_threshold": options.threshold,
            "meta": meta,
        }
    return gptq_settings(
        {hf_name_of(op_id): value for op_id, value in bits.items()},
        group_size=options.group_size,
        desc_act=options.desc_act,
        sym=options.symmetric,
        checkpoint_format=V1 if options.symmetric else V2,
        meta=meta,
    )


def _write(source: Source, out: Path, matrices: Mapping[str, Matrix], settings: Settings) -> None:
    writer = Writer(source, out)
    writer.copy_outside()
    for block in range(source.config.num_layers):
        for suffix in BLOCK_SUFFIXES:
            name = block_name(block, suffix)
            if name in matrices:
                add_matrix(writer, name, matrices[name], settings)
            else:
                writer.add(name, source.stored(name))
    writer.finish(source.masks)
    write_config(out, settings)
    write_outer_bits(source.directory, out)


def _write_blocks(
    source: Source, out: Path, job: BlockJob, settings: Settings, run: RunContext
) -> dict[str, Any]:
    """Quantizes block by block; the details that the method reports."""
    writer = Writer(source, out)
    writer.copy_outside()
    states = job.passes.start() if job.passes else None
    details: dict[str, Any] = {}
    again: dict[int, BlockResult] = {}
    tick = run.ticker("blocks quantized", source.config.num_layers)
    for block in range(source.config.num_layers):
        weights, first = source.block(block, run.device), job.copies.get(block)
        if first is None:
            result = quantize_block(job, source, block, weights, states)
        else:
            result = repeat_block(job, again[first], weights, states)
        if block in job.copies.values():
            again[block] = result
        for suffix in BLOCK_SUFFIXES:
            name = block_name(block, suffix)
            if suffix in result.matrices:
                add_matrix(writer, name, result.matrices[suffix], settings)
            else:
                stored = source.stored(name)
                changed = result.changed.get(suffix)
                writer.add(name, stored if changed is None else changed.cpu().to(stored.dtype))
        for key, value in result.details.items():
            details.setdefault(key, {}).update(value)
        states = result.states
        tick()
    writer.finish(source.masks)
    write_config(out, settings)
    write_outer_bits(source.directory, out)
    return details


def _metrics(options: Options, bits: Mapping[str, int], engine: str) -> dict[str, Any]:
    """What was made, and what a compiler for the SoC can do with it."""
    values: dict[str, Any] = {"engine": engine} if options.method == "gptq" else {}
    if bits:
        values["bits"] = dict(bits) if len(set(bits.values())) > 1 else next(iter(bits.values()))
    return values | {"compile": COMPILE[options.method]}


_CODES = {"possible": True, "as": "integer codes, unchanged"}
COMPILE: dict[str, dict[str, Any]] = {
    "rtn": _CODES,
    "gptq": _CODES,
    "awq": _CODES | {"note": "the scales of AWQ are in the norms and the projections before"},
    "nf4": {
        "possible": False,
        "reason": "NF4 is a table of 16 levels of unequal distance; the engine and the kernels "
        "multiply integers",
        "nearest": "method = gptq with 4 bits and group_size = 64",
    },
    "llm.int8": {
        "possible": False,
        "reason": "columns in 16-bit floating point beside int8 ones; there is no such kernel",
        "nearest": "8 bits with one scale per output and 16-bit activations (a16), which need no "
        "outlier columns: method = gptq, bits = 8, group_size = -1",
    },
}
