"""The head's rows piece by piece, and the largest of them, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from tests.c.runtime import AnyArray, Guarded, Runtime

PIXEL_ROW = 6  # words of a line of output pixels


@pytest.mark.parametrize("cores", [1, 3, 8, 16])
@pytest.mark.parametrize(
    ("rows", "slots", "pieces"),
    [
        (1, 1, [(0, 1)]),
        (7, 3, [(0, 2), (2, 1)]),
        (256, 3, [(0, 64), (64, 22)]),  # two slots beyond the last row
        (97, 9, [(0, 4), (4, 4), (8, 3)]),
    ],
)
def test_rows_and_argmax(
    runtime: Runtime, cores: int, rows: int, slots: int, pieces: list[tuple[int, int]]
) -> None:
    channels = sum(count for _, count in pieces)
    table, offset = [], 4
    want: AnyArray = np.zeros(rows, np.uint32)
    for first, count in pieces:
        stride = 4 * count + 8
        table += [first, count, offset, stride]
        for slot in range(slots):
            pixel = slot // 3 * PIXEL_ROW + slot % 3
            own = slot * channels + first + np.arange(count)
            words = offset + pixel * stride + 4 * np.arange(count)
            want[own[own < rows]] = words[own < rows]
        offset += stride * PIXEL_ROW * 3
    rng = np.random.default_rng(rows)
    ties = rng.integers(-9, 10, rows)
    for y in (ties.astype(np.int32), np.full_like(ties, -(2**31)).astype(np.int32)):
        guarded = Guarded()
        places, found = guarded.array(rows, np.uint32), guarded.array(cores, np.int32)
        places[:] = 0
        shape = np.array([rows, slots, channels, PIXEL_ROW], np.uint32)
        described = np.array(table, np.uint32)
        runtime.run(cores, "head_rows", shape, described, len(pieces), y, places, found)
        guarded.check()
        assert places.tolist() == want.tolist()  # every row once
        assert found.tolist() == [int(np.argmax(y))] * cores
