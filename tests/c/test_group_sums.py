"""The engine's sums of a row over groups of columns, against 64-bit arithmetic modulo 2^32."""

from __future__ import annotations

import numpy as np
import pytest

from tests.c.runtime import Guarded, Runtime


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 7, 23])
def test_group_sums(runtime: Runtime, halves: int, groups: int) -> None:
    rng = np.random.default_rng(10 * groups + halves)
    pixels, row = 6, 2  # words of one group; the row's place among them
    sums = rng.integers(-(2**31), 2**31, (groups, pixels)).astype(np.int32)
    multipliers = rng.integers(0, 256, (groups, 4)).astype(np.uint8)
    guarded = Guarded()
    total = guarded.array(2, np.uint32)
    own = multipliers.reshape(-1)[1 : 4 * (groups - 1) + 2]  # lane 1, up to its last byte
    seen = sums.reshape(-1)[row : pixels * (groups - 1) + row + 1 + 3 * (halves - 1)]
    runtime.run(1, "group_sums", seen, 12, 4 * pixels, own, groups, halves, total)
    guarded.check()
    m = multipliers[:, 1].astype(np.int64)
    columns = [row, row + 3][:halves]
    want = [int((sums[:, at].astype(np.int64) * m).sum()) % 2**32 for at in columns]
    assert total.tolist() == [*want, 0][:2]
