"""Bundles are replaced in one move or not at all, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from codegen import bundle_write
from codegen.bundle import MANIFEST, Bundle
from codegen.bundle_write import check_destination, write_bundle
from toolchain.model.errors import ConfigError, EnvironmentFailureError


def tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def small(name: str = "a.txt") -> Bundle:
    return Bundle({MANIFEST: manifest_of(name), name: b"a"})


def manifest_of(name: str) -> bytes:
    return json.dumps({"edgec": "0", "files": {name: ""}}).encode()


def test_an_earlier_bundle_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    write_bundle(small("old.txt"), target)
    write_bundle(small("sub/new.txt"), target)
    assert tree(target) == {MANIFEST: manifest_of("sub/new.txt"), "sub/new.txt": b"a"}
    assert list(target.parent.iterdir()) == [target]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    write_bundle(small(), tmp_path / "new")
    (tmp_path / "empty").mkdir()
    write_bundle(small(), tmp_path / "empty")
    assert tree(tmp_path / "empty") == tree(tmp_path / "new")


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write_bundle(small("old.txt"), tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write_bundle(small("new.txt"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert set(tree(tmp_path / "real")) == {MANIFEST, "new.txt"}


def test_other_directories_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / MANIFEST).write_text('{"name": "a browser extension"}')
    write_bundle(small(), tmp_path / "extended")
    (tmp_path / "extended" / "notes.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, found in {
        "mine": r"thesis\.tex",
        "extension": r"manifest\.json",
        "extended": r"notes\.txt",
        "file": "not a directory",
        "dangling": "not a directory",
    }.items():
        with pytest.raises(ConfigError, match=found):
            write_bundle(small(), tmp_path / name)
        with pytest.raises(ConfigError, match=name):
            check_destination(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_changed_files_of_a_bundle_are_not_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    data = b"int x;\n"
    manifest = {"edgec": "1", "files": {"a.c": sha256(data).hexdigest(), "b.c": "0" * 64}}
    files = {"a.c": data, MANIFEST: json.dumps(manifest).encode()}  # b.c is missing: no loss
    write_bundle(Bundle(files), place)
    check_destination(place)
    (place / "a.c").write_bytes(b"int y;\n")
    with pytest.raises(ConfigError, match=r"a\.c, changed since edgec wrote it"):
        write_bundle(Bundle(files), place)
    assert (place / "a.c").read_bytes() == b"int y;\n"
    (place / "a.c").unlink()
    write_bundle(Bundle(files), place)
    assert (place / "a.c").read_bytes() == data


@pytest.mark.parametrize("failing", ["write_bytes", "rename"])
def test_a_failed_write_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write_bundle(small("old.txt"), tmp_path / "bundle")
    before = tree(tmp_path / "bundle")
    original = getattr(Path, failing)

    def full_disk(self: Path, argument: Any) -> Any:
        if "new.txt" in self.name or self.name == "new":
            raise OSError(28, "No space left on device")
        return original(self, argument)

    monkeypatch.setattr(bundle_write, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, failing, full_disk)
    with pytest.raises(EnvironmentFailureError, match="No space left"):
        write_bundle(small("new.txt"), tmp_path / "bundle")
    monkeypatch.undo()
    assert tree(tmp_path / "bundle") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_an_interrupt_never_costs_both_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, moment: str
) -> None:
    place = tmp_path / "bundle"
    write_bundle(small("old.txt"), place)
    old = tree(place)
    rename, swap = Path.rename, bundle_write._swap

    def interrupted_swap(fresh: Path, where: Path) -> None:
        if moment == "before":
            raise KeyboardInterrupt
        swap(fresh, where)
        if moment == "after":
            raise KeyboardInterrupt

    def interrupted_rename(self: Path, target: Path) -> Path:
        if moment == "between" and self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    if not exchange:
        monkeypatch.setattr(bundle_write, "_exchange", lambda *_: False)
    monkeypatch.setattr(bundle_write, "_swap", interrupted_swap)
    monkeypatch.setattr(Path, "rename", interrupted_rename)
    with contextlib.suppress(KeyboardInterrupt):
        write_bundle(small("new.txt"), place)
    whole = (old, {MANIFEST: manifest_of("new.txt"), "new.txt": b"a"})
    assert tree(place) in whole
    assert list(tmp_path.iterdir()) == [place]


def test_directories_are_exchanged_in_one_step(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
        (place / place.name).touch()
    if not bundle_write._exchange(one, other):
        pytest.skip("no exchange on this file system")
    assert set(tree(one)) == {"other"}
    assert set(tree(other)) == {"one"}
    with pytest.raises(FileNotFoundError):
        bundle_write._exchange(one, tmp_path / "nowhere")


@pytest.mark.parametrize("links", [True, False])
def test_a_build_folder_is_kept_beside_our_manifest_and_refused_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    place = tmp_path / "bundle"
    write_bundle(small("old.txt"), place)
    (place / "build" / "host").mkdir(parents=True)
    (place / "build" / "host" / "a.o").write_bytes(b"object")
    (place / "build" / "latest").symlink_to("host")
    write_bundle(small("new.txt"), place)
    assert (place / "build" / "host" / "a.o").read_bytes() == b"object"
    assert (place / "build" / "latest").readlink() == Path("host")
    assert {"new.txt", "build/host/a.o"} <= set(tree(place))
    (place / MANIFEST).unlink()
    (place / "new.txt").unlink()
    with pytest.raises(ConfigError, match="build, which edgec did not write"):
        write_bundle(small(), place)
    assert (place / "build" / "host" / "a.o").exists()


def test_links_to_directories_and_pipes_are_not_ours(tmp_path: Path) -> None:
    write_bundle(small(), tmp_path / "bundle")
    (tmp_path / "bundle" / "sub").mkdir()
    (tmp_path / "bundle" / "sub" / "link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "bundle" / "pipe")
    with pytest.raises(ConfigError, match="pipe, sub/link, which edgec did not write"):
        write_bundle(small(), tmp_path / "bundle")


def test_no_ground_is_pulled_from_under_anyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bundle"
    write_bundle(small(), place)
    (place / "sub").mkdir()
    monkeypatch.setattr(os, "scandir", None)  # nothing is walked
    for here, output, found in [
        (place, ".", "the current directory"),
        (place, str(place), "the current directory"),
        (place / "sub", "..", "above the current one"),
        (tmp_path, "/", "root of the file system"),
        (tmp_path, "/proc", "a mount point"),
    ]:
        monkeypatch.chdir(here)
        with pytest.raises(ConfigError, match=found) as error:
            check_destination(Path(output))
        assert error.value.exit_code == 2


def test_unusable_places_are_one_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, found in {
        "x" * 300: "too long",
        "file/below": "not a directory",
        "loop/below": "loop|not a directory|symbolic",
        "nul\0byte": "null",
    }.items():
        with pytest.raises(ConfigError, match=found):
            write_bundle(small(), tmp_path / name)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="no permission to write"):
        check_destination(tmp_path / "new")
    monkeypatch.undo()

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        write_bundle(small(), tmp_path / "new")
