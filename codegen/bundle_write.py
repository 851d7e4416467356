"""Writing a bundle: into a place of its own, and in one move that can lose nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

from codegen.bundle import BUILD, MANIFEST, Bundle, bundle_entries
from codegen.forms import Each, deviations
from toolchain.model.errors import ConfigError, EnvironmentFailureError, Problem
from toolchain.model.json_fields import parse_json_object

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})
ANOTHER = "choose another directory with -o"


def check_destination(directory: Path) -> None:
    """Raise ConfigError when `directory` may not be replaced, or no bundle can be put there.

    That is the current directory, one above it, a mount point, a place without permission, and a
    directory that holds anything but a bundle (and what its Makefile built into build/): files that
    edgec did not write, and files of the bundle that were changed since.
    """
    try:
        problem = _reserved(directory) or _unusable(directory) or _occupied(directory)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        problem = Problem(str(directory), _reason(error), "a place that can be written")
    if problem is not None:
        raise ConfigError("the output directory cannot be used", [problem], fix=ANOTHER)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _reserved(directory: Path) -> Problem | None:
    """Directories whose replacement would pull the ground from under someone's feet."""
    place, here = directory.resolve(), Path.cwd().resolve()
    found = None
    if place.parent == place:
        found = "the root of the file system"
    elif place == here:
        found = "the current directory"
    elif place in here.parents:
        found = "a directory above the current one"
    elif place.is_mount():
        found = "a mount point"
    return Problem(str(directory), found, "a directory of its own") if found else None


def _unusable(directory: Path) -> Problem | None:
    """The nearest directory above must let us make and rename entries."""
    above = directory.resolve().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        return Problem(str(above), "not a directory", "a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        return Problem(str(above), "no permission to write", "a place that can be written")
    return None


def _occupied(directory: Path) -> Problem | None:
    if not directory.exists() and not directory.is_symlink():
        return None
    found = "not a directory"
    if directory.is_dir():
        strange, changed = _foreign_entries(directory), _changed_files(directory)
        reasons = (
            (strange, "which edgec did not write"),
            (changed, "changed since edgec wrote it"),
        )
        parts = [text for files, why in reasons if (text := _first_few(files, why))]
        if not parts:
            return None
        found = "; ".join(parts)
    allowed = "a new or empty directory, or an earlier bundle as edgec wrote it"
    return Problem(str(directory), found, allowed, "move away what you want to keep, or delete it")


def _first_few(paths: Iterator[str], why: str) -> str:
    """Three of the paths with what is said of them; empty when there are none."""
    first = list(islice(paths, 4))
    listed = ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
    return f"{listed}, {why}" if first else ""


def _foreign_entries(directory: Path) -> Iterator[str]:
    """What no manifest of ours lists: the first entries of all when there is none."""
    listed = _listed_files(directory)
    if listed is None:
        yield from sorted(entry.name for entry in directory.iterdir())
        return
    for path in bundle_entries(directory):
        if path not in listed:
            yield path


def _changed_files(directory: Path) -> Iterator[str]:
    """Files of the manifest that are not what it says; one that is missing loses nothing."""
    listed = _listed_files(directory) or {}
    for path in bundle_entries(directory) if listed else ():
        digest, file = listed.get(path), directory / path
        if digest and file.is_file() and sha256(file.read_bytes()).hexdigest() != digest:
            yield path


def _listed_files(directory: Path) -> dict[str, str] | None:
    """SHA-256 by path of the manifest, its own empty; None when the directory is no bundle."""
    try:
        manifest = parse_json_object((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    files = manifest.get("files")
    if not isinstance(manifest.get("edgec"), str) or not isinstance(files, dict):
        return None
    return None if deviations(files, Each(str), "") else {MANIFEST: "", **files}


def write_bundle(bundle: Bundle, directory: Path) -> None:
    """Write the bundle next to `directory` and exchange the two; build/ is carried over.

    Until the exchange the old bundle is untouched, after it the new one is whole. Raises
    ConfigError as `check_destination`, and EnvironmentFailureError when files cannot be written.
    """
    check_destination(directory)
    place = directory.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            prefix=".edgec-", dir=place.parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        problem = Problem(str(directory), _reason(error), "a place that can be written")
        raise ConfigError("the output directory cannot be used", [problem], ANOTHER) from error
    try:
        with scratch as name:
            fresh = Path(name) / "new"
            _write_files(bundle, fresh)
            if (place / BUILD).is_dir():
                _carry_over(place / BUILD, fresh / BUILD)
            _swap(fresh, place)
    except OSError as error:
        what = f"the bundle cannot be written to {directory}: {error}"
        raise EnvironmentFailureError(what) from error


def _write_files(bundle: Bundle, root: Path) -> None:
    root.mkdir()
    for path, data in bundle.files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _carry_over(old: Path, fresh: Path) -> None:
    """The same files under a second name, so that they are never only in the scratch."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # no hard links here
            shutil.copy2(source, target, follow_symlinks=False)

    shutil.copytree(old, fresh, symlinks=True, copy_function=link)


def _swap(fresh: Path, place: Path) -> None:
    """Put `fresh` at `place`. An old bundle ends at `fresh`, or beside the scratch for a moment."""
    if not place.exists():
        fresh.rename(place)
    elif not _exchange(fresh, place):
        _rename_twice(fresh, place)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step of the file system; False where it has no such step."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _rename_twice(fresh: Path, place: Path) -> None:
    """The fallback. The old bundle waits outside the scratch, which is deleted in any case."""
    stale = place.parent / f"{fresh.parent.name}-old"
    try:
        place.rename(stale)
        fresh.rename(place)
    except BaseException:
        if stale.exists() and not place.exists():
            stale.rename(place)
        raise
    shutil.rmtree(stale, ignore_errors=True)
