"""Reading a bundle: every file checked against the manifest, every value against the others.

Hashes show accidents only: whoever edits a file can make them fit again. So nothing that a file
says is used before its form, its ranges and its agreement with the other files were checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codegen.blob import check_blob, read_blob
from codegen.bundle import (
    MANIFEST,
    PLAN,
    TARGET,
    TOKENIZER,
    LoadedBundle,
    bundle_entries,
    manifest_digest,
)
from codegen.forms import (
    GOLDEN_FORM,
    MANIFEST_FORM,
    REBUILD,
    SETTINGS_FORM,
    deviations,
    parse_object,
)
from codegen.golden import op_specs
from codegen.plan_form import PLAN_FORM
from codegen.prefix import check_prefix
from codegen.program_check import check_program
from codegen.serialize import FORMAT_VERSION, from_document, graph_hash
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.plan import Plan
from memory_planner.target import Pin, TargetSpec
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from sim.golden import Golden, golden_from_json
from toolchain.model.errors import BundleError, ConfigError, Problem
from toolchain.model.program import OpKind, Program

GOLDEN = "golden/golden.json"
GOLDEN_DATA = "golden/golden.bin"
NEEDED = (PLAN, TARGET, TOKENIZER, GOLDEN, GOLDEN_DATA, "golden/selftest.bin", "golden/checks.bin")

Json = dict[str, Any]


def load_bundle(directory: Path) -> LoadedBundle:
    """Read a bundle; raises BundleError that names every damaged or missing file."""
    try:
        return _load(directory)
    except OSError as error:
        where = error.filename or directory
        raise BundleError(f"{where} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise BundleError(f"{directory}: {MANIFEST} is nested too deeply", fix=REBUILD) from error


def _load(directory: Path) -> LoadedBundle:
    manifest = _read_manifest(directory)
    files = _read_files(directory, manifest)
    target = _read_target(directory, manifest["settings"]["memory"])
    program, plan = _read_plan(files[PLAN], target)
    _check_manifest(manifest, program, plan)
    blobs = _read_blobs(files, program, plan)
    golden = _read_golden(files, program, plan)
    return LoadedBundle(directory, program, plan, target, blobs, golden, manifest)


def _refuse(where: str, problems: Iterable[Problem]) -> None:
    """Raise BundleError naming the file `where` if there are problems."""
    found = [Problem(f"{where}: {p.where}", p.found, p.allowed, p.fix) for p in problems]
    if found:
        raise BundleError(f"{where} is not what edgec writes", found, fix=REBUILD)


def _read_manifest(directory: Path) -> Json:
    path = directory / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{directory} is not a bundle: it has no {MANIFEST}",
            fix="name the directory that `edgec compile -o` wrote",
        )
    manifest: Json = parse_object(path.read_bytes(), str(path), dict)
    if manifest.get("format") != FORMAT_VERSION:
        found = str(manifest.get("format"))[:40]
        raise BundleError(
            f"{MANIFEST} has format {found}, this edgec reads {FORMAT_VERSION}", fix=REBUILD
        )
    problems = deviations(manifest, MANIFEST_FORM, MANIFEST)
    problems = problems or _check_settings(manifest["settings"])
    if not problems and manifest["digest"] != manifest_digest(manifest):
        problems = [Problem(MANIFEST, "a digest that does not fit it", manifest_digest(manifest))]
    if problems:
        raise BundleError(f"bundle {directory} is damaged", problems, fix=REBUILD)
    return manifest


def _read_files(directory: Path, manifest: Json) -> dict[str, bytes]:
    """Bytes of every file that the manifest lists; what else lies there is its owner's."""
    present = set(bundle_entries(directory)) - {MANIFEST}
    expected: Mapping[str, str] = manifest["files"]
    absent = (expected.keys() | set(NEEDED)) - (expected.keys() & present)
    problems = [Problem(path, "nothing", "a file") for path in sorted(absent)]
    files: dict[str, bytes] = {}
    for path in sorted(expected.keys() & present):
        if not (directory / path).is_file():  # reading a pipe would wait for ever
            problems.append(Problem(path, "something else", "a file"))
            continue
        files[path] = (directory / path).read_bytes()
        digest = hashlib.sha256(files[path]).hexdigest()
        if digest != expected[path]:
            problems.append(Problem(path, f"SHA-256 {digest}", expected[path]))
    if problems:
        raise BundleError(f"bundle {directory} is damaged", problems, fix=REBUILD)
    return files


def _read_target(directory: Path, memory: Json) -> TargetSpec:
    """The target as it was compiled for: its file, with the memories limited as asked then."""
    pins = [Pin(*pin.partition("=")[::2]) for pin in memory["pins"]]
    limits = MemoryLimits(memory["regions"], tuple(pins))
    try:
        return limited_target(load_target(directory / TARGET), limits)
    except (ConfigError, ValueError, ArithmeticError, RecursionError) as error:
        problems = error.problems if isinstance(error, ConfigError) else ()
        what = error.what if isinstance(error, ConfigError) else str(error)
        what = f"{TARGET} of the bundle cannot be used: {what}"
        raise BundleError(what, problems, fix=REBUILD) from error


def _read_plan(data: bytes, target: TargetSpec) -> tuple[Program, Plan]:
    program, plan = from_document(parse_object(data, PLAN, PLAN_FORM))
    _refuse(PLAN, check_program(program))
    _refuse(PLAN, validate_plan(program, target, plan))
    return program, plan


def _check_manifest(manifest: Json, program: Program, plan: Plan) -> None:
    """The manifest agrees with the plan, and can be used by those who read it."""
    facts = [
        ("graph_hash", manifest["graph_hash"], graph_hash(program, plan).hex()),
        ("target", manifest["target"], plan.target),
    ]
    problems = [
        Problem(name.replace("_", " "), repr(found[:80]), allowed)
        for name, found, allowed in facts
        if found != allowed
    ]
    try:
        check_prefix(manifest["prefix"])
    except ConfigError as error:
        problems += [Problem("prefix", p.found[:80], p.allowed) for p in error.problems]
    _refuse(MANIFEST, [*problems, *_check_vocabulary(manifest["settings"], program)])


def _check_settings(settings: Json) -> list[Problem]:
    """The form of those settings that are used; there are others."""
    used = {name: settings[name] for name in SETTINGS_FORM if name in settings}
    return deviations(used, SETTINGS_FORM, f"{MANIFEST}: settings")


def _check_vocabulary(settings: Json, program: Program) -> list[Problem]:
    problems = []
    vocab, bos = program.shape.vocab, settings["bos_token_id"]
    if settings["vocab_size"] != vocab:
        problems.append(Problem("settings: vocab_size", str(settings["vocab_size"]), str(vocab)))
    if bos is not None and not 0 <= bos < vocab:
        problems.append(Problem("settings: bos_token_id", str(bos), f"null or 0..{vocab - 1}"))
    return problems


def _read_blobs(files: Mapping[str, bytes], program: Program, plan: Plan) -> dict[str, bytes]:
    digest = graph_hash(program, plan)
    problems: list[Problem] = []
    blobs: dict[str, bytes] = {}
    for region in plan.regions:
        path = f"weights/{region.name}.bin"
        if region.blob_size and path not in files:
            problems.append(Problem(path, "nothing", "a file"))
        elif region.blob_size:
            blobs[region.name] = files[path]
            blob = read_blob(files[path], path)
            problems += check_blob(blob, program, plan, region, digest)
    if problems:
        raise BundleError("weight blobs and plan.json do not belong together", problems, REBUILD)
    _refuse("weights", _check_orders(program, plan, blobs))
    return blobs


def _check_orders(program: Program, plan: Plan, blobs: Mapping[str, bytes]) -> Iterator[Problem]:
    """Tables of gathers are permutations: kernels read where these say."""
    for op in program.ops:
        if op.kind is OpKind.GATHER:
            spec, place = program.tensors[op.inputs[1]], plan.placements[op.inputs[1]]
            start = place.offset - plan.region(place.region).blob_base
            table = np.frombuffer(blobs[place.region], "<u2", spec.shape[0], start)
            if not np.array_equal(np.sort(table), np.arange(spec.shape[0])):
                yield Problem(spec.name, "other numbers", f"each of 0..{spec.shape[0] - 1} once")


def _read_golden(files: Mapping[str, bytes], program: Program, plan: Plan) -> Golden:
    value = parse_object(files[GOLDEN], GOLDEN, GOLDEN_FORM)
    _refuse(GOLDEN, _check_rows(value))
    golden = golden_from_json(value, files[GOLDEN_DATA])
    if golden.graph_hash != graph_hash(program, plan).hex():
        raise BundleError(f"{GOLDEN} belongs to another plan than {PLAN}", fix=REBUILD)
    _refuse(GOLDEN, _check_golden(golden, program))
    return golden


def _check_rows(value: Json) -> list[Problem]:
    """A slice takes negative numbers, and a CRC may be written in many ways."""
    return [
        Problem(f"records[{index}]", str(row)[:80], "size and offset from 0, 8 hex digits")
        for index, row in enumerate(value["records"])
        if row[3] < 0 or (row[5] or 0) < 0 or len(row[4]) != 8 or set(row[4]) - set(_HEX)
    ]


_HEX = "0123456789abcdef"


def _check_golden(golden: Golden, program: Program) -> list[Problem]:
    problems = []
    count, vocab, context = len(golden.tokens), program.shape.vocab, program.shape.context
    if not 1 <= count <= context or len(golden.next_tokens) != count:
        found = f"{count} tokens, {len(golden.next_tokens)} next tokens"
        problems.append(Problem("tokens", found, f"equally many, 1..{context}"))
    highest, lowest = (f((*golden.tokens, *golden.next_tokens, 0)) for f in (max, min))
    if lowest < 0 or highest >= vocab:
        problems.append(Problem("tokens", f"{lowest}..{highest}", f"0..{vocab - 1}"))
    if golden.ops != op_specs(program):
        problems.append(Problem("ops", "other ops or outputs", f"those of {PLAN}"))
        return problems
    for index, row in enumerate(golden.records):
        known = 0 <= row.step < count and 0 <= row.op < len(golden.ops)
        if not known or not 0 <= row.output < len(golden.ops[row.op].outputs):
            found = f"step {row.step}, op {row.op}, output {row.output}"
            problems.append(Problem(f"records[{index}]", found, "those of the schedule"))
    return problems[:10]
