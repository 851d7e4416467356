"""Bundles on disk: complete or refused, and equal for equal input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codegen.bundle import MANIFEST, LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.json_text import pretty
from tests.bundles import compile_tiny, seal
from tests.paths import REPOSITORY
from toolchain.model.errors import BundleError


def tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def copy(tiny_bundle: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "bundle"))


def test_manifest_tells_settings_and_every_file(tiny_bundle: LoadedBundle) -> None:
    manifest = tiny_bundle.manifest
    assert manifest["prefix"] == tiny_bundle.prefix == "tiny"
    assert manifest["target"] == "siracusa"
    files = set(tree(tiny_bundle.directory)) - {MANIFEST}
    assert set(manifest["files"]) == files
    rows = {row["name"]: row for row in manifest["weights"]}
    assert rows["l01.mlp.down_proj.weight"] == {
        "name": "l01.mlp.down_proj.weight",
        "shape": [18, 100],
        "bits": 4,
        "group_size": 16,
        "packing": "nibble",
        "region": "mram",
        "size": 3 * (32 + 7 * 8 + 4 * 100),
    }
    assert rows["lm_head.weight"]["packing"] == "byte"
    assert tiny_bundle.tokenizer_path.is_file()


def test_no_host_path_and_no_time_is_in_a_bundle(tiny_bundle: LoadedBundle) -> None:
    for path, data in tree(tiny_bundle.directory).items():
        for text in (str(tiny_bundle.directory.parent), str(REPOSITORY), "202"):
            if text == "202" and not path.endswith((".c", ".h", ".ld", ".S", "Makefile")):
                continue
            assert text.encode() not in data, (path, text)


def flip_byte(path: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        data = bytearray((root / path).read_bytes())
        data[len(data) // 2] ^= 1
        (root / path).write_bytes(data)

    return spoil


def edit_manifest(key: str, value: Any) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        manifest = json.loads((root / MANIFEST).read_text())
        (root / MANIFEST).write_bytes(pretty(manifest | {key: value}))

    return spoil


def stale_plan(root: Path) -> None:
    """A plan.json that is whole, listed in the manifest, and not the blobs' own."""
    plan = json.loads((root / "plan.json").read_text())
    plan["program"]["residual_bits"] += 1
    (root / "plan.json").write_bytes(pretty(plan))
    seal(root)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "blob": (flip_byte("weights/mram.bin"), r"weights/mram\.bin: found SHA-256"),
    "plan": (flip_byte("plan.json"), r"plan\.json: found SHA-256"),
    "golden": (flip_byte("golden/golden.bin"), r"golden/golden\.bin: found SHA-256"),
    "code": (flip_byte("src/tiny_model.c"), r"src/tiny_model\.c: found SHA-256"),
    "missing": (lambda root: (root / "weights.S").unlink(), r"weights\.S: found nothing"),
    "no manifest": (lambda root: (root / MANIFEST).unlink(), "not a bundle"),
    "manifest text": (lambda root: (root / MANIFEST).write_text("{"), "cannot be read"),
    "manifest list": (lambda root: (root / MANIFEST).write_text("[]"), "the top level is"),
    "version": (edit_manifest("format", 1), "format 1, this edgec reads 2"),
    "manifest value": (edit_manifest("target", "rv32"), "digest"),
    "no files": (
        lambda root: (root / MANIFEST).write_text('{"format": 2}'),
        r"manifest\.json: files: found nothing",
    ),
    "stale plan": (stale_plan, "graph hash"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(copy: Path, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    spoil(copy)
    with pytest.raises(BundleError, match=message):
        load_bundle(copy)


def test_all_damaged_files_are_named_at_once(copy: Path) -> None:
    flip_byte("plan.json")(copy)
    (copy / "weights.S").unlink()
    with pytest.raises(BundleError) as error:
        load_bundle(copy)
    assert [problem.where for problem in error.value.problems] == ["weights.S", "plan.json"]


def test_files_of_the_user_are_no_damage(copy: Path) -> None:
    (copy / "my_main.c").touch()
    (copy / "src" / "notes").mkdir()
    (copy / "src" / "notes" / "todo.txt").touch()
    assert load_bundle(copy).directory == copy


def test_c_files_cite_only_what_is_in_the_bundle(copy: Path) -> None:
    for path in (*copy.rglob("*.[chS]"), *copy.rglob("*.ld"), copy / "Makefile"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"[\w/.-]+\.(?:md|py)\b", text):
            assert (copy / name).exists(), (path, name)


def test_output_of_the_bundle_s_own_makefile_does_no_harm(copy: Path) -> None:
    (copy / "build" / "host").mkdir(parents=True)
    (copy / "build" / "host" / "libtiny.a").touch()
    load_bundle(copy)


COMPILE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.bundles import compile_tiny, seal
compile_tiny(Path(sys.argv[1]))
"""


def test_equal_input_gives_equal_bytes(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    """In other directories, with other hash seeds and another locale."""
    for seed, locale in (("1", "C"), ("4242", "C.UTF-8")):
        place = tmp_path / f"seed {seed}"
        place.mkdir()
        subprocess.run(
            [sys.executable, "-c", COMPILE, str(place), str(REPOSITORY)],
            cwd=place,
            env=os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": "Asia/Tokyo"},
            check=True,
        )
        assert tree(place / "bundle") == tree(tiny_bundle.directory)


def test_another_model_makes_another_bundle(tiny_bundle: LoadedBundle, tmp_path: Path) -> None:
    other = compile_tiny(tmp_path, num_layers=1)
    assert other.manifest["graph_hash"] != tiny_bundle.manifest["graph_hash"]
