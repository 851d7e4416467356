"""The compiled runtime, once per run; other modules ask for it with sanitizers or for RV32."""

from __future__ import annotations

import os

import pytest

from tests.c.core_runtime import CoreRuntime
from tests.c.data import IS_FAST, ON_CORE, SANITIZED
from tests.c.runtime import Runtime, build_library
from toolchain.c_tools import find_rv32_compiler

SANITIZERS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


ARITHMETIC = "-DEDGEC_ARITHMETIC_FAST=1" if IS_FAST else "-DEDGEC_ARITHMETIC_FAST=0"
FLAGS = (*(SANITIZERS if os.environ.get(SANITIZED) else ("-O2",)), ARITHMETIC)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime | CoreRuntime:
    directory = tmp_path_factory.mktemp("runtime")
    if os.environ.get(ON_CORE):
        return CoreRuntime(directory, find_rv32_compiler(), os.environ[ON_CORE], ARITHMETIC)
    return Runtime(build_library(directory, FLAGS))


@pytest.fixture(scope="session")
def scalar_runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """With the linear kernels of cores without vectors; those of the model of a core have none."""
    if os.environ.get(ON_CORE):
        pytest.skip("the kernels of this core are the scalar ones")
    directory = tmp_path_factory.mktemp("scalar")
    return Runtime(build_library(directory, (*FLAGS, "-DEDGEC_LINEAR_VECTORS=0")))
