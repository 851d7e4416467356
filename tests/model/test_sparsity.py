"""N:M patterns found in checkpoints, asked for, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.model.tiny import write_model, write_weights
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.errors import ConfigError, QuantizationError
from toolchain.model.lower import lower_model
from toolchain.model.names import hf_name_of
from toolchain.model.nm_pattern import PATTERNS, Pattern, first_violation
from toolchain.model.outline import LowerConfig, outline_program
from toolchain.model.packing import WeightInts
from toolchain.model.quant_settings import Override, QuantConfig, SparseRule
from toolchain.model.quantize import quantize_model
from toolchain.model.sparse_packing import SparseLayout
from toolchain.model.sparsity import AUTO, OFF, find_patterns

HALF = Pattern(2, 4)
PRUNED = {
    "l00.attn.*": HALF,
    "l00.mlp.down_proj": Pattern(12, 16),
    "l01.mlp.up_proj": Pattern(1, 8),
    "lm_head": Pattern(8, 16),
}


@pytest.fixture
def model(tmp_path: Path) -> FloatModel:
    directory = write_model(
        tmp_path, hidden_size=64, intermediate_size=50, tied=False, pruned=PRUNED
    )
    return load_model(directory)


def rule(text: str, match: str = "l*.*") -> SparseRule:
    return SparseRule(match, (Pattern(*map(int, text.split(":"))),), required=True)


def test_first_violation() -> None:
    weights = np.zeros((3, 10))
    assert first_violation(weights, HALF) is None
    weights[:, 8:] = 1  # behind the last whole group
    weights[2, 4:6] = 1
    assert first_violation(weights, HALF) is None
    weights[2, 7] = -1e-30
    assert first_violation(weights, HALF) == (2, 1, 1)
    weights[1, 0:4] = np.nan  # not zero
    assert first_violation(weights, HALF) == (1, 0, 0)
    assert first_violation(np.ones((2, 3)), HALF) is None


def test_each_matrix_gets_the_smallest_pattern_that_holds(model: FloatModel) -> None:
    found = find_patterns(model, QuantConfig(head_bits=8))
    attention = {f"l00.attn.{name}": HALF for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    others = {name: pattern for name, pattern in PRUNED.items() if name != "l00.attn.*"}
    assert dict(found) == attention | others


def test_a_pattern_that_saves_nothing_is_not_used(model: FloatModel) -> None:
    found = find_patterns(model, QuantConfig(bits=2, head_bits=8))
    assert found == {"l00.mlp.down_proj": Pattern(12, 16), "lm_head": Pattern(8, 16)}
    groups = QuantConfig(group_size=8, overrides=(Override("l00.attn.q_proj", group_size=-1),))
    assert set(find_patterns(model, groups)) == {"l00.attn.q_proj", "lm_head"}


def test_rules(model: FloatModel) -> None:
    def found(*rules: SparseRule) -> set[str]:
        return set(find_patterns(model, QuantConfig(sparse=rules)))

    everything = found()
    assert found(AUTO) == everything
    assert found(OFF) == set()
    assert found(OFF, SparseRule("l00.*", PATTERNS)) == {n for n in everything if n[:3] == "l00"}
    assert found(rule("2:4", "l00.attn.*")) == everything
    assert found(OFF, rule("8:16", "lm_head")) == {"lm_head"}
    only = find_patterns(model, QuantConfig(sparse=(rule("1:2", "l00.mlp.down_proj"), OFF)))
    assert only == {}


def test_zeros_beyond_the_pattern_are_stored(model: FloatModel) -> None:
    """12:16 holds 8:16 too, which is asked for."""
    quant = QuantConfig(sparse=(OFF, rule("8:16", "l00.mlp.down_proj")))
    assert find_patterns(model, quant) == {"l00.mlp.down_proj": Pattern(8, 16)}


def test_a_required_pattern_that_does_not_hold(model: FloatModel) -> None:
    with pytest.raises(QuantizationError) as caught:
        find_patterns(model, QuantConfig(sparse=(rule("2:4"),)))
    problems = caught.value.problems
    dense = {f"l01.attn.{n}_proj" for n in "qkvo"} | {"l00.mlp.gate_proj", "l00.mlp.up_proj"}
    dense |= {f"l01.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert {problem.where.partition(",")[0] for problem in problems} == dense | {
        "l00.mlp.down_proj" for p in problems if p.where.startswith("l00.mlp.down_proj")
    }
    weights = model.load(hf_name_of("l01.mlp.gate_proj"))
    row, group, zeros = first_violation(weights, HALF) or (-1, -1, -1)
    expected = f"l01.mlp.gate_proj, row {row}, inputs {4 * group}..{4 * group + 3}"
    gate = next(problem for problem in problems if problem.where.startswith("l01.mlp.gate_proj"))
    assert (gate.where, gate.found) == (expected, f"{zeros} zeros")
    assert "at least 2 (2:4)" in gate.allowed


def test_rules_that_cannot_be_used(model: FloatModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"l09.*a pattern that matches a linear"):
        find_patterns(model, QuantConfig(sparse=(rule("2:4", "l09.*"),)))
    with pytest.raises(ConfigError, match="embed"):
        find_patterns(model, QuantConfig(sparse=(SparseRule("embed", PATTERNS),)))
    with pytest.raises(ConfigError, match="multiple of 16"):
        find_patterns(model, QuantConfig(group_size=8, sparse=(rule("2:4", "l00.attn.q_proj"),)))
    tied = load_model(write_model(tmp_path / "tied", tied=True))
    with pytest.raises(ConfigError, match="lm_head"):
        find_patterns(tied, QuantConfig(sparse=(rule("2:4", "lm_head"),)))


def test_a_tied_head_stays_dense(tmp_path: Path) -> None:
    tied = load_model(write_model(tmp_path, tied=True, pruned={"embed": HALF}))
    assert find_patterns(tied, QuantConfig()) == {}


def test_zeros_survive_quantization_and_lowering(model: FloatModel) -> None:
    for bits in range(2, 9):
        quant = QuantConfig(bits=bits, group_size=16)
        quantized = quantize_model(model, quant)
        program = lower_model(quantized, LowerConfig(32))
        for name, pattern in quantized.patterns.items():
            weights = program.constants[f"{name}.weight"]
            layout = program.tensors[f"{name}.weight"].layout
            assert isinstance(weights, WeightInts)
            assert isinstance(layout, SparseLayout)
            assert layout.pattern == pattern
            assert first_violation(weights.values, pattern) is None
        outline = outline_program(model.config, quant, LowerConfig(32), quantized.patterns)
        assert outline.tensors == program.tensors
        dense = lower_model(
            quantize_model(model, QuantConfig(bits=bits, group_size=16, sparse=(OFF,))),
            LowerConfig(32),
        )
        for name, value in dense.constants.items():
            sparse = program.constants[name]
            if isinstance(value, WeightInts):
                assert isinstance(sparse, WeightInts)
                np.testing.assert_array_equal(value.values, sparse.values)


def test_a_matrix_of_zeros(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, hidden_size=32))
    weights = {name: model.load(name) for name in model.tensors}
    weights[hf_name_of("l00.attn.q_proj")][:] = 0
    write_weights(tmp_path, weights)
    zeros = load_model(tmp_path)
    assert find_patterns(zeros, QuantConfig()) == {"l00.attn.q_proj": Pattern(3, 4)}
