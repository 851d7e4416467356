"""The rooms form a tower: a module imports only from its own room and from rooms below.

Also keeps heavy packages out of everything but the torch side of the roof. The checker reads source
text only, so that it sees lazy imports inside functions too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

# Top to bottom. A module belongs to the longest name that contains it.
ROOMS = ("toolchain", "codegen", "templates", "sim", "memory_planner", "toolchain.model")
HEAVY = frozenset(
    {"torch", "transformers", "peft", "gptqmodel", "optimum", "onnx", "onnxruntime", "lm_eval"}
    | {"datasets", "huggingface_hub"}
)
MAY_BE_HEAVY = ("toolchain.compress", "toolchain.evaluate")


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def room_of(module: str) -> str | None:
    """The room that owns a dotted module name, or None for packages from outside."""
    owners = [room for room in ROOMS if is_inside(module, room)]
    return max(owners, key=len, default=None)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every absolute import, `from a import b` read as `a.b`.

    `b` may be a plain name rather than a module; the room of `a.b` is right in both cases.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def offence(module: str, imported: str) -> str | None:
    """Why `module` must not import `imported`, or None when it may."""
    if imported.startswith("."):
        return "relative import; write the full name"
    if any(is_inside(imported, package) for package in HEAVY):
        allowed = any(is_inside(module, package) for package in MAY_BE_HEAVY)
        return None if allowed else f"{imported} belongs to {' and '.join(MAY_BE_HEAVY)} only"
    if is_inside(imported, "tests"):
        return "product code must not need the tests"
    here, there = room_of(module), room_of(imported)
    if here is None or there is None or ROOMS.index(there) >= ROOMS.index(here):
        return None
    return f"{here} is below {there}"


def offences(module: str, source: str) -> list[str]:
    """All forbidden imports of one module, as `module:line: import: reason`."""
    return [
        f"{module}:{line}: {imported}: {reason}"
        for line, imported in imported_modules(ast.parse(source))
        if (reason := offence(module, imported)) is not None
    ]


def room_files(root: Path) -> list[Path]:
    tops = sorted({room.split(".")[0] for room in ROOMS})
    return [path for top in tops for path in sorted((root / top).rglob("*.py"))]


def offences_below(root: Path) -> list[str]:
    return [
        text
        for path in room_files(root)
        for text in offences(module_name(path, root), path.read_text(encoding="utf-8"))
    ]


def test_rooms_import_only_from_below() -> None:
    assert offences_below(REPOSITORY) == []


def test_every_room_was_visited() -> None:
    seen = {room_of(module_name(path, REPOSITORY)) for path in room_files(REPOSITORY)}
    assert seen == set(ROOMS)


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("sim.ops", "from codegen.blob import write_blob", "sim is below codegen"),
        ("sim.ops", "import codegen", "sim is below codegen"),
        ("sim.ops", "from toolchain import cli", "sim is below toolchain"),
        ("memory_planner.plan", "def f():\n    import sim.ops", "memory_planner is below sim"),
        ("toolchain.model.lower", "import toolchain.report", "toolchain.model is below toolchain"),
        ("toolchain.model.lower", "from toolchain import pipeline", "is below toolchain"),
        ("toolchain.model", "from memory_planner import plan", "is below memory_planner"),
        ("toolchain.cli", "def f():\n    import torch.nn", "toolchain.compress"),
        ("codegen.blob", "try:\n    from onnx import helper\nexcept ImportError: pass", "onnx"),
        ("codegen.blob", "from . import packing", "relative import"),
        ("codegen.blob", "from tests import paths", "must not need the tests"),
    ],
)
def test_checker_refuses(module: str, source: str, reason: str) -> None:
    (found,) = offences(module, source)
    assert reason in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("toolchain.cli", "import codegen.blob, sim, toolchain.model"),
        (
            "codegen.blob",
            "from toolchain.model import program\nimport toolchain.model.lower",
        ),
        ("codegen.blob", "from codegen import packing\nimport numpy as np"),
        ("toolchain.compress.lora", "import torch\nfrom transformers import AutoModel"),
        ("toolchain.model.lower", "from toolchain.model import config"),
        ("sim.ops", "import simple, codegenerator"),
    ],
)
def test_checker_allows(module: str, source: str) -> None:
    assert offences(module, source) == []


def test_checker_finds_a_module_on_disk(tmp_path: Path) -> None:
    package = tmp_path / "sim" / "deep"
    package.mkdir(parents=True)
    (package / "bad.py").write_text('"""Offends."""\n\nimport toolchain.cli\n', encoding="utf-8")
    assert offences_below(tmp_path) == [
        "sim.deep.bad:3: toolchain.cli: sim is below toolchain",
    ]
