"""What-ifs by hand: which tensors they add, share or shrink, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.target_file import load_target
from tests.fit.tiny import tiny_config
from toolchain.fit.design import Design, WhatIf, build_program, check_design
from toolchain.fit.planning import plan_design
from toolchain.fit.report import fit_report
from toolchain.fit.sizes import count_parameters
from toolchain.model.errors import ConfigError
from toolchain.model.nm_pattern import Pattern
from toolchain.model.outline import LowerConfig, outline_program
from toolchain.model.program import Program
from toolchain.model.quant_settings import Override, QuantConfig

CONFIG = tiny_config()
PLAIN = Design(CONFIG, QuantConfig(), 16)


def what_if(**changes: object) -> Design:
    return replace(PLAIN, what_if=replace(WhatIf(), **changes))  # type: ignore[arg-type]


def sizes(program: Program) -> dict[str, int]:
    return {name: spec.size for name, spec in program.tensors.items()}


def problems(design: Design) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_design(design)
    return [str(problem) for problem in caught.value.problems]


def test_a_plain_design_is_the_compiled_program() -> None:
    program = outline_program(CONFIG, PLAIN.quant, LowerConfig(16))
    built = build_program(PLAIN)
    assert built.tensors == program.tensors
    assert list(built.tensors) == list(program.tensors)
    assert built.ops == program.ops


def test_depth_and_vocabulary_are_another_config() -> None:
    smaller = replace(CONFIG, num_layers=1, vocab_size=20)
    program = outline_program(smaller, PLAIN.quant, LowerConfig(16))
    built = build_program(what_if(depth=1, vocab=20))
    assert sizes(built) == sizes(program)
    assert built.ops == program.ops
    assert what_if(depth=1, vocab=20).what_if.estimates() == []


def test_the_identity_order_changes_no_byte() -> None:
    assert sizes(build_program(what_if(layer_order=(0, 1)))) == sizes(build_program(PLAIN))


def test_repeated_blocks_share_weights_and_have_their_own_cache() -> None:
    plain, repeated = build_program(PLAIN), build_program(what_if(layer_order=(1, 0, 1, 1)))
    weights = {name: size for name, size in sizes(plain).items() if name.endswith(".weight")}
    assert {n: s for n, s in sizes(repeated).items() if n.endswith(".weight")} == weights
    for name in ("kv.k", "kv.v", "kv.k_scale", "kv.v_scale"):
        assert repeated.tensors[name].size == 2 * plain.tensors[name].size
    read = [name for op in repeated.ops for name in op.inputs if "q_proj.weight" in name]
    assert read == [f"l0{block}.attn.q_proj.weight" for block in (1, 0, 1, 1)]
    gammas = [name for op in repeated.ops for name in op.inputs if "mlp.norm.gamma" in name]
    assert gammas == [f"l0{block}.mlp.norm.gamma" for block in (1, 0, 1, 1)]
    assert len({op.id for op in repeated.ops}) == len(repeated.ops)


def test_blocks_that_never_run_are_not_stored() -> None:
    repeated = what_if(layer_order=(1, 1))
    program = build_program(repeated)
    assert not any(name.startswith("l00.") for name in program.tensors)
    count = count_parameters(repeated, program)
    assert count.dense == count_parameters(what_if(depth=1), build_program(what_if(depth=1))).dense


def test_order_keeps_the_bits_of_each_block() -> None:
    quant = QuantConfig(overrides=(Override("l01.*", bits=8),))
    program = build_program(replace(what_if(layer_order=(1, 0, 1)), quant=quant))
    packings = {
        name: spec.layout.packing.value
        for name, spec in program.tensors.items()
        if spec.layout and "up_proj" in name
    }
    assert packings == {"l01.mlp.up_proj.weight": "byte", "l00.mlp.up_proj.weight": "nibble"}


@pytest.mark.parametrize(("bits", "row"), [(4, 4), (8, 8), (16, 16)])
def test_cache_bits(bits: int, row: int) -> None:
    """2 KV heads of 4: rows of 8 elements; scales stay 32 bits per head."""
    tensors = build_program(what_if(kv_bits=bits)).tensors
    assert tensors["kv.k"].size == tensors["kv.v"].size == 2 * 16 * row
    assert tensors["kv.k_scale"].size == 2 * 16 * 2 * 4
    report = fit_report(plan_design(what_if(kv_bits=bits), load_target("siracusa")))
    cache = sum(row["bytes"] for row in report["rows"] if row["category"] == "kv_cache")
    assert report["kv_cache"]["bytes"] == cache
    assert report["kv_cache_bytes_per_position"] * 16 == cache


def test_adapters_by_hand() -> None:
    """Rank 3 beside q (16x16), k and v (8x16), o, gate, up (24x16), down (16x24), two blocks."""
    adapted = what_if(eora_rank=3)
    program = build_program(adapted)
    sides = (16 + 16) + 2 * (8 + 16) + (16 + 16) + 2 * (24 + 16) + (16 + 24)
    assert count_parameters(adapted, program).adapters == 2 * 3 * sides
    # gate: A has one record of 4 rows of 16 bytes, B six of 4 rows of 3; 4-byte words per row each
    assert program.tensors["l00.mlp.gate_proj.eora_a.weight"].size == 16 + 4 * 16
    assert program.tensors["l00.mlp.gate_proj.eora_b.weight"].size == 6 * (16 + 4 * 3)
    plain = plan_design(PLAIN, load_target("siracusa"))
    outcome = plan_design(adapted, load_target("siracusa"))
    assert outcome.fits
    assert outcome.speed.cycles_per_token > plain.speed.cycles_per_token


def test_everything_composes() -> None:
    design = replace(
        what_if(
            depth=0,
            vocab=40,
            attn_width=Pattern(3, 4),
            mlp_width=Pattern(2, 4),
            kv_bits=4,
            eora_rank=2,
            layer_order=(0, 1, 1),
        ),
        quant=QuantConfig(bits=8, group_size=8),
    )
    check_design(design)
    outcome = plan_design(design, load_target("siracusa"))
    assert outcome.fits
    assert len(design.what_if.estimates()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 2}, ["--depth", "2", "0..1"]),
        ({"depth": -1}, ["--depth", "0..1"]),
        ({"vocab": 0}, ["--vocab", "1..1048576"]),
        ({"kv_bits": 6}, ["--kv-bits", "6", "4, 8, 16"]),
        ({"eora_rank": 0}, ["--eora-rank", "1..8"]),
        ({"eora_rank": 9}, ["--eora-rank", "9", "1..8"]),
        ({"attn_width": Pattern(1, 32)}, ["--attn-width", "1:32", "at most 16"]),
        ({"mlp_width": Pattern(1, 20)}, ["--mlp-width", "mlp.gate_proj", "at most 16"]),
        ({"layer_order": (0, 2)}, ["--layer-order", "block 2", "0..1"]),
        ({"layer_order": (0,) * 513}, ["--layer-order", "1..512"]),
        ({"depth": 1, "layer_order": (0, 1)}, ["--layer-order", "block 1", "0..0"]),
    ],
)
def test_nonsense_is_refused_with_the_range(changes: dict[str, object], words: list[str]) -> None:
    text = " ".join(problems(what_if(**changes)))
    assert all(word in text for word in words), text


def test_all_problems_at_once() -> None:
    design = replace(what_if(depth=9, kv_bits=3, vocab=-1), quant=QuantConfig(bits=1), context=0)
    wheres = " ".join(problems(design))
    assert all(word in wheres for word in ("--depth", "--kv-bits", "--vocab", "2..8", "--context"))
