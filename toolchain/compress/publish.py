"""Stage directories on disk: complete or absent, and named by what they were made from.

A stage writes into `.NN-kind.partial`, which is flushed to disk and renamed to `NN-kind` at the
end; a name without the dot is therefore always a finished stage. `edgec_stage.json` says from which
input, options and seed it came, in a part that the same run always writes alike, and in `record`
what differs from run to run: seconds, memory, versions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.compress.checkpoint import write_json
from toolchain.model.errors import ConfigError, EnvironmentFailureError, Problem
from toolchain.model.json_fields import read_json_object

STAGE_FILE = "edgec_stage.json"
LOCK_FILE = ".edgec-compress.lock"
CONTENT = (".json", ".safetensors", ".model", ".txt", ".jinja", ".toml")
IDENTITY = ("kind", "options", "seed", "input_hash", "texts", "device")


def content_hash(directory: Path) -> str:
    """SHA-256 over names and contents of a checkpoint's files, but the stage's own record."""
    total = hashlib.sha256()
    for path in sorted(directory.iterdir(), key=lambda path: path.name):
        if path.suffix in CONTENT and path.is_file() and path.name != STAGE_FILE:
            with path.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").digest()
            total.update(f"{path.name}\0".encode() + inner)
    return total.hexdigest()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds `out` for this process; raises EnvironmentFailureError when another one has it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl  # noqa: PLC0415 - not on every system
    except ImportError:
        yield
        return
    with (out / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = f"another edgec compress is writing to {out}"
            raise EnvironmentFailureError(what, fix="wait for it, or choose another -o") from error
        yield


@contextmanager
def partial_directory(out: Path, name: str) -> Iterator[Path]:
    """An empty scratch directory beside the finished ones; removed unless it was published."""
    scratch = out / f".{name}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, out: Path, name: str) -> Path:
    """Flush every file of `scratch` to disk, then rename it to its final name."""
    for path in sorted(scratch.rglob("*")):
        _sync(path)
    _sync(scratch)
    final = out / name
    scratch.rename(final)
    _sync(out)
    return final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_record(directory: Path) -> dict[str, Any] | None:
    """edgec_stage.json of a finished stage; None when there is no directory.

    Raises ConfigError when the directory is none that edgec finished.
    """
    if not directory.exists():
        return None
    if not (directory / STAGE_FILE).is_file():
        problem = Problem(str(directory), f"no {STAGE_FILE}", "a stage that edgec finished")
        fix = f"delete {directory}, or choose another -o"
        raise ConfigError("something else lies where a stage belongs", [problem], fix)
    return read_json_object(directory / STAGE_FILE)


def check_reusable(directory: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ConfigError that names every difference between a finished stage and what is asked."""
    problems = []
    for key in IDENTITY:
        if key == "options":
            mine, other = dict(wanted["options"]), dict(found.get("options") or {})
            for name in sorted(mine.keys() | other.keys()):
                if mine.get(name) != other.get(name):
                    where = f"{directory.name}: {name}"
                    problems.append(Problem(where, str(other.get(name)), str(mine.get(name))))
        elif found.get(key) != wanted[key]:
            where = f"{directory.name}: {key}"
            problems.append(Problem(where, str(found.get(key)), str(wanted[key])))
    if problems:
        fix = f"delete {directory} and the stages behind it, or run with --restart"
        raise ConfigError("a finished stage was made in another way", problems, fix)


def check_places(out: Path, wanted: Mapping[str, str]) -> None:
    """Raise ConfigError when stages of another recipe lie in `out`.

    `wanted` maps the two digits of a position to the directory name of the recipe.
    """
    problems = []
    for path in sorted(out.iterdir()):
        name = path.name
        expected = wanted.get(name[:2], name)
        if is_stage(path) and expected != name:
            problems.append(Problem(str(path), "a stage of another recipe", expected))
    if problems:
        fix = "choose another -o, or run with --restart, which deletes them"
        raise ConfigError("the output belongs to another recipe", problems, fix)


def is_stage(path: Path) -> bool:
    """Whether this is the directory of a finished stage."""
    name = path.name
    return name[:2].isdigit() and name[2:3] == "-" and (path / STAGE_FILE).is_file()


def write_record(scratch: Path, record: Mapping[str, Any]) -> None:
    """Write edgec_stage.json."""
    write_json(scratch / STAGE_FILE, record)


def discard(out: Path) -> None:
    """Delete finished and half-written stages below `out`; nothing that edgec did not write."""
    if not out.is_dir():
        return
    for path in sorted(out.iterdir()):
        name = path.name
        partial = name.startswith(".") and name.endswith(".partial")
        if is_stage(path):  # in one step first: half a stage must never look finished
            shutil.rmtree(path.rename(out / f".{name}.partial"))
        elif partial and path.is_dir():
            shutil.rmtree(path)
        elif partial:
            path.unlink()
