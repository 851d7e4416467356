"""Input vectors for the kernels: random ones, and those at the ends of the range."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.interpreter import steps_of
from tests.c.runtime import Guarded, Runtime
from toolchain.model.lower import exp2_table, fast_exp2_table, sigmoid_table, silu_table
from toolchain.model.program import ActMode, Arithmetic

INT32_MAX = 2**31 - 1
SIZES = (1, 2, 3, 6, 64, 97, 100)
# Environment variables: test with sanitizers, or on the model of a core with these compiler flags.
# Both are slow.
SANITIZED, ON_CORE = "EDGEC_TEST_SANITIZED", "EDGEC_TEST_ON_CORE"
FAST = "EDGEC_TEST_FAST"  # test the fast arithmetic
IS_FAST = bool(os.environ.get(FAST))
STEPS = steps_of(Arithmetic.FAST if IS_FAST else Arithmetic.PRECISE)
GATE_TABLE = silu_table() if IS_FAST else sigmoid_table()
POWERS = fast_exp2_table if IS_FAST else lambda _: exp2_table()  # by exp_bits
GATE_STEP = 11 if IS_FAST else 12  # bits of a gate between two entries
CORES = (3,) if os.environ.get(SANITIZED) or os.environ.get(ON_CORE) else (1, 3, 8)

Vector = npt.NDArray[np.int32]
KINDS = ("zeros", "one", "outlier", "extremes", "minimum", "small", "medium", "large")


def vector(kind: str, n: int, seed: int = 0) -> Vector:
    """n int32 values in [-(2^31-1), 2^31-1]."""
    rng = np.random.default_rng([seed, n, KINDS.index(kind)])
    x: npt.NDArray[np.int64] = np.zeros(n, np.int64)
    if kind == "one":
        x[:] = -1
    elif kind == "outlier":
        x = rng.integers(-3, 4, n)
        x[n // 2] = -INT32_MAX
    elif kind == "extremes":
        x = rng.choice([-INT32_MAX, INT32_MAX], n)
    elif kind == "minimum":
        x[:] = -INT32_MAX
    elif kind != "zeros":
        bits = {"small": 6, "medium": 17, "large": 31}[kind]
        x = rng.integers(-(2**bits) + 1, 2**bits, n)
    return x.astype(np.int32)


def suffix(mode: ActMode) -> str:
    """Element type in kernel names."""
    return "s8" if mode is ActMode.A8 else "s16"


def int_type(mode: ActMode) -> npt.DTypeLike:
    """Element type of a quantized vector."""
    return np.int8 if mode is ActMode.A8 else np.int16


def quantized(
    runtime: Runtime, cores: int, kernel: str, mode: ActMode, n: int, *inputs: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """(q, scale) of a kernel that ends in `scratch[n], q, scale`."""
    guarded = Guarded()
    scratch = guarded.array(n, np.int32)
    q, scale = guarded.array(n, int_type(mode)), guarded.array(2, np.int32)
    runtime.run(cores, f"edgec_{kernel}_{suffix(mode)}", *inputs, scratch, q, scale)
    guarded.check()
    return q, scale
