"""What the plan says about linears on the engine: jobs, their order, and where results lie.

A *chain* is a run of linears of one block that read the same vector (q, k and v; gate and up) or a
single one. Its first op stages the vector in the engine's input buffer; then its jobs are issued,
at most `QUEUE_DEPTH` of them at a time, and each op takes its accumulators as they are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUEUE_DEPTH = 2  # jobs that the engine holds: one that runs, one that waits


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job: the 24 registers as the driver writes them."""

    registers: tuple[int, ...]
    cycles: int  # modelled, from trigger to wake


@dataclass(frozen=True, slots=True)
class PiecePlan:
    """Channels of one op that one tile of jobs computes, in the order in which the op takes them.

    Before the op reads them, the first `needed` jobs of the chain must be done. So many jobs of
    the chain may have been issued by then (`before`), and afterwards, when all cores have finished
    the piece before (`after`).
    """

    first_channel: int  # of the op
    channels: int
    accumulators: int  # offset of (group 0, first channel, pixel 0) in the accumulator buffer
    pixel_stride: int  # bytes from one output pixel to the next
    group_stride: int  # bytes from one group of columns to the next
    needed: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class EngineLinear:
    """The part of a linear in its chain."""

    op: str
    weight: str  # the words
    table: str  # what the cores need, moved as Plan.linears says
    pieces: tuple[PiecePlan, ...]


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """Linears that share one staged vector, in schedule order, and their jobs in order of issue."""

    input_buffer: str  # placement of the staged vector, one part per group of columns
    group_stride: int  # bytes from one part to the next
    accumulator_buffer: str
    linears: tuple[EngineLinear, ...]
    jobs: tuple[JobPlan, ...]


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Everything that the engine computes in a step."""

    name: str
    weight_base: int  # the address that register 0 counts from
    addresses: Mapping[str, int]  # of offset 0 of the regions that the engine reaches
    chains: tuple[ChainPlan, ...]  # in schedule order


@dataclass(frozen=True, slots=True)
class ChainMember:
    """A linear of a chain; `done` jobs have been waited for by those before it, and `issued` have
    been issued: as many as the engine holds, and the last of them allows.
    """

    chain: ChainPlan
    linear: EngineLinear
    done: int
    issued: int


def chain_members(chains: Sequence[ChainPlan]) -> dict[str, ChainMember]:
    """By op id of every linear of some chains."""
    found = {}
    for chain in chains:
        done = allowed = 0
        for linear in chain.linears:
            issued = min(done + QUEUE_DEPTH, allowed)
            found[linear.op] = ChainMember(chain, linear, done, issued)
            done, allowed = linear.pieces[-1].needed, linear.pieces[-1].after
    return found
