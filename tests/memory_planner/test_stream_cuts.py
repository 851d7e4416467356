"""Where blocks are cut into streams, against every way to cut them."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from memory_planner.stream_slots import OffChipWeights, Weight
from memory_planner.target_file import load_target
from tests.memory_planner.toy import toy_program

BLOCKS = st.integers(1, 7).flatmap(
    lambda roles: st.lists(
        st.lists(st.integers(0, 9000), min_size=roles, max_size=roles), min_size=1, max_size=3
    )
)


def _weights(blocks: list[list[int]]) -> OffChipWeights:
    """Weights of these sizes, by block and role; 0: on chip."""
    read = tuple(
        Weight(f"l{layer:02d}.r{role}.weight", f"r{role}", layer, size, 4)
        for layer, sizes in enumerate(blocks)
        for role, size in enumerate(sizes)
    )
    names = frozenset(weight.name for weight in read if weight.size)
    return OffChipWeights(toy_program(), load_target("siracusa"), names, read)


def _ways(blocks: list[list[int]], count: int) -> list[tuple[int, tuple[int, ...]]]:
    """Largest stream and cuts of every way to cut the roles with weights outside."""
    roles = [role for role in range(len(blocks[0])) if any(sizes[role] for sizes in blocks)]
    found = []
    for inner in combinations(range(1, len(roles)), count - 1):
        ends = [*pairwise((0, *inner, len(roles)))]
        sums = [
            sum(sizes[role] for role in roles[begin:end]) for sizes in blocks for begin, end in ends
        ]
        found.append((max(sums), tuple(roles[begin] for begin, _ in ends)))
    return found


@given(BLOCKS)
def test_cuts_are_the_first_of_those_with_the_smallest_largest_stream(
    blocks: list[list[int]],
) -> None:
    weights = _weights(blocks)
    slot = None
    expected = []
    for count in range(1, len(weights.roles) + 1):
        size, cuts = min(_ways(blocks, count))
        size = max(weights.least, size)
        if slot is None or size < slot:
            slot = size
            expected.append((tuple(f"r{cut}" for cut in cuts), slot))
    found = [(demand.cuts, demand.slot) for demand in weights.demands()]
    assert found == (expected or [((), weights.least)])


def test_many_roles_are_cut_at_once() -> None:
    """A block with adapters has three times the roles; 2 ** 20 ways are too many to try."""
    sizes = [1000 + 37 * (role % 5) for role in range(21)]
    demands = list(_weights([sizes, sizes[::-1]]).demands())
    assert demands[-1].slot == max(sizes)
    assert len(demands[-1].cuts) == 21
