"""The compiled bundle: assembled as bytes, written in one move, read back with every file checked.

manifest.json is the root of trust: it lists each file with its SHA-256. A directory without it is
no bundle. There are no timestamps and no host paths in a bundle: equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen.blob import check_blob, read_blob
from codegen.golden import golden_files
from codegen.json_text import canonical, pretty
from codegen.render import CodeOptions, render_code
from codegen.serialize import FORMAT_VERSION, document, from_document, graph_hash
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from sim.golden import Golden, golden_from_json
from toolchain.model.errors import BundleError, ConfigError, Problem
from toolchain.model.program import Kind, Program

MANIFEST = "manifest.json"
PLAN = "plan.json"
TOKENIZER = "tokenizer/tokenizer.json"
REBUILD = "compile the model again"


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
    options = CodeOptions(parts.prefix, parts.version, len(parts.golden.tokens))
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
            "packing": tensor.layout.packing.value,
            "region": parts.plan.placements[tensor.name].region,
            "size": tensor.size,
        }
        for tensor in parts.program.tensors.values()
        if tensor.kind is Kind.WEIGHT and tensor.layout is not None
    ]


def check_destination(directory: Path) -> None:
    """Raise ConfigError when `directory` holds anything that edgec did not write itself."""
    if not directory.exists() and not directory.is_symlink():
        return
    found = "not a directory"
    if directory.is_dir():
        strange = _foreign_files(directory)
        if not strange:
            return
        found = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
    raise ConfigError(
        "the output directory holds something that edgec did not write",
        [Problem(str(directory), found, "a new or empty directory, or an earlier bundle")],
        fix="choose another directory with -o, or remove it",
    )


def _foreign_files(directory: Path) -> list[str]:
    """Paths that no manifest of ours lists: everything when there is none."""
    try:
        manifest = _read_json(directory / MANIFEST)
    except BundleError:
        manifest = {}
    listed = manifest.get("files")
    ours = {MANIFEST, *listed} if "edgec" in manifest and isinstance(listed, dict) else set()
    present = (path.relative_to(directory).as_posix() for path in _files(directory))
    return sorted(path for path in present if path not in ours and not _is_build_output(path))


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() or path.is_symlink()]


def write_bundle(bundle: Bundle, directory: Path) -> None:
    """Write the bundle next to `directory` and swap it in; a failure leaves the old one whole.

    Raises ConfigError as `check_destination`, and BundleError when files cannot be written.
    """
    check_destination(directory)
    parent = directory.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".edgec-", dir=parent, ignore_cleanup_errors=True
        ) as scratch:
            fresh, stale = Path(scratch) / "new", Path(scratch) / "old"
            _write_files(bundle, fresh)
            _swap(fresh, directory.resolve(), stale)
    except OSError as error:
        raise BundleError(f"the bundle cannot be written to {directory}: {error}") from error


def _write_files(bundle: Bundle, root: Path) -> None:
    root.mkdir()
    for path, data in bundle.files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _swap(fresh: Path, directory: Path, stale: Path) -> None:
    """Move `directory` away and `fresh` in its place; move the old one back if that fails."""
    if not directory.exists():
        fresh.rename(directory)
        return
    directory.rename(stale)
    try:
        fresh.rename(directory)
    except OSError:
        stale.rename(directory)
        raise


def load_bundle(directory: Path) -> LoadedBundle:
    """Read a bundle; raises BundleError that names every damaged, missing or unknown file."""
    manifest = _read_manifest(directory)
    _check_files(directory, manifest)
    program, plan = from_document(_read_json(directory / PLAN))
    blobs = {
        region.name: (directory / "weights" / f"{region.name}.bin").read_bytes()
        for region in plan.regions
        if region.blob_size
    }
    _check_blobs(program, plan, blobs)
    golden_bin = (directory / "golden" / "golden.bin").read_bytes()
    golden = golden_from_json(_read_json(directory / "golden" / "golden.json"), golden_bin)
    if golden.graph_hash != graph_hash(program, plan).hex():
        raise BundleError("golden.json belongs to another plan than plan.json", fix=REBUILD)
    return LoadedBundle(directory, program, plan, blobs, golden, manifest)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}", fix=REBUILD) from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} is not a JSON object", fix=REBUILD)
    return value


def _read_manifest(directory: Path) -> dict[str, Any]:
    if not (directory / MANIFEST).is_file():
        raise BundleError(
            f"{directory} is not a bundle: it has no {MANIFEST}",
            fix="name the directory that `edgec compile -o` wrote",
        )
    manifest = _read_json(directory / MANIFEST)
    if manifest.get("format") != FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST} has format {manifest.get('format')!r}, this edgec reads {FORMAT_VERSION}",
            fix=REBUILD,
        )
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("prefix"), str):
        raise BundleError(f"{MANIFEST} lists no files or names no prefix", fix=REBUILD)
    if manifest.get("digest") != manifest_digest(manifest):
        raise BundleError(f"{MANIFEST} is damaged: its digest does not fit it", fix=REBUILD)
    return manifest


def _check_files(directory: Path, manifest: Mapping[str, Any]) -> None:
    present = {path.relative_to(directory).as_posix() for path in _files(directory)} - {MANIFEST}
    expected: Mapping[str, str] = manifest["files"]
    problems = [Problem(path, "nothing", "a file") for path in sorted(expected.keys() - present)]
    problems += [
        Problem(path, "a file", "nothing: it is not in manifest.json", "remove it")
        for path in sorted(present - expected.keys())
        if not _is_build_output(path)
    ]
    for path in sorted(expected.keys() & present):
        digest = hashlib.sha256((directory / path).read_bytes()).hexdigest()
        if digest != expected[path]:
            problems.append(Problem(path, f"SHA-256 {digest}", expected[path]))
    if problems:
        raise BundleError(f"bundle {directory} is damaged", problems, fix=REBUILD)


def _is_build_output(path: str) -> bool:
    """The generated Makefile builds into build/ unless told otherwise."""
    return path.startswith("build/")


def _check_blobs(program: Program, plan: Plan, blobs: Mapping[str, bytes]) -> None:
    digest = graph_hash(program, plan)
    problems: list[Problem] = []
    for name, data in blobs.items():
        blob = read_blob(data, f"weights/{name}.bin")
        problems += check_blob(blob, program, plan, plan.region(name), digest)
    if problems:
        raise BundleError("weight blobs and plan.json do not belong together", problems, REBUILD)
