"""plan.json is lossless, and the graph hash covers what is compiled into the C."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from codegen.bundle import LoadedBundle
from codegen.json_text import canonical, pretty
from codegen.serialize import document, from_document, graph_hash
from memory_planner.plan import Plan
from memory_planner.planner import plan_memory
from tests.memory_planner.toy import flat_target, toy_program, toy_target
from toolchain.model.errors import BundleError
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Arithmetic, Program


def planned(target: str = "tiled") -> tuple[Program, Plan]:
    program = toy_program()
    return program, plan_memory(program, toy_target() if target == "tiled" else flat_target())


def fields(program: Program) -> tuple[Any, ...]:
    """Program compares by identity; its parts compare by value."""
    tensors = list(program.tensors.values())
    return program.shape, program.residual_bits, tensors, program.ops


@pytest.mark.parametrize("target", ["tiled", "flat"])
def test_nothing_but_the_constants_is_lost(target: str) -> None:
    program, plan = planned(target)
    text = pretty(document(program, plan))
    again, plan_again = from_document(json.loads(text))
    assert fields(again) == fields(program)
    assert plan_again == plan
    assert list(plan_again.placements) == list(plan.placements)
    assert graph_hash(again, plan_again) == graph_hash(program, plan)
    assert pretty(document(again, plan_again)) == text


def test_a_stored_plan_has_no_constants(tiny_bundle: LoadedBundle) -> None:
    assert tiny_bundle.program.constants == {}


def test_another_format_is_refused() -> None:
    value = document(*planned())
    with pytest.raises(BundleError, match="format 1, this edgec reads 2"):
        from_document(value | {"format": 1})
    del value["plan"]["roles"]
    with pytest.raises(BundleError, match="not a plan"):
        from_document(value)


def test_graph_hash_changes_with_everything_in_the_code() -> None:
    program, plan = planned()
    base = graph_hash(program, plan)
    norm = next(op for op in program.ops if op.id == "l01.mlp.norm")
    ops = tuple(replace(op, attrs={"eps": 2}) if op is norm else op for op in program.ops)
    resid = plan.placements["resid"]
    moved = {**plan.placements, "resid": replace(resid, offset=resid.offset + 8)}
    tensors = dict(program.tensors)
    weight = tensors["l00.attn.q_proj.weight"]
    assert isinstance(weight.layout, WeightLayout)
    tensors[weight.name] = replace(weight, layout=replace(weight.layout, group_size=4))
    variants = [
        (replace(program, ops=ops), plan),
        (replace(program, residual_bits=13), plan),
        (replace(program, arithmetic=Arithmetic.FAST), plan),
        (replace(program, tensors=tensors), plan),
        (replace(program, shape=replace(program.shape, context=31)), plan),
        (program, replace(plan, placements=moved)),
        (program, replace(plan, target="other")),
        (program, replace(plan, attention=replace(plan.attention, positions_per_chunk=1))),
        (program, replace(plan, linears={})),
    ]
    hashes = {graph_hash(*variant) for variant in variants}
    assert len(hashes | {base}) == len(variants) + 1


def test_graph_hash_ignores_what_only_reports_use() -> None:
    program, plan = planned()
    regions = tuple(replace(region, peak=region.peak + 1) for region in plan.regions)
    assert graph_hash(program, replace(plan, rows=(), regions=regions)) == graph_hash(program, plan)


def test_json_text_is_stable_and_short() -> None:
    value = {"b": [1, 2], "a": {"x": None}, "long": list(range(60))}
    text = pretty(value).decode()
    assert json.loads(text) == value
    assert text.startswith('{\n "b": [1, 2],\n "a": {"x": null},\n "long": [\n  0,\n')
    assert text.endswith("]\n}\n")
    assert canonical({"b": 1, "a": [1.5]}) == b'{"a":[1.5],"b":1}'
    with pytest.raises(ValueError, match="Out of range float"):
        pretty(float("nan"))
