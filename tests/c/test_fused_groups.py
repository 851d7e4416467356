"""Rows whose sums lie in groups, or that have a tail, inside fused ops: against plain integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.c.data import CORES, GATE_TABLE, IS_FAST, STEPS
from tests.c.runtime import AnyArray, Guarded, Runtime

STAY, GATE, ADD = range(3)
COLUMNS, HEADROOM, LEAST, MOST = 40, 2, 38, 43
LIMIT = 1 << 27  # of the sums of groups; those of tails are smaller
SHAPES = (  # channels of each piece, slots, groups, tail
    pytest.param(((29,), 1, 2, 0), id="even"),
    pytest.param(((14,), 2, 3, 0), id="slots"),
    pytest.param(((5, 6, 2), 2, 5, 0), id="pieces"),
    pytest.param(((29,), 1, 9, 0), id="turns"),
    pytest.param(((9, 4), 1, 8, 3), id="tail"),
    pytest.param(((3,), 1, 1, 5), id="tail alone"),
)


@dataclass(frozen=True)
class Case:
    """A linear of `groups` groups whose pieces have so many channels, its table and its sums."""

    pieces: tuple[int, ...]
    slots: int
    groups: int
    halves: int
    words: AnyArray  # uint32 [rows]
    multipliers: AnyArray  # uint8 [groups, rows]
    weights: AnyArray  # int64 [tail, rows]
    x: AnyArray  # int16 or int8 [COLUMNS]
    sums: AnyArray  # int32 [groups, halves, rows]

    @property
    def rows(self) -> int:
        return self.slots * sum(self.pieces)

    def table(self) -> AnyArray:
        """Bytes of the records of four rows: words, multipliers of each group, tail."""
        padded = -self.rows % 4
        lanes = [np.pad(self.words, (0, padded)).view(np.uint8).reshape(-1, 16)]
        scales = self.multipliers if self.groups > 1 else self.multipliers[:0]
        for row in (*scales, *(self.weights + 128)):
            lanes.append(np.pad(row, (0, padded)).astype(np.uint8).reshape(-1, 4))
        return np.concatenate(lanes, axis=1).ravel()

    def places(self) -> tuple[list[list[int]], AnyArray]:
        """The pieces as the kernel wants them; the word of every group, half and row."""
        pixels = 6 if self.halves == 2 else self.slots
        at = np.zeros((self.groups, self.halves, self.rows), np.int64)
        pieces, first, start = [], 0, 3
        for channels in self.pieces:
            pieces.append([first, channels, 4 * start, 4 * channels, 4 * pixels * channels])
            for group, half, slot in np.ndindex(self.groups, self.halves, self.slots):
                pixel = start + (group * pixels + 3 * half + slot) * channels
                row = slot * sum(self.pieces) + first
                at[group, half, row : row + channels] = pixel + np.arange(channels)
            first += channels
            start += self.groups * pixels * channels
        return pieces, at

    def accumulator(self, row: int, shift: int) -> int:
        """In unbounded integers, one group after the other."""
        total = [0, 0]
        for group in range(self.groups):
            m = int(self.multipliers[group, row]) if self.groups > 1 else 1
            for half in range(self.halves):
                total[half] += m * int(self.sums[group, half, row])
        for weight, q in zip(
            self.weights[:, row], self.x[COLUMNS - len(self.weights) :], strict=True
        ):
            high = (int(q) + 128) >> 8 if self.halves == 2 else int(q)
            total[0] += m * int(weight) * high
            total[1] += m * int(weight) * (int(q) - 256 * high)
        if self.halves == 1:
            return total[0]
        rounding = 1 << shift >> 1
        return (total[0] << 8 - shift) + (total[1] + rounding >> shift)


def random_case(
    pieces: tuple[int, ...], slots: int, groups: int, tail: int, halves: int, shift: int
) -> Case:
    rng = np.random.default_rng([*pieces, slots, groups, tail, halves, shift])
    rows = slots * sum(pieces)
    upper = LIMIT // (255 * groups) >> (8 - shift if halves == 2 else 0)
    sums = rng.integers(-upper, upper + 1, (groups, halves, rows))
    if halves == 2:
        lower = (LIMIT << min(shift, 2)) // (255 * groups)
        sums[:, 1] = rng.integers(-lower, lower + 1, (groups, rows))
    words = rng.integers(2**15, 2**16, rows) << 16 | rng.integers(LEAST, MOST + 1, rows)
    multipliers = rng.integers(0, 256, (groups, rows)).astype(np.uint8)
    multipliers[:, 0], multipliers[:, -1] = 255, 0
    weights = rng.integers(-127, 128, (tail, rows))
    x = rng.integers(-300, 301, COLUMNS).astype(np.int16)
    x = x if halves == 2 else (x // 3).astype(np.int8)
    return Case(
        pieces, slots, groups, halves, words.astype(np.uint32), multipliers, weights, x, sums
    )


def run(
    runtime: Runtime, case: Case, cores: int, use: int, scale: AnyArray, scaling: int, jobs: int = 0
) -> tuple[list[int], int]:
    """What becomes of the rows, and the largest amplitude; nothing beside it is written."""
    guarded = Guarded()
    pieces, at = case.places()
    sums = guarded.array(int(at.max()) + 1, np.int32)
    sums[:] = 0x12345678
    sums[at] = case.sums
    before = sums.copy()
    y, r = guarded.array(case.rows, np.int32), guarded.array(case.rows, np.int32)
    amplitudes = guarded.array(cores, np.uint32)
    r[:] = residual(case.rows)
    y[:] = -1
    tail = len(case.weights)
    record = 16 + 4 * (case.groups if case.groups > 1 else 0) + 4 * tail
    shape = np.array(
        [
            *(case.rows, case.groups, COLUMNS, tail, case.slots, sum(case.pieces), record),
            *(case.halves, use, scaling, 2 * int(np.abs(r).max()), jobs, len(pieces)),
        ],
        np.uint32,
    )
    flat = np.array(pieces, np.uint32).ravel()
    arrays = shape, flat, sums, case.table(), case.x, scale, GATE_TABLE, y, r, amplitudes
    runtime.run(cores, "summed_rows", *arrays)
    guarded.check()
    beside = np.ones(len(sums), bool)
    beside[at[0]] = False  # where sums of groups come together
    assert (sums == before)[beside].all()
    assert use == ADD or r.tolist() == residual(case.rows).tolist()
    return (r if use == ADD else y).tolist(), int(amplitudes.max())


def residual(rows: int) -> AnyArray:
    return np.random.default_rng(rows).integers(-(1 << 28), 1 << 28, rows).astype(np.int32)


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("use", [STAY, GATE, ADD])
@pytest.mark.parametrize(("halves", "shift"), [(1, 0), (2, 0), (2, 1), (2, 7)])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows(
    runtime: Runtime,
    cores: int,
    use: int,
    halves: int,
    shift: int,
    shape: tuple[tuple[int, ...], int, int, int],
) -> None:
    """Waiting for a job of each group, of which some are added up at a time, or for none."""
    case = random_case(*shape, halves, shift)
    acc = np.array([case.accumulator(row, shift) for row in range(case.rows)])
    assert np.abs(acc).max() < 1 << 31 - HEADROOM
    scale = np.array([1 << 15, 3], np.int32)
    scaling = shift | HEADROOM << 4 | LEAST << 8 | MOST << 16
    rows = STEPS.rows(acc[None], case.words.astype(np.int64), scale[None].astype(np.int64), scaling)
    want = {
        STAY: rows[0],
        GATE: STEPS.silu(rows[0], GATE_TABLE.astype(np.int64)),
        ADD: rows[0] + residual(case.rows),
    }[use]
    most = max(0, int(want.max())) if use == GATE else int(np.abs(want).max())
    for jobs in (0, case.groups):
        assert run(runtime, case, cores, use, scale, scaling, jobs) == (want.tolist(), 2 * most)


@pytest.mark.skipif(IS_FAST, reason="A loses bits with fast arithmetic")
def test_rows_by_hand(runtime: Runtime) -> None:
    """20 * 2^7 - 18 = 2542, 253 * 2^7 - 127 = 32257 and 11, all halved."""
    case = Case(
        pieces=(3,),
        slots=1,
        groups=3,
        halves=2,
        words=np.array([1 << 31 | 36] * 3, np.uint32),
        multipliers=np.array([[1, 255, 7], [2, 0, 7], [3, 1, 7]], np.uint8),
        weights=np.zeros((0, 3), np.int64),
        x=np.zeros(COLUMNS, np.int16),
        sums=np.array(
            [[[10, 1, 0], [100, -1, 1]], [[-4, 99, 0], [7, 5, 1]], [[6, -2, 0], [-50, 0, 1]]]
        ),
    )
    scale = np.array([1 << 15, 5], np.int32)  # acc * 2^15 * 2^15 / 2^(36 - 5)
    scaling = 1 | HEADROOM << 4 | 36 << 8 | 36 << 16
    rows, amplitude = run(runtime, case, 1, STAY, scale, scaling, jobs=3)
    assert (rows, amplitude) == ([1271, 16129, 6], 2 * 16129)
