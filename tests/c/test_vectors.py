"""The vector kernels against sim/ops.py, on teams of 1, 3 and 8 cores."""

from __future__ import annotations

from ctypes import c_uint64

import numpy as np
import pytest

from sim import ops
from tests.c.data import (
    CORES,
    GATE_STEP,
    GATE_TABLE,
    KINDS,
    SIZES,
    STEPS,
    int_type,
    quantized,
    suffix,
    vector,
)
from tests.c.runtime import Guarded, Runtime
from toolchain.model.program import ActMode

MODES = pytest.mark.parametrize("mode", list(ActMode))
TEAMS = pytest.mark.parametrize("cores", CORES)


@MODES
@TEAMS
@pytest.mark.parametrize("eps", [0, 10737, 2**33 - 1])
def test_rmsnorm(runtime: Runtime, cores: int, mode: ActMode, eps: int) -> None:
    for n in SIZES:
        gamma = np.random.default_rng(n).integers(-(2**15), 2**15, n).astype(np.int16)
        for kind in KINDS:
            r = vector(kind, n)
            q, scale = quantized(runtime, cores, "rmsnorm", mode, n, r, gamma, n, c_uint64(eps))
            want_q, want_scale = ops.rms_norm(
                r[None].astype(np.int64), gamma.astype(np.int64), eps, mode
            )
            assert q.tolist() == want_q[0].tolist(), (n, kind)
            assert scale.tolist() == want_scale[0].tolist(), (n, kind)


@MODES
@TEAMS
def test_swiglu(runtime: Runtime, cores: int, mode: ActMode) -> None:
    table = GATE_TABLE
    for n in SIZES:
        for gate_kind, up_kind in zip(KINDS * 2, (*KINDS[3:], *KINDS, *KINDS[:3]), strict=True):
            gate, up = vector(gate_kind, n, 1), vector(up_kind, n, 2)
            q, scale = quantized(runtime, cores, "swiglu", mode, n, gate, up, table, n)
            want_q, want_scale = ops.swiglu(
                gate[None].astype(np.int64),
                up[None].astype(np.int64),
                table.astype(np.int64),
                mode,
                STEPS.silu,
            )
            assert q.tolist() == want_q[0].tolist(), (n, gate_kind, up_kind)
            assert scale.tolist() == want_scale[0].tolist(), (n, gate_kind, up_kind)


def test_swiglu_around_every_table_step(runtime: Runtime) -> None:
    entries = np.arange(-GATE_TABLE.size - 3, GATE_TABLE.size + 4)
    steps = (entries << GATE_STEP)[:, None] + np.array([-1, 0, 1, 1023, 1024, 2047, 2048])
    gate = steps.reshape(-1).astype(np.int32)
    up = np.full(gate.size, 1 << 16, np.int32)
    table = GATE_TABLE
    q, scale = quantized(
        runtime, 1, "swiglu", ActMode.A16, gate.size, gate, up, table, int(gate.size)
    )
    want_q, want_scale = ops.swiglu(
        gate[None].astype(np.int64),
        up[None].astype(np.int64),
        table.astype(np.int64),
        ActMode.A16,
        STEPS.silu,
    )
    assert q.tolist() == want_q[0].tolist()
    assert scale.tolist() == want_scale[0].tolist()


@TEAMS
def test_residual_add_saturates(runtime: Runtime, cores: int) -> None:
    for n in SIZES:
        for kind, other in zip(KINDS, reversed(KINDS), strict=True):
            guarded = Guarded()
            r, y = guarded.array(n, np.int32), vector(other, n, 3)
            r[:] = vector(kind, n, 4)
            want = ops.residual_add(r.astype(np.int64), y.astype(np.int64))
            runtime.run(cores, "edgec_residual_add", y, n, r)
            guarded.check()
            assert r.tolist() == want.tolist()


@TEAMS
@MODES
def test_gather(runtime: Runtime, cores: int, mode: ActMode) -> None:
    rng = np.random.default_rng(cores)
    for n in SIZES:
        x = rng.integers(-127, 128, n).astype(int_type(mode))
        order = rng.permutation(n).astype(np.uint16)
        guarded = Guarded()
        q = guarded.array(n, int_type(mode))
        runtime.run(cores, f"edgec_gather_{suffix(mode)}", x, order, n, q)
        guarded.check()
        want = ops.gather(x[None].astype(np.int64), order.astype(np.int64))
        assert q.tolist() == want[0].tolist()


@TEAMS
def test_argmax_takes_the_lowest_of_equals(runtime: Runtime, cores: int) -> None:
    for n in SIZES:
        for kind in KINDS:
            logits, guarded = vector(kind, n, 5), Guarded()
            best = guarded.array(1, np.int32)
            runtime.run(cores, "edgec_argmax", logits, n, best)
            guarded.check()
            assert best[0] == ops.argmax(logits[None].astype(np.int64))[0], (n, kind)
    tied = np.array([1, 7, 3, 7, 7, 0, 7], np.int32)
    best = Guarded().array(1, np.int32)
    runtime.run(cores, "edgec_argmax", tied, 7, best)
    assert best[0] == 1


@TEAMS
@MODES
def test_quantize_vector(runtime: Runtime, cores: int, mode: ActMode) -> None:
    for n in (1, 2, 7, 40):
        for magnitude in (0, 1, 13, 14, 15, 16, 31):
            bound = 2**magnitude
            x = np.random.default_rng(n).integers(-bound + 1, bound, n).astype(np.int32)
            x[-1] = bound - 1
            guarded = Guarded()
            q, scale = guarded.array(n, int_type(mode)), guarded.array(2, np.int32)
            runtime.run(cores, f"edgec_quantize_vector_{suffix(mode)}", x, n, q, scale)
            guarded.check()
            want_q, want_scale = ops.quantize_vector(x[None].astype(np.int64), mode)
            assert q.tolist() == want_q[0].tolist()
            assert scale.tolist() == want_scale[0].tolist()
