"""The wheel has every file of the rooms: modules, templates, runtime C, targets, bundled model."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

ROOMS = ("toolchain", "codegen", "templates", "sim", "memory_planner")
CACHES = shutil.ignore_patterns("__pycache__", ".*_cache")


def files_of_rooms(root: Path) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for room in ROOMS
        for path in (root / room).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], zipfile.ZipFile]:
    """The files that went in, and the wheel; built from a copy, so that no old build leaks in."""
    source = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, source / room, ignore=CACHES)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    before = files_of_rooms(source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", source / "out", source], check=True)
    (path,) = (source / "out").glob("*.whl")
    return before, zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_rooms(wheel: tuple[set[str], zipfile.ZipFile]) -> None:
    files, archive = wheel
    packed = {name for name in archive.namelist() if name.split("/")[0] in ROOMS}
    assert packed == files


def test_wheel_holds_nothing_else(wheel: tuple[set[str], zipfile.ZipFile]) -> None:
    tops = {name.split("/")[0] for name in wheel[1].namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOMS)


def test_base_install_is_free_of_torch(wheel: tuple[set[str], zipfile.ZipFile]) -> None:
    archive = wheel[1]
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    base = {need.split("<")[0].split(">")[0] for need in needs if "extra ==" not in need}
    assert base == {"numpy", "safetensors", "tokenizers", "click", "jinja2", "rich"}


def test_console_script_is_declared(wheel: tuple[set[str], zipfile.ZipFile]) -> None:
    archive = wheel[1]
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "edgec = toolchain.cli:main" in archive.read(name).decode()
