"""Golden vectors: what is kept, what is hashed, and the self-test's bytes by hand."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pytest

from codegen.bundle import LoadedBundle
from codegen.golden import KEPT_SIZE, build_golden, expected_records, selftest_bytes
from sim.golden import Golden, golden_from_json, golden_to_json, read_golden
from sim.machine import run_steps
from toolchain.model.errors import BundleError, InternalError


@dataclass(frozen=True)
class FakeRecord:
    step: int
    op: str
    tensor: str
    value: npt.NDArray[np.generic]


def test_golden_files_round_trip(tiny_bundle: LoadedBundle) -> None:
    golden = tiny_bundle.golden
    assert golden_from_json(*golden_to_json(golden)) == golden
    assert read_golden(tiny_bundle.directory) == golden
    assert read_golden(tiny_bundle.directory / "golden") == golden


def test_every_output_of_every_op_of_every_step_is_there(tiny_bundle: LoadedBundle) -> None:
    golden = tiny_bundle.golden
    assert [op.id for op in golden.ops] == [op.id for op in tiny_bundle.program.ops]
    outputs = sum(len(op.outputs) for op in golden.ops)
    assert len(golden.records) == outputs * len(golden.tokens)
    assert len(golden.next_tokens) == len(golden.tokens)


def test_bytes_are_kept_for_small_tensors_of_first_and_last_step(
    tiny_bundle: LoadedBundle,
) -> None:
    golden = tiny_bundle.golden
    last = len(golden.tokens) - 1
    for record in golden.records:
        names = [output.tensor for output in golden.ops[record.op].outputs]
        kept = record.step in {0, last} or names in (["logits"], ["next"])
        assert (record.data is not None) == kept
        if record.data is not None:
            assert crc32(record.data) == record.crc32
            assert len(record.data) == record.size <= KEPT_SIZE


def test_kept_values_are_those_of_the_simulator(tiny_bundle: LoadedBundle) -> None:
    program, golden = tiny_bundle.program, tiny_bundle.golden
    trace = run_steps(program, tiny_bundle.plan, tiny_bundle.blobs, golden.tokens)
    for want, got in zip(expected_records(program, trace), golden.records, strict=True):
        assert (want.step, want.op, want.output, want.crc32) == (
            got.step,
            got.op,
            got.output,
            got.crc32,
        )
        assert got.data in {None, want.data}


def test_selftest_by_hand() -> None:
    golden = tiny_golden()
    body = (
        b"EDGECST1"
        + bytes.fromhex("02000000")
        + bytes.fromhex("05000000 03000000 11111111")
        + bytes.fromhex("07000000 00000000 22222222")
    )
    assert selftest_bytes(golden) == body + crc32(body).to_bytes(4, "little")


def tiny_golden() -> Golden:
    value = {
        "format": 1,
        "graph_hash": "00",
        "tokens": [5, 7],
        "next_tokens": [3, 0],
        "ops": [{"id": "lm_head", "outputs": [["logits", "int32"]]}],
        "records": [[0, 0, 0, 4, "11111111", 0], [1, 0, 0, 4, "22222222", None]],
    }
    return golden_from_json(value, b"abcd")


def test_damaged_golden_files_are_refused() -> None:
    value, blob = golden_to_json(tiny_golden())
    with pytest.raises(BundleError, match="ends before byte 4"):
        golden_from_json(value, blob[:3])
    with pytest.raises(BundleError, match="format 9"):
        golden_from_json(value | {"format": 9}, blob)
    with pytest.raises(BundleError, match="not a golden file"):
        golden_from_json(value | {"records": [[0]]}, blob)


def test_a_value_that_the_type_does_not_hold_is_a_defect(tiny_bundle: LoadedBundle) -> None:
    trace = [FakeRecord(0, "l00.attn.norm", "attn.norm.q", np.array([1 << 15]))]
    with pytest.raises(InternalError, match=r"attn\.norm\.q"):
        list(expected_records(tiny_bundle.program, trace))


def test_a_short_trace_is_a_defect(tiny_bundle: LoadedBundle) -> None:
    with pytest.raises(InternalError, match="0 steps for 2 tokens"):
        build_golden(tiny_bundle.program, bytes(32), [1, 2], [])
