"""Rows of a linear inside fused ops and what becomes of them, against integers of any size."""

from __future__ import annotations

import numpy as np
import pytest

from tests.c.data import IS_FAST
from tests.c.runtime import AnyArray, Guarded, Runtime
from toolchain.model.lower import sigmoid_table

STAY, GATE, ADD = range(3)
SIGMOID = sigmoid_table()


def rs(x: int, shift: int) -> int:
    return (x + (1 << shift - 1)) >> shift


def silu(gate: int) -> int:
    clamped = min(abs(gate), (16 << 16) - 1)
    base, above = (int(SIGMOID[(clamped >> 12) + i]) for i in range(2))
    factor = base + rs((above - base) * (clamped & 4095), 12)
    return min(gate, 0) + rs(abs(gate) * factor, 15)


@pytest.mark.parametrize("cores", [1, 3, 8])
@pytest.mark.parametrize("use", [STAY, GATE, ADD])
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("bits", [20, 26, 29, 31])
@pytest.mark.skipif(IS_FAST, reason="the integers below are those of precise arithmetic")
def test_rows(runtime: Runtime, cores: int, use: int, halves: int, bits: int) -> None:
    """Rows of up to so many bits, of which the residual stream has one less; headroom 2."""
    rng = np.random.default_rng(100 * bits + 10 * use + halves)
    count, headroom, a, e = 29, 2, 20011, -5
    top = 1 << (28 - 8 * (halves - 1))
    upper = rng.integers(1 - top, top, count)
    lower = rng.integers(-(1 << 20), 1 << 20, count) if halves == 2 else np.zeros(count, np.int64)
    sums = upper * (256 if halves == 2 else 1) + lower
    mantissas = rng.integers(1 << 15, 1 << 16, count)
    exponents = rng.integers(0, 3, count) + (28 + 16 + 15) - bits + e
    words = (mantissas << 16 | exponents).astype(np.uint32)
    rows = [
        rs(int(s) * int(m) * a, int(x) - e)
        for s, m, x in zip(sums, mantissas, exponents, strict=True)
    ]
    r = rng.integers(-(1 << bits - 1), 1 << bits - 1, count)
    limit = (1 << 31) - 1
    want = {
        STAY: rows,
        GATE: [silu(row) for row in rows],
        ADD: [max(-limit, min(limit, row + int(x))) for row, x in zip(rows, r, strict=True)],
    }[use]

    guarded = Guarded()
    y, residual = guarded.array(count, np.int32), guarded.array(count, np.int32)
    amplitudes = guarded.array(cores, np.uint32)
    residual[:] = r
    scaling = headroom << 4 | int(exponents.min()) << 8 | int(exponents.max()) << 16
    before = 2 * int(np.abs(r).max())
    shape = np.array([count, halves, use, scaling, before], np.uint32)
    staged: AnyArray = np.zeros((4, count), np.int32)
    staged[0], staged[3] = upper, lower
    places = staged.reshape(-1)[: count * (4 if halves == 2 else 1)]
    padded = np.resize(words, (count + 3) // 4 * 4)
    scale = np.array([a, e], np.int32)
    runtime.run(cores, "fused_rows", shape, places, padded, scale, SIGMOID, y, residual, amplitudes)
    guarded.check()
    assert (residual if use == ADD else y).tolist() == want
    most = max(0, *want) if use == GATE else max(map(abs, want))
    assert int(amplitudes.max()) == 2 * most
