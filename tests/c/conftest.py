"""The compiled runtime, once per run; test_sanitized.py asks for it with sanitizers."""

from __future__ import annotations

import os

import pytest

from tests.c.data import SANITIZED
from tests.c.runtime import Runtime, build_library

SANITIZERS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    flags = SANITIZERS if os.environ.get(SANITIZED) else ("-O2",)
    return Runtime(build_library(tmp_path_factory.mktemp("runtime"), flags))
