"""Sizes of what is not a tensor, against the runtime's own headers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from memory_planner.footprint import (
    BLOB_HEADER_SIZE,
    MAX_CORES,
    attention_slot_size,
    blob_header_size,
    kv_position_size,
    scratch_size,
)
from tests.memory_planner.toy import TOY_SHAPE, toy_program

INCLUDE = Path(__file__).parents[2] / "templates" / "runtime" / "include"


def macro(header: str, name: str) -> int:
    text = (INCLUDE / header).read_text(encoding="utf-8")
    found = re.search(rf"#define {name} (\d+)U", text)
    assert found is not None
    return int(found[1])


def test_constants_of_the_runtime_headers() -> None:
    assert macro("edgec_blob.h", "EDGEC_BLOB_HEADER_SIZE") == BLOB_HEADER_SIZE
    assert macro("edgec_types.h", "EDGEC_MAX_CORES") == MAX_CORES


@pytest.mark.parametrize(("tensors", "size"), [(0, 128), (1, 128), (2, 128), (3, 192), (70, 1216)])
def test_blob_header(tensors: int, size: int) -> None:
    assert blob_header_size(tensors) == size


def test_scratch_of_each_role() -> None:
    program = toy_program()  # hidden 16, ffn 24, 4 heads and 2 KV heads of 4, context 32
    sizes = {op.role: scratch_size(program, op) for op in program.ops}
    assert {role: size for role, size in sizes.items() if size} == {
        "attn.norm": 64,
        "attn.rope": 64,
        "attn.kv_append": 32,
        "attn.attention": 512,
        "attn.merge": 64,
        "mlp.norm": 64,
        "mlp.swiglu": 96,
        "final.norm": 64,
    }


def test_kv_position() -> None:
    assert kv_position_size(TOY_SHAPE) == 2 * (8 + 8)
    program = toy_program()
    states = sum(spec.size for name, spec in program.tensors.items() if name.startswith("kv."))
    assert states == TOY_SHAPE.layers * TOY_SHAPE.context * kv_position_size(TOY_SHAPE)


def test_attention_slot_pads_odd_rows() -> None:
    shape = replace(TOY_SHAPE, kv_heads=1, head_dim=6)
    # 5 rows of 6 bytes, padded from 30 to 32, and one scale per position, to a multiple of 8
    assert attention_slot_size(shape, 5, 8) == 56
    assert attention_slot_size(shape, 5, 32) == 64
