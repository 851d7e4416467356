"""The formulas of fused ops against a program that was written by hand for one shape.

d 64, 8 blocks, 16 heads of 4, FFN 256, 64 positions, int4 per channel, no embedding and no head, on
the GVSoC siracusa model. `decode.toml` has its constants and its rows: thousands of cycles.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from memory_planner.fused_costs import FIXED, WORK, FusedCosts
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from sim.step import Step, decode_step
from toolchain.fit.design import Design
from toolchain.fit.planning import plan_design
from toolchain.fit.shapes import load_shape
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode, OpKind
from toolchain.model.quant_settings import PER_CHANNEL, QuantConfig

DATA = tomllib.loads((Path(__file__).parent / "decode.toml").read_text(encoding="utf-8"))
CONTEXT, BLOCKS = 64, 8
# Rows of the program by hand: phases of ops whose role ends so.
NORMS = ("attn.norm", "mlp.norm")
QKV, OUT = ("attn.q_proj", "attn.k_proj", "attn.v_proj"), ("attn.o_proj", "mlp.down_proj")
WAITS = ("look for the engine", "return to rows")


def constants(table: str) -> Mapping[str, float]:
    return {key: float(entry["value"]) for key, entry in DATA[table].items()}


@cache
def target() -> TargetSpec:
    """Siracusa with the constants of the program by hand."""
    spec, fused = load_target("siracusa"), FusedCosts(constants("fused"), constants("fixed"))
    names = {field.name for field in fields(spec.costs)}
    values: dict[str, Any] = {**constants("costs"), "fused": fused}
    assert names.issuperset(values)
    return replace(spec, costs=replace(spec.costs, **values))


@cache
def step(mode: ActMode) -> Step:
    """The last position."""
    config = replace(
        load_shape("stories260k").config,
        hidden_size=64,
        intermediate_size=256,
        num_layers=BLOCKS,
        num_heads=16,
        num_kv_heads=16,
        head_dim=4,
        vocab_size=256,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    )
    design = Design(config, QuantConfig(4, PER_CHANNEL), CONTEXT, dict.fromkeys(SITES, mode))
    outcome = plan_design(design, target())
    return decode_step(outcome.program, outcome.plan, target(), CONTEXT - 1)


def rows_of(found: Step) -> dict[str, float]:
    """Thousands of cycles by row; phases of fused ops that belong to it, and waits."""
    rows: dict[str, float] = {}
    for op, cycles in zip(found.context.program.ops, found.cycles, strict=True):
        if op.layer < 0:
            continue
        times = cycles.times
        if times is None:
            assert op.kind is OpKind.ATTENTION
            rows["attention"] = rows.get("attention", 0.0) + cycles.total / 1000
            continue
        compute = sum(phase.span.cycles for phase in times.phases)
        waited = cycles.total - compute
        rows["engine wait"] = rows.get("engine wait", 0.0) + waited / 1000
        row = row_of(op.role, "")
        for phase in times.phases:
            row = row_of(op.role, phase.label) or row
            rows[row] = rows.get(row, 0.0) + phase.span.cycles / 1000
    return rows


def row_of(role: str, label: str) -> str:
    """The row of a phase; empty for a barrier, which belongs to what is in front of it."""
    if label == "meet":
        return ""
    if label in WAITS:
        return "engine wait"
    if label == "stage the vector":
        if role == "attn.o_proj":
            return "quantize o"
        return "product, quantize" if role == "mlp.down_proj" else "norm, quantize"
    if role in NORMS:
        return "norm, quantize"
    if role in (*QKV, "attn.rope", "attn.kv_append"):
        return "q, k, v, rotation, cache"
    if role == "attn.merge":
        return "quantize o"
    if role in (*OUT, "attn.residual", "mlp.residual"):
        return "o and down, residual"
    return "product, quantize" if label == "product" else "gate, up, SiLU"


def measured() -> dict[str, float]:
    return {key: float(value) for key, value in DATA["measured"].items()}


def test_breakdown() -> None:
    """Within 15 per cent. Scores, softmax and values are one row: an op of the model."""
    expected, found = measured(), rows_of(step(ActMode.A8))
    attention = ("scores", "softmax", "values")
    expected["attention"] = sum(expected.pop(name) for name in attention)
    assert set(found) == set(expected)
    for row, cycles in expected.items():
        assert found[row] == pytest.approx(cycles, rel=0.15), row


def test_values() -> None:
    """The one part of attention that a constant of its own stands for: MACs of the values."""
    macs = BLOCKS * (16 // 8) * CONTEXT * 4
    assert macs * constants("costs")["attention_mac"] / 1000 == pytest.approx(6.7, rel=0.15)


@pytest.mark.parametrize(("mode", "cycles"), [(ActMode.A8, 93_100), (ActMode.A16, 97_900)])
def test_tokens(mode: ActMode, cycles: int) -> None:
    """Both activation widths, without embedding and head."""
    found = step(mode)
    pairs = zip(found.totals, found.context.program.ops, strict=True)
    blocks = sum(each for each, op in pairs if op.layer >= 0)
    assert blocks == pytest.approx(cycles, rel=0.06)


def test_constants_are_documented() -> None:
    assert set(DATA["fused"]) == set(WORK)
    assert set(DATA["fixed"]) == set(FIXED)
    for table in ("fused", "fixed", "costs"):
        for entry in DATA[table].values():
            assert set(entry) == {"value", "unit", "source"}
