"""The exported file: same integers, checked, and in ONNX Runtime the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from tests.evaluate.data import TEXT
from tests.model.gptq import Format, write_gptq
from tests.model.tiny import write_model
from tests.paths import SHARED, STORIES, needs_shared
from tests.test_eora import write_eora
from toolchain.cli import main
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import network_of_build, network_of_quant
from toolchain.model.checkpoint import load_model
from toolchain.model.quantize import QuantConfig, QuantModel, quantize_model
from toolchain.options import bundled_model
from toolchain.pipeline import CompileOptions, compile_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOKENS = [1, 5, 9, 33, 2, 8, 8, 70, 12, 60]


def edgec(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def edgec_json(*args: object) -> Any:
    result = edgec(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "m", vocab_size=300, context=40)


def quantized(directory: Path, config: QuantConfig, **shape: Any) -> QuantModel:
    return quantize_model(load_model(write_model(directory, **shape)), config)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (QuantConfig(bits=4, group_size=8), {}),
        (QuantConfig(bits=4, group_size=-1), {"tied": False, "num_kv_heads": 4}),
        (QuantConfig(bits=3, group_size=7), {"intermediate_size": 25}),  # odd counts, partial group
        (QuantConfig(bits=8, group_size=-1, embed_bits=4, head_bits=4), {"num_kv_heads": 1}),
        (QuantConfig(bits=2, group_size=5, embed_bits=8, head_bits=8), {"num_layers": 1}),
    ],
)
def test_logits_are_those_of_the_float_run(
    tmp_path: Path, config: QuantConfig, shape: dict[str, Any]
) -> None:
    from toolchain.evaluate.onnx_graph import build_onnx
    from toolchain.evaluate.onnx_model import OnnxModel

    network = network_of_quant(quantized(tmp_path, config, **shape))
    exported = OnnxModel(build_onnx(network, "test").SerializeToString(), 32)
    expected = FloatSession(network).forward(TOKENS)
    for count in (1, 4, len(TOKENS)):
        found = exported.next_logits(TOKENS[:count])
        np.testing.assert_allclose(found, expected[count - 1], rtol=0, atol=3e-5)


def test_codes_in_an_order_of_their_own(tmp_path: Path) -> None:
    """Inputs are gathered in front of the columns; the build's rows follow the order, too."""
    from toolchain.evaluate.onnx_graph import build_onnx
    from toolchain.evaluate.onnx_model import OnnxModel

    write_gptq(tmp_path / "m", Format(group_size=8, desc_act="each"), context=16)
    compiled = compile_model(tmp_path / "m", "rv32", CompileOptions(), lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "build")
    quant = network_of_quant(quantize_model(load_model(tmp_path / "m"), QuantConfig()))
    for network in (quant, network_of_build(load_bundle(tmp_path / "build"))):
        made = build_onnx(network, "test")
        assert "Gather" in {node.op_type for node in made.graph.node}
        found = OnnxModel(made.SerializeToString(), 16).next_logits(TOKENS)
        expected = FloatSession(network).forward(TOKENS)[-1]
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


def test_adapters_beside_codes(tmp_path: Path) -> None:
    from toolchain.evaluate.onnx_graph import build_onnx
    from toolchain.evaluate.onnx_model import OnnxModel

    quant = quantize_model(load_model(write_eora(tmp_path)), QuantConfig())
    network = network_of_quant(quant)
    made = build_onnx(network, "test")
    names = {tensor.name for tensor in made.graph.initializer}
    assert "l01.attn.q_proj.eora_a.weight" in names
    found = OnnxModel(made.SerializeToString(), 5).next_logits(TOKENS[:5])
    expected = FloatSession(network).forward(TOKENS[:5])[-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_file_holds_the_integers_and_scales(tmp_path: Path) -> None:
    """Nibbles read by hand from the raw bytes; scales are multiplier times row scale."""
    from toolchain.evaluate.onnx_graph import build_onnx

    quant = quantized(tmp_path, QuantConfig(bits=4, group_size=8))
    made = build_onnx(network_of_quant(quant), "test")
    assert made.opset_import[0].version == 21
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    tensor = quant.linears["l00.mlp.up_proj"]
    weights = stored["l00.mlp.up_proj.weight"]
    assert weights.data_type == onnx.TensorProto.INT4
    raw = np.frombuffer(weights.raw_data, np.uint8)
    nibbles = np.stack([raw & 15, raw >> 4], axis=1).reshape(tensor.values.shape).astype(np.int64)
    np.testing.assert_array_equal(np.where(nibbles > 7, nibbles - 16, nibbles), tensor.values)
    scales = onnx.numpy_helper.to_array(stored["l00.mlp.up_proj.scale"])
    expected = (tensor.scale[:, None] * tensor.multipliers).astype(np.float32)
    np.testing.assert_array_equal(scales, expected)
    assert stored["embed.weight"].data_type == onnx.TensorProto.INT8
    assert "lm_head.weight" not in stored  # tied: stored once


def test_the_same_input_gives_the_same_file(model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert edgec("export-onnx", model, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)


def test_a_build_exports_its_own_integers(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    build, file = tmp_path / "build", tmp_path / "build.onnx"
    assert edgec("compile", model, "-o", build, "--bits", 5).exit_code == 0
    report = edgec_json("export-onnx", build, "-o", file, "--text", text, "--limit", 4)["referee"]
    of_model = edgec_json(
        *("export-onnx", model, "-o", tmp_path / "model.onnx", "--bits", 5),
        *("--text", text, "--limit", 4),
    )["referee"]
    assert report["perplexity"]["integer"] == of_model["perplexity"]["integer"]
    assert abs(report["perplexity"]["onnx"] / of_model["perplexity"]["onnx"] - 1) < 1e-4
    for judged in (report, of_model):
        assert abs(judged["onnx_against_float"]) < 1e-4
        assert abs(judged["integer_against_onnx"]) < 0.01
    refused = edgec("export-onnx", build, "-o", file, "--bits", 5)
    assert refused.exit_code == 2
    assert "settled" in refused.output


@needs_shared
@pytest.mark.parametrize("options", [(), ("--bits", 8, "--group-size", -1)])
def test_referee_on_stories(tmp_path: Path, options: tuple[object, ...]) -> None:
    """The claim itself: ONNX equals float to 1e-4, the integers are within 1 % of it."""
    text = SHARED / "data" / "text" / "tinystories" / "tinystories_val_sample.txt"
    file = tmp_path / "stories.onnx"
    arguments = ("--text", text, "--limit", 4, *options)
    judged = edgec_json("export-onnx", STORIES, "-o", file, *arguments)["referee"]
    assert judged["windows"] == 4
    assert abs(judged["onnx_against_float"]) < 1e-4
    assert abs(judged["integer_against_onnx"]) < 0.01


def test_referee_on_the_bundled_model(tmp_path: Path) -> None:
    text = bundled_model() / "heldout.txt"
    options = ("-o", tmp_path / "bundled.onnx", "--text", text, "--limit", 2)
    judged = edgec_json("export-onnx", *options)["referee"]
    assert abs(judged["onnx_against_float"]) < 1e-4
    assert abs(judged["integer_against_onnx"]) < 0.01


def test_refusals_leave_no_file(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    for options, found in (
        (("--limit", 3), "only with --text"),
        (("--text", tmp_path / "nowhere"), "nowhere"),
        (("--bits", 9), "2..8 bits"),
        (("--activations", "a4"), "--activations"),
    ):
        result = edgec("export-onnx", model, "-o", target, *options)
        assert result.exit_code == 2, result.output
        assert found in result.output
    missing = edgec("export-onnx", model, "-o", tmp_path / "no" / "out.onnx")
    assert missing.exit_code == 10
    assert list(tmp_path.iterdir()) == []


def test_a_model_beyond_two_gibibytes_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.evaluate import onnx_graph

    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 1000)
    result = edgec("export-onnx", model, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert "at most 1,000" in result.output
