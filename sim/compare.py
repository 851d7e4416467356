"""Exact comparison of a dump with expected values, up to the first divergence.

There is no tolerance. Records are compared in schedule order, so that the first divergence is the
op that broke and not one of its victims; it is told by step, op id, tensor and element index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from sim.dump import FILL, Dump
from sim.golden import Expected, Golden, OpSpec


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first record that differs. `index` .. `want` are None when only its CRC is known."""

    step: int
    op: str
    tensor: str
    reason: str
    index: int | None = None  # first differing element
    got: int | None = None
    want: int | None = None
    count: int | None = None  # differing elements
    elements: int | None = None  # elements of the tensor
    never_written: bool = False  # the differing bytes hold the runner's fill pattern

    def __str__(self) -> str:
        text = f"step {self.step}, op {self.op}, tensor {self.tensor}: {self.reason}"
        return f"{text} (never written: fill pattern)" if self.never_written else text


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result over all expected records. An op counts as equal when all its outputs are."""

    ops_compared: int  # (step, op) pairs with a record in the dump
    ops_equal: int
    missing: int  # expected records that the dump does not have
    unexpected: int  # records of the dump that nothing was expected for
    first_divergence: Divergence | None

    @property
    def complete(self) -> bool:
        """True when dump and expectation have the same records."""
        return self.missing == 0 and self.unexpected == 0


def compare_dump(dump: Dump, golden: Golden) -> Comparison:
    """Compare a dump with golden vectors; see `compare_records`."""
    return compare_records(dump, golden.ops, golden.records)


def compare_records(dump: Dump, ops: Sequence[OpSpec], expected: Iterable[Expected]) -> Comparison:
    """Compare the dump with `expected`, which is in schedule order.

    Records that the dump lacks are counted, not judged: a board may dump a part of them.
    """
    got = {(record.step, record.op, record.output): record.data for record in dump.records}
    unseen = set(got)
    compared: set[tuple[int, int]] = set()
    unequal: set[tuple[int, int]] = set()
    first: Divergence | None = None
    missing = 0
    for want in expected:
        key = (want.step, want.op, want.output)
        data = got.get(key)
        if data is None:
            missing += 1
            continue
        unseen.discard(key)
        compared.add(key[:2])
        if len(data) != want.size or crc32(data) != want.crc32:
            unequal.add(key[:2])
            first = first or _diverge(data, want, ops[want.op])
    equal = len(compared) - len(unequal)
    return Comparison(len(compared), equal, missing, len(unseen), first)


def _diverge(data: bytes, want: Expected, op: OpSpec) -> Divergence:
    spec = op.outputs[want.output]
    if len(data) != want.size:
        reason = f"{len(data)} bytes, expected {want.size}"
        return Divergence(want.step, op.id, spec.tensor, reason)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    values = np.frombuffer(data, dtype)
    if want.data is None:
        reason = f"CRC-32 {crc32(data):08x}, expected {want.crc32:08x}"
        filled = set(data) == {FILL}
        return Divergence(
            want.step, op.id, spec.tensor, reason, elements=values.size, never_written=filled
        )
    wanted = np.frombuffer(want.data, dtype)
    wrong = np.flatnonzero(values != wanted)
    index = int(wrong[0])
    reason = (
        f"element {index} is {values[index]}, expected {wanted[index]}; "
        f"{wrong.size} of {values.size} elements differ"
    )
    return Divergence(
        want.step,
        op.id,
        spec.tensor,
        reason,
        index=index,
        got=int(values[index]),
        want=int(wanted[index]),
        count=int(wrong.size),
        elements=int(values.size),
        never_written=_holds_fill(values[wrong]),
    )


def _holds_fill(values: npt.NDArray[np.generic]) -> bool:
    return set(values.tobytes()) == {FILL}
