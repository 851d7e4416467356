"""The multiple-choice knapsack, solved exactly: one choice per item, least cost within a capacity.

Dynamic programming over bytes (Dudzinski and Walukiewicz, "Exact methods for the knapsack problem
and its generalizations", EJOR 28, 1987, section 4): after each item the undominated pairs of bytes
and cost are kept, which is all that later items can tell apart. Items of equal size give few
different sums, so that models with hundreds of matrices take well under a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """One index per item, and what they come to."""

    choices: tuple[int, ...]
    size: int
    cost: float


def choose(
    sizes: Sequence[Sequence[int]], costs: Sequence[Sequence[float]], capacity: int
) -> Chosen | None:
    """The choice of least total cost, of equal ones that of fewest bytes; None when none fits.

    `sizes[i][c]` >= 0 and finite `costs[i][c]` are those of choice c for item i.
    """
    total_size: I64 = np.zeros(1, np.int64)
    total_cost: F64 = np.zeros(1)
    history: list[tuple[I64, I64]] = []
    # Bytes that the items not yet seen need at least: what leaves less can be dropped.
    needed = int(sum(min(row) for row in sizes))
    for item_sizes, item_costs in zip(sizes, costs, strict=True):
        needed -= min(item_sizes)
        one, two = np.asarray(item_sizes, np.int64), np.asarray(item_costs, np.float64)
        size: I64 = (total_size[:, None] + one).reshape(-1)
        cost: F64 = (total_cost[:, None] + two).reshape(-1)
        best = _undominated(size, cost, capacity - needed)
        history.append((best // len(one), best % len(one)))
        total_size, total_cost = size[best], cost[best]
    if not len(total_size):
        return None
    state = len(total_size) - 1  # costs fall as bytes rise
    end = state
    choices: list[int] = []
    for parents, picked in reversed(history):
        choices.append(int(picked[state]))
        state = int(parents[state])
    return Chosen(tuple(reversed(choices)), int(total_size[end]), float(total_cost[end]))


def _undominated(size: I64, cost: F64, capacity: int) -> I64:
    """Indices by rising size and falling cost, of those within capacity."""
    order: I64 = np.lexsort((cost, size))
    order = order[size[order] <= capacity]
    lowest = np.minimum.accumulate(cost[order])
    better = np.ones(len(order), np.bool_)
    better[1:] = cost[order][1:] < lowest[:-1]
    found: I64 = order[better]
    return found
