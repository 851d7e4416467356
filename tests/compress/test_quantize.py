"""The stages quantize and eora on whole models: formats, masks, what reads them, determinism."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compress.toys import compress, recipe_of, stage_values, text_file, toy_model
from toolchain.compress.checkpoint import Source, block_name
from toolchain.compress.forward import mean_loss
from toolchain.compress.gptq_format import CodeMatrix
from toolchain.compress.grids import GridKind, round_to_nearest
from toolchain.compress.masks import read_masks
from toolchain.compress.quantized import QuantizedSource, open_any
from toolchain.compress.texts import TextCache
from toolchain.compress.width import Options as TextOptions
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import CompressionError, ConfigError
from toolchain.model.names import LINEAR_SUFFIXES, hf_name_of
from toolchain.model.quantize import QuantConfig, quantize_model

NAMES = [block_name(block, suffix) for block in (0, 1) for suffix in LINEAR_SUFFIXES]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return toy_model(tmp_path / "m", num_layers=2)


def text(tmp_path: Path, samples: int = 12) -> dict[str, Any]:
    return {"calibration": str(text_file(tmp_path)), "samples": samples}


def quantize(**options: Any) -> dict[str, Any]:
    return {"kind": "quantize", **options}


def loss(directory: Path, model: Path, tmp_path: Path) -> float:
    tokens = TextCache().windows(model, TextOptions(pattern="2:4", **text(tmp_path)), 0)
    return mean_loss(open_any(directory), tokens, "cpu", range(2))


def test_rtn_codes_are_those_of_the_matrix(tmp_path: Path, model: Path) -> None:
    compress(model, tmp_path / "o", quantize(method="rtn", bits=3, group_size=7, sym=False))
    out = tmp_path / "o" / "01-quantize"
    source, kind = Source.open(model), GridKind(3, 7, sym=False)
    found = QuantizedSource.open(out)
    for name in NAMES:
        expected = round_to_nearest(source.stored(name).float(), kind)
        assert torch.equal(found.stored(name), expected.decode())
    assert torch.equal(found.stored("model.norm.weight"), source.stored("model.norm.weight"))
    settings = json.loads((out / "quantize_config.json").read_text())
    assert (settings["checkpoint_format"], settings["bits"], settings["sym"]) == (
        "gptq_v2",
        3,
        False,
    )
    assert json.loads((out / "config.json").read_text())["quantization_config"] == settings


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "nf4", "llm.int8"])
def test_masks_survive_every_method(tmp_path: Path, model: Path, method: str) -> None:
    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    options = {} if method in ("rtn", "nf4") else text(tmp_path)
    if method in ("rtn", "gptq", "awq"):
        options |= {"group_size": 8}
    compress(model, tmp_path / "o", width, quantize(method=method, **options))
    pruned, out = tmp_path / "o" / "01-width", tmp_path / "o" / "02-quantize"
    masks, source = read_masks(out), open_any(out)
    assert set(masks) == set(NAMES) == set(read_masks(pruned))
    for name, mask in masks.items():
        weight = source.stored(name)
        assert torch.count_nonzero(weight[torch.from_numpy(~mask.keep)]) == 0
        assert torch.count_nonzero(weight) > 0
    values = stage_values(tmp_path / "o", "02-quantize")
    assert values["patterns"] == dict.fromkeys(NAMES, "2:4")
    assert values["metrics"]["compile"]["possible"] == (method in ("rtn", "gptq", "awq"))
    assert abs(loss(out, model, tmp_path) - loss(pruned, model, tmp_path)) < 0.2


def test_bits_by_layer_and_the_same_bytes(tmp_path: Path, model: Path) -> None:
    stage = quantize(layers={"l01.*": 8, "*.v_proj": 2}, engine="edgec", group_size=-1)
    for out in ("one", "two"):
        compress(model, tmp_path / out, stage | text(tmp_path))
    one, two = (tmp_path / out / "01-quantize" for out in ("one", "two"))
    for name in ("model.safetensors", "quantize_config.json", "config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    source = QuantizedSource.open(one)
    found = {name: source.matrix(name) for name in NAMES}
    bits = {name: getattr(matrix, "bits", None) for name, matrix in found.items()}
    assert bits[block_name(0, "attn.v_proj")] == 2
    assert bits[block_name(1, "mlp.up_proj")] == 8
    assert bits[block_name(0, "mlp.up_proj")] == 4


def test_awq_scales_change_nothing_but_the_rounding(tmp_path: Path, model: Path) -> None:
    """8-bit AWQ is close to the float model, so the scales cancel."""
    stage = quantize(method="awq", bits=8, group_size=-1)
    compress(model, tmp_path / "o", stage | text(tmp_path))
    out = tmp_path / "o" / "01-quantize"
    alphas = stage_values(tmp_path / "o", "01-quantize")["metrics"]["alpha"]
    assert any(alphas.values())
    assert loss(out, model, tmp_path) == pytest.approx(loss(model, model, tmp_path), abs=2e-3)
    norm = "model.layers.0.input_layernorm.weight"
    before, after = Source.open(model).stored(norm), open_any(out).stored(norm)
    assert torch.equal(before, after) == (alphas["l00.attn.norm"] == 0)


@pytest.mark.parametrize("method", ["rtn", "awq", "gptq"])
def test_a_compile_has_the_codes(tmp_path: Path, model: Path, method: str) -> None:
    """Zero points off the middle, and gptq by activation: the integers are code - zero."""
    options = {} if method == "rtn" else text(tmp_path)
    if method == "gptq":
        options |= {"desc_act": True, "engine": "edgec"}
    stage = quantize(method=method, group_size=8, sym=False, **options)
    compress(model, tmp_path / "o", stage)
    out = tmp_path / "o" / "01-quantize"
    codes = QuantizedSource.open(out)
    for op_id, tensor in quantize_model(load_model(out), QuantConfig()).linears.items():
        matrix = codes.matrix(hf_name_of(op_id))
        assert isinstance(matrix, CodeMatrix)
        integers = matrix.codes.int() - matrix.zeros.int()[:, matrix.group_of]
        order = torch.argsort(matrix.group_of, stable=True)
        assert torch.equal(torch.from_numpy(tensor.values.astype("i4")), integers[:, order])
        assert (tensor.order is not None) == (method == "gptq")


def test_eora_recovers_and_writes_peft(tmp_path: Path, model: Path) -> None:
    stages = (
        quantize(method="rtn", bits=2, group_size=-1),
        {"kind": "eora", "rank": 6, **text(tmp_path)},
    )
    compress(model, tmp_path / "o", *stages)
    assert [row.reused for row in compress(model, tmp_path / "o", *stages)] == [True] * 3
    quantized, adapter = tmp_path / "o" / "01-quantize", tmp_path / "o" / "02-eora"
    exact = loss(model, model, tmp_path)
    gap = [abs(loss(d, model, tmp_path) - exact) for d in (quantized, adapter)]
    assert gap[1] < 0.7 * gap[0]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (adapter / config["base_model_name_or_path"]).resolve() == quantized.resolve()
    left = stage_values(tmp_path / "o", "02-eora")["metrics"]["output_error_left"]
    assert set(left) == {f"l{b:02d}.{s}" for b in (0, 1) for s in LINEAR_SUFFIXES}
    assert all(0 <= share < 0.6 for share in left.values())


def test_eora_restores_what_pruning_took(tmp_path: Path, model: Path) -> None:
    """Against the model as given, adapters make up for removed weights, too."""
    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    rtn = quantize(method="rtn", bits=8, group_size=-1)
    exact = loss(model, model, tmp_path)
    gaps = []
    for against in ("input", "given"):
        stage = {"kind": "eora", "rank": 6, "against": against, **text(tmp_path)}
        compress(model, tmp_path / against, width, rtn, stage)
        gaps.append(abs(loss(tmp_path / against / "03-eora", model, tmp_path) - exact))
    assert gaps[1] < gaps[0]


def test_a_changed_origin_is_refused(tmp_path: Path, model: Path) -> None:
    rtn = quantize(method="rtn", group_size=8)
    compress(model, tmp_path / "o", rtn)
    (model / "generation_config.json").write_text("{}")
    record = tmp_path / "o" / "01-quantize" / "edgec_stage.json"
    values = json.loads(record.read_text())
    from toolchain.compress.publish import content_hash

    record.write_text(json.dumps(values | {"input_hash": content_hash(model)}))
    with pytest.raises(CompressionError, match="changed or gone"):
        compress(model, tmp_path / "o", rtn, {"kind": "eora", "rank": 2, **text(tmp_path)})


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([quantize(bits=5)], "GPTQ checkpoints have no common layout"),
        ([quantize(method="nf4", bits=4)], "nf4 has a grid of its own"),
        ([quantize(method="rtn", samples=4)], "looks at no text"),
        ([quantize(method="rtn", group_size=0)], "at least 1"),
        ([quantize(method="rtn", desc_act=True)], "only gptq"),
        ([{"kind": "eora", "rank": 4, "against": "x"}], "input or given"),
    ],
)
def test_bad_options(stages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe_of(*stages)


def test_stages_that_cannot_follow(tmp_path: Path, model: Path) -> None:
    rtn, eora = quantize(method="rtn", group_size=8), {"kind": "eora", "rank": 9}
    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    with pytest.raises(ConfigError) as caught:
        compress(model, tmp_path / "o", eora | text(tmp_path), rtn, width)
    found = {problem.where: problem.found for problem in caught.value.problems}
    assert found["eora"] == "a float checkpoint in front"
    assert found["width"] == "a quantized checkpoint in front"
    assert found["eora.rank"] == "9"
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gptqmodel") is None, reason="gptqmodel is not installed")
def test_the_package_makes_and_reads_the_same_weights(tmp_path: Path, model: Path) -> None:
    """gptqmodel's codes arrive unchanged, it reads what edgec writes, and it is not given masks."""
    from toolchain.compress.packages import surroundings

    options = {"group_size": -1} | text(tmp_path)
    compress(model, tmp_path / "a", quantize(**options))
    compress(model, tmp_path / "b", quantize(engine="edgec", **options))
    package, own = (tmp_path / d / "01-quantize" for d in "ab")
    assert stage_values(tmp_path / "a", "01-quantize")["metrics"]["engine"] == "gptqmodel"
    with surroundings({"TORCHDYNAMO_DISABLE": "1"}):
        from gptqmodel import BACKEND, GPTQModel

        for directory in (package, own):
            loaded = GPTQModel.load(
                str(directory), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16
            )
            source = QuantizedSource.open(directory)
            modules = dict(loaded.model.named_modules())
            for name in NAMES:
                theirs = modules[name.removesuffix(".weight")].dequantize_weight().T
                assert torch.equal(theirs, source.stored(name).half()), name
    width = {"kind": "width", "method": "magnitude", "pattern": "2:4"}
    with pytest.raises(CompressionError, match="other values than 0"):
        compress(model, tmp_path / "c", width, quantize(engine="gptqmodel", **options))
