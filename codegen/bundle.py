"""The compiled bundle: what it is made of, assembled as bytes.

manifest.json is the root of trust: it lists each file with its SHA-256. A directory without it is
no bundle. There are no timestamps and no host paths in a bundle: equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen.golden import golden_files
from codegen.json_text import canonical, pretty
from codegen.render import CodeOptions, render_code
from codegen.serialize import FORMAT_VERSION, document, graph_hash
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from sim.golden import Golden
from toolchain.model.program import MatrixLayout, Program
from toolchain.model.sparse_packing import SparseLayout

MANIFEST = "manifest.json"
PLAN = "plan.json"
TOKENIZER = "tokenizer/tokenizer.json"
TARGET = "target.toml"  # the target need not be known where the bundle is read
BUILD = "build"  # where the generated Makefile builds unless told otherwise


@dataclass(frozen=True, slots=True)
class Bundle:
    """Relative path -> bytes of every file, manifest.json included."""

    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class BundleParts:
    """What a bundle is made of."""

    program: Program
    plan: Plan
    target: TargetSpec
    blobs: Mapping[str, bytes]
    golden: Golden
    prefix: str  # of every external symbol of the C
    version: str  # of edgec
    model_hash: str  # hex digest of the checkpoint
    settings: Mapping[str, Any]  # effective options of the compilation, plain JSON values
    weight_bits: Mapping[str, int]  # by weight tensor
    extra_files: Mapping[str, bytes]  # tokenizer and reports, by bundle path


@dataclass(frozen=True, slots=True, eq=False)
class LoadedBundle:
    """A bundle that passed every check. `program` has no constants: they are in the blobs."""

    directory: Path
    program: Program
    plan: Plan
    target: TargetSpec
    blobs: Mapping[str, bytes]
    golden: Golden
    manifest: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """Prefix of the generated C."""
        return str(self.manifest["prefix"])

    @property
    def tokenizer_path(self) -> Path:
        """tokenizer.json."""
        return self.directory / TOKENIZER


def emit_bundle(parts: BundleParts) -> Bundle:
    """All files of the bundle; raises ConfigError when the prefix cannot be used."""
    options = CodeOptions(
        parts.prefix,
        parts.version,
        len(parts.golden.tokens),
        tuple(parts.settings.get("prompt_start", ())),
        tuple(parts.settings.get("eos_token_ids", ())),
    )
    code = render_code(parts.program, parts.plan, parts.target, options)
    files = {path: text.encode() for path, text in code.items()}
    files[PLAN] = pretty(document(parts.program, parts.plan))
    files.update({f"weights/{region}.bin": blob for region, blob in parts.blobs.items()})
    files.update(golden_files(parts.golden))
    files.update(parts.extra_files)
    files = dict(sorted(files.items()))
    return Bundle({MANIFEST: pretty(_manifest(parts, files)), **files})


def _manifest(parts: BundleParts, files: Mapping[str, bytes]) -> dict[str, Any]:
    manifest = {
        "format": FORMAT_VERSION,
        "edgec": parts.version,
        "prefix": parts.prefix,
        "target": parts.plan.target,
        "model_hash": parts.model_hash,
        "graph_hash": graph_hash(parts.program, parts.plan).hex(),
        "settings": dict(parts.settings),
        "weights": _weight_rows(parts),
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    }
    return manifest | {"digest": manifest_digest(manifest)}


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all other members of a manifest, so that it can be checked itself."""
    members = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(canonical(members)).hexdigest()


def _weight_rows(parts: BundleParts) -> list[dict[str, Any]]:
    """The effective settings of every packed matrix."""
    return [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "bits": parts.weight_bits[tensor.name],
            "group_size": tensor.layout.group_size,
            "packing": tensor.layout.format.value,
            **_pattern_of(tensor.layout),
            "region": parts.plan.placements[tensor.name].region,
            "size": tensor.size,
        }
        for tensor in parts.program.tensors.values()
        if tensor.name in parts.weight_bits and isinstance(tensor.layout, MatrixLayout)
    ]


def _pattern_of(layout: MatrixLayout) -> dict[str, str]:
    return {"pattern": str(layout.pattern)} if isinstance(layout, SparseLayout) else {}


def bundle_entries(directory: Path) -> Iterator[str]:
    """Relative paths of everything in a bundle but directories and the output of its Makefile.

    Links are not followed. Raises OSError where a directory cannot be read.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(directory / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder + entry.name
                if not entry.is_dir(follow_symlinks=False):
                    yield path
                elif path != BUILD:
                    pending.append(path + "/")
