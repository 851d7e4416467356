"""Compiles tiny random models to bundles, for tests of code generation and verification."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from codegen.bundle import MANIFEST, LoadedBundle, manifest_digest
from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from codegen.json_text import pretty
from memory_planner.engines import EngineChoice
from memory_planner.limits import NO_LIMITS, MemoryLimits
from tests.model.tiny import write_model
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode, Arithmetic
from toolchain.model.quantize import QuantConfig
from toolchain.pipeline import CompileOptions, compile_model

# 3 heads of 6 on one KV head, FFN 100, vocabulary 97, context 5: nothing divides anything.
ODD_SHAPE: dict[str, Any] = {
    "hidden_size": 18,
    "intermediate_size": 100,
    "num_layers": 2,
    "num_heads": 3,
    "num_kv_heads": 1,
    "head_dim": 6,
    "vocab_size": 97,
    "context": 5,
    "tied": False,
}


def compile_tiny(
    directory: Path,
    *,
    prefix: str = "tiny",
    target: str = "siracusa",
    mode: ActMode = ActMode.A16,
    quant: QuantConfig | None = None,
    limits: MemoryLimits = NO_LIMITS,
    engine: EngineChoice = EngineChoice.CORES,
    arithmetic: Arithmetic = Arithmetic.PRECISE,
    **shape: Any,
) -> LoadedBundle:
    """Bundle `directory`/bundle of a random model; `shape` overrides ODD_SHAPE."""
    write_model(directory / "model", **ODD_SHAPE | shape)
    options = CompileOptions(
        quant=quant or QuantConfig(bits=4, group_size=16),
        modes=dict.fromkeys(SITES, mode),
        prefix=prefix,
        limits=limits,
        engine=engine,
        arithmetic=arithmetic,
    )
    compiled = compile_model(directory / "model", target, options, lambda _: None)
    write_bundle(compiled.bundle, directory / "bundle")
    return load_bundle(directory / "bundle")


def seal(directory: Path) -> None:
    """Make the manifest fit the files again, so that only the planted change is left to find."""
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    for path in manifest["files"]:
        digest = hashlib.sha256((directory / path).read_bytes()).hexdigest()
        manifest["files"][path] = digest
    manifest["digest"] = manifest_digest(manifest)
    (directory / MANIFEST).write_bytes(pretty(manifest))


def edit(file: Path, old: str, new: str) -> None:
    """Replace the one occurrence of `old` in a text file."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} has {text.count(old)} times {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")
