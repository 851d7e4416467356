"""Sensitivity: figures against definitions written out, trends, and the report's forms."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from codegen.bundle_read import load_bundle
from tests.model.gptq import Format, write_gptq
from tests.model.test_lora import random, write_adapter
from tests.model.tiny import write_model
from tests.paths import STORIES, needs_shared
from toolchain.cli import main
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import network_of_build, network_of_float, network_of_quant
from toolchain.evaluate.sensitivity import cosine, log_softmax, measure_sensitivity, snr_db
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.outline import weight_layouts
from toolchain.model.quantize import QuantConfig, QuantTensor, quantize_model

QUANT = QuantConfig(bits=4, group_size=8)
WINDOWS = [np.array([1, *range(10, 30)]), np.array([1, *range(50, 60)])]


def edgec(*args: object) -> Any:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FloatModel:
    return load_model(write_model(tmp_path_factory.mktemp("s") / "m", tied=request.param))


def test_snr_and_cosine_by_hand() -> None:
    x = np.array([3.0, 4.0], np.float32)
    assert snr_db(x, np.array([3.0, 4.5], np.float32)) == pytest.approx(20.0)  # 25 / 0.25
    assert snr_db(x, x) == 200.0
    assert snr_db(np.zeros(2, np.float32), x) == -200.0
    assert cosine(x, np.array([4.0, 3.0], np.float32)) == pytest.approx(24 / 25)
    assert cosine(x, np.zeros(2, np.float32)) == 0.0


def test_adapters_stay_while_their_matrix_changes(tmp_path: Path) -> None:
    """The whole model is that of a build; single figures have the product of the adapter, too."""
    write_gptq(
        tmp_path / "base", Format(bits=3, group_size=8), hidden_size=32, intermediate_size=48
    )
    rows, columns, scale = 32, 32, np.float32(0.2)
    module = "model.layers.1.self_attn.o_proj"
    factors = {module: (random(3, columns, 1) * scale, random(rows, 3, 2) * scale)}
    write_adapter(tmp_path / "eora", factors, base_model_name_or_path="../base")
    model = load_model(tmp_path / "eora")
    found = measure_sensitivity(model, QuantConfig(), WINDOWS, lambda _: None)
    network = network_of_quant(quantize_model(model, QuantConfig()))
    sums = [log_softmax(_logits(network, {}, row)) for row in WINDOWS]
    nll = [-x[range(len(row) - 1), row[1:]] for x, row in zip(sums, WINDOWS, strict=True)]
    assert found.quantized_nll == pytest.approx(float(np.concatenate(nll).mean()), abs=1e-4)
    (own,) = [m for m in found.matrices if m.op_id == "l01.attn.o_proj"]
    assert own.effect.bits == 3
    assert own.effect.weight_snr_db > 30  # against codes and product in float
    assert own.less
    assert own.less.weight_snr_db < 20


def test_figures_of_single_matrices_are_their_definitions(model: FloatModel) -> None:
    """Each replaced in a fresh session: divergence and outputs computed from whole logits."""
    found = measure_sensitivity(model, QUANT, WINDOWS, lambda _: None)
    quant = quantize_model(model, QUANT)
    network = network_of_float(model)
    rows = {matrix.op_id: matrix for matrix in found.matrices}
    expected_ids = {"embed", *quant.linears} | (
        set() if model.config.tie_word_embeddings else {"lm_head"}
    )
    assert rows.keys() == expected_ids
    reference = [log_softmax(_logits(network, {}, row)) for row in WINDOWS]
    for op_id in ("l00.attn.k_proj", "l01.mlp.down_proj", "embed"):
        tensor = quant.embed if op_id == "embed" else quant.linears[op_id]
        weights = tensor.dequantize().astype(np.float32)
        changed = {op_id: weights}
        if op_id == "embed" and model.config.tie_word_embeddings:
            changed["lm_head"] = weights
        divergences, likelihoods = [], []
        for row, base in zip(WINDOWS, reference, strict=True):
            log_probs = log_softmax(_logits(network, changed, row))
            divergences.append((np.exp(base) * (base - log_probs)).sum(axis=1))
            likelihoods.append(-log_probs[np.arange(len(row) - 1), row[1:]])
        effect = rows[op_id].effect
        assert effect.loss == pytest.approx(np.concatenate(divergences).mean(), abs=1e-6)
        nll = float(np.concatenate(likelihoods).mean())
        assert effect.nll_change == pytest.approx(nll - found.float_nll, abs=1e-5)
        assert effect.weight_snr_db == pytest.approx(quant.weight_snr_db[op_id], abs=1e-3)


def _logits(network: Any, changed: dict[str, Any], row: Any) -> Any:
    session = FloatSession(network)
    session.weights.update(changed)
    return session.forward(row[:-1])


def test_outputs_are_judged_on_the_inputs_of_the_float_model(model: FloatModel) -> None:
    found = measure_sensitivity(model, QUANT, WINDOWS, lambda _: None)
    inputs: list[Any] = []
    session = FloatSession(
        network_of_float(model), lambda name, x: inputs.append(x) if name == op_id else None
    )
    op_id = "l01.attn.o_proj"
    for row in WINDOWS:
        session.position = 0
        session.forward(row[:-1])
    x = np.concatenate(inputs)
    weights = session.weights[op_id]
    rounded = quantize_model(model, QUANT).linears[op_id].dequantize()
    (effect,) = (matrix.effect for matrix in found.matrices if matrix.op_id == op_id)
    noise = ((x @ (weights - rounded).T) ** 2).sum()
    expected = 10 * math.log10(((x @ weights.T) ** 2).sum() / noise)
    assert effect.output_snr_db == pytest.approx(expected, abs=1e-3)
    assert effect.output_cosine == pytest.approx(math.sqrt(1 - 10 ** (-expected / 10)), abs=3e-3)


def test_more_bits_help_and_bytes_are_the_packers(model: FloatModel) -> None:
    found = measure_sensitivity(model, QUANT, WINDOWS, lambda _: None)
    layouts = weight_layouts(model.config, QUANT)
    for matrix in found.matrices:
        assert matrix.effect.size == layouts[matrix.op_id].size
        assert matrix.less is not None
        assert matrix.less.weight_snr_db < matrix.effect.weight_snr_db
        assert matrix.less.output_snr_db < matrix.effect.output_snr_db
        if matrix.effect.bits == 8:  # the widest there is
            assert matrix.more is None
            continue
        assert matrix.more is not None
        assert matrix.more.loss < matrix.effect.loss < matrix.less.loss
        assert matrix.more.size > matrix.effect.size == matrix.less.size  # 3 bits lie in nibbles
    assert found.quantized_loss == pytest.approx(found.predicted_loss, rel=0.5)


def test_two_bits_are_the_fewest(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, num_layers=1))
    found = measure_sensitivity(model, QuantConfig(bits=2), WINDOWS, lambda _: None)
    assert all(m.less is None for m in found.matrices if m.effect.bits == 2)


def test_command_in_all_forms(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", vocab_size=300, context=40, num_layers=1)
    text = tmp_path / "text.txt"
    text.write_text("A dog ran to the house and sat. " * 20, encoding="utf-8")
    options = ("sensitivity", model, "--text", text, "--limit", 2, "--group-size", -1)
    plain = edgec(*options, "--json")
    assert plain.exit_code == 0, plain.output
    report = json.loads(plain.stdout)
    assert (report["windows"], report["window"], report["text"]) == (2, 40, "text.txt")
    assert report["settings"]["group_size"] == -1
    assert report["stored_bytes"] == sum(row["bytes"] for row in report["matrices"])
    perplexity = report["perplexity"]
    assert perplexity["integer"] == pytest.approx(perplexity["quantized"], rel=0.02)
    assert edgec(*options, "--json").stdout == plain.stdout
    lines = list(csv.DictReader(io.StringIO(edgec(*options, "--csv").stdout)))
    assert [line["op"] for line in lines] == [row["op"] for row in report["matrices"]]
    assert lines[1]["one_more_bytes"] == str(report["matrices"][1]["one_more"]["bytes"])
    assert lines[0]["one_more_bytes"] == ""  # the embedding has 8 bits
    table = edgec(*options).stdout
    assert "l00.mlp.down_proj" in table
    assert "…" not in table


def test_sample_text_is_there_without_a_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", vocab_size=300, context=40, num_layers=1)
    result = edgec("sensitivity", model, "--limit", 1, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["text"] == "the text that comes with edgec"


def test_refusals(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", num_layers=1)
    for options in (("--text", tmp_path / "no"), ("--bits", 1), ("--window", 33), ("--csv",)):
        extra = ("--json",) if options == ("--csv",) else ()
        assert edgec("sensitivity", model, *options, *extra).exit_code == 2


@needs_shared
def test_stories_loses_little_at_eight_bits() -> None:
    options = ("--bits", 8, "--group-size", -1, "--limit", 1, "--window", 128)
    result = edgec("sensitivity", STORIES, *options, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["loss"]["quantized"] < 0.01
    assert abs(report["perplexity"]["quantized"] / report["perplexity"]["float"] - 1) < 0.02


def test_sparse_matrices_are_counted_and_exported_as_they_are_stored(tmp_path: Path) -> None:
    """Half of every four weights zero: fewer bytes, and the network of the build has the zeros."""
    source = write_model(tmp_path / "m", hidden_size=64, intermediate_size=64, num_layers=1)
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    pruned = tensors[name].copy()
    pruned.reshape(64, 16, 4)[:, :, :2] = 0
    save_file(tensors | {name: pruned}, source / "model.safetensors")
    quant = QuantConfig(bits=8, group_size=-1)
    found = measure_sensitivity(load_model(source), quant, WINDOWS, lambda _: None)
    sizes = {matrix.op_id: matrix.effect.size for matrix in found.matrices}
    assert sizes["l00.mlp.up_proj"] < sizes["l00.mlp.gate_proj"]
    build = tmp_path / "build"
    options = ("--bits", 8, "--group-size", -1)
    assert edgec("compile", source, "-o", build, *options).exit_code == 0
    stored = network_of_build(load_bundle(build)).matrices["l00.mlp.up_proj"]
    expected = quantize_model(load_model(source), quant).linears["l00.mlp.up_proj"]
    assert isinstance(stored, QuantTensor)
    np.testing.assert_array_equal(stored.values, expected.values)
    assert not stored.values.reshape(64, 16, 4)[:, :, :2].any()
