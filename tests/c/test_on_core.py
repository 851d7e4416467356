"""The kernel tests once more, compiled for RV32 and run on the model of a core, where every access
beside an array and every store to an input is a fault."""

from __future__ import annotations

import os
import subprocess
import sys
from ctypes import c_uint64
from pathlib import Path

import numpy as np
import pytest

from tests.c.core_runtime import CoreRuntime
from tests.c.data import FAST, ON_CORE
from tests.c.runtime import AnyArray, Guarded
from tests.paths import REPOSITORY
from toolchain.c_tools import Compiler, find_rv32_compiler
from toolchain.model.errors import ToolError
from toolchain.model.program import Arithmetic

MODULES = (
    *("test_vectors", "test_linear", "test_sparse_linear", "test_attention", "test_group_sums"),
    *("test_fused_rows", "test_fused_finish", "test_fused_groups", "test_fused_argmax"),
)


def rv32_compiler() -> Compiler:
    try:
        return find_rv32_compiler()
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.mark.parametrize(
    ("flags", "arithmetic"),
    [
        ("-DEDGEC_XPULP=0", Arithmetic.PRECISE),
        ("-DEDGEC_XPULP=1", Arithmetic.PRECISE),
        ("-DEDGEC_XPULP=1", Arithmetic.FAST),
    ],
)
def test_kernels_on_a_core(flags: str, arithmetic: Arithmetic) -> None:
    rv32_compiler()
    run_modules(arithmetic, {ON_CORE: flags})


def test_kernels_of_fast_arithmetic() -> None:
    """On the host, where kernels are plain C."""
    run_modules(Arithmetic.FAST, {})


def run_modules(arithmetic: Arithmetic, settings: dict[str, str]) -> None:
    """The kernel tests with these environment variables."""
    files = [f"tests/c/{module}.py" for module in MODULES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    fast = {FAST: "1"} if arithmetic is Arithmetic.FAST else {}
    environment = os.environ | settings | fast
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> CoreRuntime:
    return CoreRuntime(tmp_path_factory.mktemp("core"), rv32_compiler(), "-DEDGEC_XPULP=1")


def rmsnorm(core: CoreRuntime, n: int, room: int, q: AnyArray | None = None) -> None:
    guarded = Guarded()
    core.run(
        *(3, "edgec_rmsnorm_s16", np.ones(n, np.int32), np.ones(n, np.int16), n, c_uint64(0)),
        guarded.array(n, np.int32),
        guarded.array(room, np.int16) if q is None else q,
        guarded.array(2, np.int32),
    )


def test_an_output_that_is_too_small_is_a_fault(core: CoreRuntime) -> None:
    rmsnorm(core, 12, 12)
    with pytest.raises(AssertionError, match="edgec_rmsnorm_s16: access outside the memory"):
        rmsnorm(core, 12, 11)


def test_a_store_to_an_input_is_a_fault(core: CoreRuntime) -> None:
    with pytest.raises(AssertionError, match="store to what is only read"):
        rmsnorm(core, 12, 12, np.zeros(12, np.int16))


def test_a_core_that_leaves_early_is_found(core: CoreRuntime, tmp_path: Path) -> None:
    """A team of which one core returns without its barrier would hang on a chip."""
    source = tmp_path / "early.c"
    source.write_text(
        '#include "edgec_port.h"\n'
        "void early(const edgec_worker *worker);\n"
        "void early(const edgec_worker *worker) {\n"
        "    if (worker->id != 1U) {\n"
        "        edgec_barrier(worker);\n"
        "    }\n"
        "}\n"
    )
    other = CoreRuntime(tmp_path, rv32_compiler(), str(source))
    with pytest.raises(AssertionError, match="waits for one that has returned"):
        other.run(3, "early")
