"""Golden vectors of a bundle, from the trace of the simulator.

Every output of every op is known by its CRC-32. The bytes themselves are kept where they help a
person most and cost little: tensors of at most 2 KiB in the first and the last step, and all
logits. `golden/selftest.bin` is the short form that the firmware's self-test carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt

from codegen.json_text import pretty
from sim.golden import Expected, Golden, OpSpec, OutputSpec, golden_to_json
from toolchain.model.errors import InternalError
from toolchain.model.program import OpKind, Program

KEPT_SIZE = 2048  # bytes of the largest tensor whose value is kept
SELFTEST_MAGIC = b"EDGECST1"
CHECKS_MAGIC = b"EDGECGV1"


class TraceRecord(Protocol):
    """One output of one op in one step, as a simulator yields it."""

    @property
    def step(self) -> int:
        """Position of the token."""
        ...

    @property
    def op(self) -> str:
        """Op id."""
        ...

    @property
    def tensor(self) -> str:
        """Name of the output."""
        ...

    @property
    def value(self) -> npt.NDArray[np.generic]:
        """Integers in the tensor's range; for the KV cache the rows just written."""
        ...


def op_specs(program: Program) -> tuple[OpSpec, ...]:
    """Ops and their outputs, numbered as the trace hook numbers them."""
    return tuple(
        OpSpec(
            op.id,
            tuple(OutputSpec(name, program.tensors[name].dtype.value) for name in op.outputs),
        )
        for op in program.ops
    )


def expected_records(
    program: Program,
    trace: Iterable[TraceRecord],
    keep: Callable[[Expected], bool] = lambda _: True,
) -> Iterator[Expected]:
    """The trace as expected bytes; `keep` decides which records hold more than their CRC."""
    places = {op.id: (index, op.outputs) for index, op in enumerate(program.ops)}
    for record in trace:
        index, outputs = places[record.op]
        data = _stored_bytes(program, record)
        expected = Expected(
            step=record.step,
            op=index,
            output=outputs.index(record.tensor),
            size=len(data),
            crc32=crc32(data),
            data=data,
        )
        if not keep(expected):
            expected = Expected(*_fields_without_data(expected), None)
        yield expected


def _fields_without_data(record: Expected) -> tuple[int, int, int, int, int]:
    return record.step, record.op, record.output, record.size, record.crc32


def _stored_bytes(program: Program, record: TraceRecord) -> bytes:
    dtype = np.dtype(program.tensors[record.tensor].dtype.value)
    stored = record.value.astype(dtype)
    if not np.array_equal(stored, record.value):
        raise InternalError(f"{record.op} writes values into {record.tensor} that {dtype} lacks")
    return stored.astype(dtype.newbyteorder("<")).tobytes()


def build_golden(
    program: Program, graph_hash: bytes, tokens: Sequence[int], trace: Iterable[TraceRecord]
) -> Golden:
    """Golden vectors for `tokens`, fed at positions 0, 1, ...; `trace` is their simulation."""
    last = len(tokens) - 1
    head = max(i for i, op in enumerate(program.ops) if "logits" in op.outputs)

    def keep(record: Expected) -> bool:
        small = record.size <= KEPT_SIZE and record.step in {0, last}
        return small or record.op == head or program.ops[record.op].kind is OpKind.ARGMAX

    records = tuple(expected_records(program, trace, keep))
    following = tuple(
        int.from_bytes(record.data or b"", "little")
        for record in records
        if program.ops[record.op].kind is OpKind.ARGMAX
    )
    if len(following) != len(tokens):
        raise InternalError(f"a trace of {len(following)} steps for {len(tokens)} tokens")
    return Golden(graph_hash.hex(), tuple(tokens), following, op_specs(program), records)


@dataclass(frozen=True, slots=True)
class SelftestStep:
    """What the self-test feeds and demands in one step."""

    token: int
    next: int
    logits_crc: int


def selftest_steps(golden: Golden) -> list[SelftestStep]:
    """The steps of the self-test, from the golden vectors."""
    head = max(  # the last op that writes them
        index
        for index, op in enumerate(golden.ops)
        if any(output.tensor == "logits" for output in op.outputs)
    )
    crcs = [record.crc32 for record in golden.records if record.op == head]
    return [
        SelftestStep(token, following, crc)
        for token, following, crc in zip(golden.tokens, golden.next_tokens, crcs, strict=True)
    ]


def selftest_bytes(golden: Golden) -> bytes:
    """golden/selftest.bin; its layout is the comment of the generated self-test."""
    steps = selftest_steps(golden)
    words = [word for s in steps for word in (s.token, s.next, s.logits_crc)]
    body = SELFTEST_MAGIC + np.array([len(steps), *words], "<u4").tobytes()
    return body + crc32(body).to_bytes(4, "little")


def check_bytes(golden: Golden) -> bytes:
    """golden/checks.bin; its layout is the comment of the generated test/<prefix>_golden.c."""
    names = b"".join(op.id.encode() + b"\0" for op in golden.ops)
    names += bytes(-len(names) % 4)
    outputs = sum(len(op.outputs) for op in golden.ops)
    head = [len(golden.tokens), len(golden.ops), outputs, len(names)]
    crcs = [record.crc32 for record in golden.records]
    if len(crcs) != len(golden.tokens) * outputs:
        raise InternalError(f"{len(crcs)} records for {len(golden.tokens)} steps of {outputs}")
    body = CHECKS_MAGIC + np.array([*head, *crcs], "<u4").tobytes() + names
    return body + crc32(body).to_bytes(4, "little")


def golden_files(golden: Golden) -> dict[str, bytes]:
    """Bundle path -> bytes of the golden files."""
    value, blob = golden_to_json(golden)
    return {
        "golden/golden.json": pretty(value),
        "golden/golden.bin": blob,
        "golden/selftest.bin": selftest_bytes(golden),
        "golden/checks.bin": check_bytes(golden),
    }
