"""Settings of the whole suite: no network, and the same examples on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from codegen.bundle import LoadedBundle

# Set before any test imports transformers or tokenizers, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Seeded by the test's own name; no deadline, since the first example of a C test pays for a build.
settings.register_profile("edgec", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("edgec")


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "rewrite tests/golden with what the code generator writes now"
    parser.addoption("--update-golden", action="store_true", help=help_text)


@pytest.fixture
def check_golden_text(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a generated text with tests/golden/NAME; --update-golden rewrites it."""

    def check(name: str, text: str) -> None:
        path = REPOSITORY / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{name} changed: --update-golden, review"

    return check


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """A compiled model of odd shape for siracusa: tiles, two blobs, two arenas. Read-only."""
    from tests.bundles import compile_tiny

    return compile_tiny(tmp_path_factory.mktemp("tiny"))
