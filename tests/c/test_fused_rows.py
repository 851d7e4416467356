"""Rows, gates and staging of fused ops: their loops against sim, for both arithmetics."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest

from sim.ops import quantize
from tests.c.data import GATE_TABLE, IS_FAST, KINDS, SIZES, STEPS, vector
from tests.c.runtime import Guarded, Runtime
from toolchain.model.program import ActMode

NO_RULE = 2**32 - 1


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("headroom", [0, 3, 9, 15])
def test_rows(runtime: Runtime, halves: int, headroom: int) -> None:
    """Accumulators up to the bound that the headroom stands for, both ends included."""
    rng = np.random.default_rng([halves, headroom])
    rows, below = 12, 4 * 20
    limit = (1 << (31 - headroom)) - (1 << 13 if headroom == 0 else 256)
    for narrow in range(4) if IS_FAST else (0,):
        acc = rng.integers(-limit, limit + 1, rows)
        acc[:4] = -limit, limit, 0, -1
        lower = rng.integers(-(2**15), 2**15, rows) if halves == 2 else np.zeros(rows, np.int64)
        upper = (acc - lower) >> 8 if halves == 2 else acc
        acc = 256 * upper + lower if halves == 2 else acc
        words = rng.integers(2**15, 2**16, rows) << 16 | rng.integers(38, 44, rows)
        words[0] = 65535 << 16 | 43
        sums = np.zeros(below // 4 + rows, np.int32)
        sums[:rows], sums[below // 4 :] = upper, lower
        scale = np.array([1 << 15, 3 if halves == 2 else 5], np.int32)
        scaling = headroom << 4 | 38 << 8 | 43 << 16 | narrow << 24
        guarded = Guarded()
        y, most = guarded.array(rows, np.int32), guarded.array(1, np.uint32)
        runtime.run(
            *(1, "plain_rows", scale, scaling, halves, sums, below, words.astype(np.uint32)),
            *(rows, y, most),
        )
        guarded.check()
        want = STEPS.rows(acc[None], words, scale[None].astype(np.int64), scaling)[0]
        assert most[0] != NO_RULE
        assert y.tolist() == want.tolist()
        assert int(most[0]) == int(np.abs(want).max())


@pytest.mark.parametrize(("e", "holds"), [(33, False), (36, True), (64, True), (66, False)])
def test_rows_with_shifts_out_of_range_go_the_general_way(
    runtime: Runtime, e: int, holds: bool
) -> None:
    guarded = Guarded()
    y, most = guarded.array(1, np.int32), guarded.array(1, np.uint32)
    arrays = np.ones(1, np.int32), 0, np.array([40000 << 16 | e], np.uint32)
    scale = np.array([1 << 14, 2], np.int32)
    scaling = e << 8 | e << 16
    runtime.run(1, "plain_rows", scale, scaling, 1, *arrays, 1, y, most)
    assert (most[0] != NO_RULE) == holds


def test_gates(runtime: Runtime) -> None:
    for n in SIZES:
        for kind in KINDS:
            gate = vector(kind, n, 3)
            want = STEPS.silu(gate.astype(np.int64), GATE_TABLE.astype(np.int64))
            guarded = Guarded()
            y, found = guarded.array(n, np.int32), guarded.array(1, np.uint32)
            y[:] = gate
            runtime.run(1, "fused_silu", y, n, GATE_TABLE, found)
            guarded.check()
            assert y.tolist() == want.tolist(), kind
            assert int(found[0]) == 2 * max(0, int(want.max()))
            assert want.min() > -(1 << 15)


def test_roots(runtime: Runtime) -> None:
    """Around squares, where a step too few would show, and at both ends."""
    rng = np.random.default_rng(7)
    whole = np.unique(np.concatenate([rng.integers(2**15, 2**16, 500), [2**15, 2**16 - 1]]))
    squares = (whole[:, None] ** 2 + np.array([-1, 0, 1])).ravel()
    squares = np.append(squares[squares >= 1 << 30], (1 << 32) - 1).astype(np.uint32)
    guarded = Guarded()
    found = guarded.array(len(squares), np.uint32)
    runtime.run(1, "roots", squares, len(squares), found)
    guarded.check()
    assert found.tolist() == [isqrt(v) for v in squares.tolist()]


STAGES = (  # elements, columns, group size, group stride, chunk, chunk stride
    pytest.param((64, 64, 64, 0, 22, 40), id="chunks"),
    pytest.param((100, 96, 96, 0, 96, 96), id="tail"),
    pytest.param((96, 96, 12, 50, 5, 16), id="groups"),
    pytest.param((5, 5, 5, 0, 5, 5), id="short"),
)


@pytest.mark.parametrize("cores", [1, 3, 8])
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_staging(runtime: Runtime, cores: int, halves: int, stage: tuple[int, ...]) -> None:
    """Every element lies where the description of the stage has it, and nothing else is written."""
    n, columns, group, group_stride, chunk, chunk_stride = stage
    t = np.random.default_rng([n, halves]).integers(-(2**20), 2**20, n).astype(np.int32)
    amplitude = max(2 * int(t.max()) + 1, -2 * int(t.min()))
    q = quantize(t[None].astype(np.int64), ActMode.A16 if halves == 2 else ActMode.A8)[0][0]
    half = 400
    want = np.zeros(2 * half, np.int8)
    high = (q + 128) >> 8 if halves == 2 else q
    for i in range(columns):
        of_group, place = divmod(i, group)
        at = 3 + of_group * group_stride + place // chunk * chunk_stride + place % chunk
        want[at] = high[i]
        if halves == 2:
            want[at + half] = q[i] - 256 * high[i]
    guarded = Guarded()
    image, tail = guarded.array(2 * half, np.int8), guarded.array(n, np.int16)
    image[:] = 0
    tail[:] = 0
    shape = np.array([n, halves, *stage[1:], 3, 3 + half], np.uint32)
    runtime.run(cores, "staged", shape, t, amplitude, image, tail)
    guarded.check()
    assert image.tolist() == want.tolist()
    seen = tail if halves == 2 else tail.view(np.int8)[:n]
    assert seen[columns:].tolist() == q[columns:].tolist()
    assert not seen[:columns].any()
