"""allocate-bits: the budget of a region, the optimum of measured losses, what reads the result."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.planner import plan_memory
from memory_planner.target_file import load_target
from tests.compress.toys import compress, recipe_of, stage_values, text_file, toy_model
from toolchain.cli import main
from toolchain.compress.bit_losses import RoundedSource, rounded
from toolchain.compress.bit_sizes import parse_size, room_of, sizes_by_bits
from toolchain.compress.checkpoint import Source
from toolchain.compress.forward import mean_loss
from toolchain.compress.perplexity import Evaluation
from toolchain.compress.summary import design_of
from toolchain.compress.texts import TextCache
from toolchain.compress.width import Options as TextOptions
from toolchain.model.bits_file import apply_bits, read_bits
from toolchain.model.checkpoint import load_model
from toolchain.model.config import read_config
from toolchain.model.errors import ConfigError, DoesNotFitError
from toolchain.model.names import LINEAR_SUFFIXES, hf_name_of
from toolchain.model.outline import LowerConfig, outline_program
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.quantize import quantize_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_model(tmp_path / "m", num_layers=1)


def allocate(tmp_path: Path, budget: int | str, **options: Any) -> dict[str, Any]:
    text = {"calibration": str(text_file(tmp_path)), "samples": 4}
    usual = {"choices": [2, 4, 8], "group_size": -1, "budget": {"mram": budget}}
    return {"kind": "allocate-bits", **text, **usual, **options}


def sizes_of(model: Path) -> tuple[dict[str, dict[int, int]], int]:
    """Bytes by width, and what is needed besides."""
    design = design_of(read_config(model), {}, QuantConfig(group_size=-1))
    region = load_target("siracusa").region("mram")
    return sizes_by_bits(design, (2, 4, 8), region.align), -room_of(design, {region: 0}).capacity


def test_optimum_equals_brute_force_and_the_plan_has_room(tmp_path: Path, model: Path) -> None:
    sizes, fixed = sizes_of(model)
    most = sum(max(by_bits.values()) for by_bits in sizes.values())
    least = sum(min(by_bits.values()) for by_bits in sizes.values())
    budget = fixed + (most + least) // 2 // 32 * 32
    compress(model, tmp_path / "o", allocate(tmp_path, budget))
    out, values = (
        tmp_path / "o" / "01-allocate-bits",
        stage_values(tmp_path / "o", "01-allocate-bits"),
    )
    metrics = values["metrics"]
    added = metrics["added_loss"]
    best = min(
        sum(added[op][str(b)] for op, b in zip(sizes, picked, strict=True))
        for picked in itertools.product(*(by_bits for by_bits in sizes.values()))
        if sum(sizes[op][b] for op, b in zip(sizes, picked, strict=True)) <= budget - fixed
    )
    assert metrics["predicted_loss"] - metrics["float_loss"] == pytest.approx(best, abs=1e-7)
    assert metrics["projection_bytes"] == sum(sizes[op][b] for op, b in metrics["bits"].items())
    assert metrics["capacity_bytes"] == budget - fixed
    quant = apply_bits(out, QuantConfig(), ())
    region = load_target("siracusa").region("mram")
    limits = MemoryLimits({"mram": budget - region.reserved})
    program = outline_program(read_config(out), quant, LowerConfig(32))
    plan = plan_memory(program, limited_target(load_target("siracusa"), limits))
    weights = [name for name in program.tensors if name.endswith(".weight")]
    assert {plan.placements[name].region for name in weights} == {"mram"}


def test_measured_loss_is_that_of_compiled_integers(tmp_path: Path, model: Path) -> None:
    _, fixed = sizes_of(model)
    compress(model, tmp_path / "o", allocate(tmp_path, fixed + 1500))
    out = tmp_path / "o" / "01-allocate-bits"
    metrics = stage_values(tmp_path / "o", "01-allocate-bits")["metrics"]
    quant = quantize_model(load_model(out), apply_bits(out, QuantConfig(), ()))
    for op_id, tensor in quant.linears.items():
        weight = Source.open(out).weight(hf_name_of(op_id), "cpu")
        found = rounded(weight, metrics["bits"][op_id], -1).numpy()
        assert np.array_equal(found, tensor.dequantize().astype(np.float32))
    tokens = TextCache().windows(
        model, TextOptions(pattern="1:2", calibration=str(text_file(tmp_path)), samples=4), 0
    )
    source = RoundedSource.of(Source.open(model), metrics["bits"], -1)
    assert mean_loss(source, tokens, "cpu", range(1)) == metrics["measured_loss"]
    before, after = Source.open(model), Source.open(out)
    assert all(torch.equal(before.stored(n), after.stored(n)) for n in before.model.tensors)


def test_wider_widths_of_the_same_bytes_win(model: Path) -> None:
    design = design_of(read_config(model), {}, QuantConfig(group_size=-1))
    sizes = sizes_by_bits(design, (2, 3, 4, 5, 6, 7, 8), 32)
    for by_bits in sizes.values():
        assert next(iter(by_bits)) == 8
        assert set(by_bits) <= {8, 4, 2}
        assert sorted(set(by_bits.values()), reverse=True) == list(by_bits.values())


def test_fisher_ranks_widths(tmp_path: Path, model: Path) -> None:
    stage = allocate(tmp_path, "4 MiB", sensitivity="fisher")
    compress(model, tmp_path / "o", stage)
    metrics = stage_values(tmp_path / "o", "01-allocate-bits")["metrics"]
    for by_bits in metrics["added_loss"].values():
        assert list(by_bits.values()) == sorted(by_bits.values())
        assert next(iter(by_bits)) == "8"
        assert by_bits["8"] >= 0
    assert set(metrics["bits"].values()) == {8}
    assert [p.name for p in (tmp_path / "o" / "01-allocate-bits").glob("*.tmp")] == []


def test_quantize_takes_the_bits(tmp_path: Path, model: Path) -> None:
    _, fixed = sizes_of(model)
    rtn = {"kind": "quantize", "method": "rtn", "group_size": -1}
    compress(model, tmp_path / "o", allocate(tmp_path, fixed + 1500), rtn)
    chosen = stage_values(tmp_path / "o", "01-allocate-bits")["metrics"]["bits"]
    assert len(set(chosen.values())) > 1
    assert stage_values(tmp_path / "o", "02-quantize")["metrics"]["bits"] == chosen


def test_embedding_bits_stay_with_the_codes(tmp_path: Path, model: Path) -> None:
    allocated = allocate(tmp_path, "4 MiB", sensitivity="fisher", embed_bits=4)
    rtn = {"kind": "quantize", "method": "rtn", "group_size": -1}
    text = Evaluation(str(text_file(tmp_path)), 2)
    rows = compress(model, tmp_path / "o", allocated, rtn, evaluation=text)
    found = CliRunner().invoke(main, ["fit", str(tmp_path / "o" / "02-quantize"), "--json"])
    settings = json.loads(found.output)["settings"]
    assert (settings["embed_bits"], settings["head_bits"]) == (4, 4)
    assert {rule["bits"] for rule in settings["overrides"]} == {8}
    assert rows[1].packed_bytes == rows[2].packed_bytes
    assert rows[1].perplexity == pytest.approx(rows[2].perplexity, rel=0.05)


def test_options_that_contradict_the_file(tmp_path: Path, model: Path) -> None:
    compress(model, tmp_path / "o", allocate(tmp_path, "4 MiB", sensitivity="fisher"))
    out = tmp_path / "o" / "01-allocate-bits"
    allocated = read_bits(out)
    assert allocated is not None
    assert dict(allocated.bits) == {f"l00.{suffix}": 8 for suffix in LINEAR_SUFFIXES}
    fine = replace(QuantConfig(), bits=8, group_size=-1)
    assert apply_bits(out, fine, ("bits", "group_size")) == apply_bits(out, QuantConfig(), ())
    with pytest.raises(ConfigError) as caught:
        apply_bits(
            out, QuantConfig(embed_bits=4, head_bits=4), ("bits", "group_size", "embed_bits")
        )
    where = [problem.where for problem in caught.value.problems]
    assert where == ["--group-size", "--embed-bits", "--head-bits", "--bits"]
    assert apply_bits(model, QuantConfig(bits=3), ("bits",)) == QuantConfig(bits=3)


def test_too_small_a_budget(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DoesNotFitError, match=r"at the narrowest, beside [\d,]+ of other weights"):
        compress(model, tmp_path / "o", allocate(tmp_path, "1 KiB"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "budget: found none"),
        ({"budget": {"l9": "1 MiB"}}, "some of mram"),
        ({"budget": {"mram": "much"}}, "or a size like"),
        ({"budget": {"mram": "5 MiB"}}, r"1\.\.4,194,304 bytes"),
        ({"budget": {"mram": 9}, "target": "none"}, "a target that can be read"),
        ({"budget": {"mram": 9}, "choices": []}, "some of 2..8"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe_of({"kind": "allocate-bits", **options})


def test_sizes_in_words() -> None:
    assert [parse_size(text) for text in ("4 MiB", "512KiB", 7, "x")] == [
        4 << 20,
        512 << 10,
        7,
        None,
    ]


def test_commands_take_the_file(tmp_path: Path, model: Path) -> None:
    _, fixed = sizes_of(model)
    compress(model, tmp_path / "o", allocate(tmp_path, fixed + 1500))
    out = tmp_path / "o" / "01-allocate-bits"
    chosen = stage_values(tmp_path / "o", "01-allocate-bits")["metrics"]["bits"]
    result = CliRunner().invoke(main, ["fit", str(out), "--json"])
    settings = json.loads(result.output)["settings"]
    assert settings["group_size"] == -1
    assert {rule["pattern"]: rule["bits"] for rule in settings["overrides"]} == chosen
    for command in (["fit"], ["compile", "-o", str(tmp_path / "build")]):
        result = CliRunner().invoke(main, [*command, str(out), "--bits", "5"])
        assert result.exit_code == 2
        assert "edgec_bits.toml" in result.output
    assert not (tmp_path / "build").exists()
