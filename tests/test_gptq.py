"""GPTQ checkpoints all the way: the integers in the packed blobs are code - zero, in C as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from sim.session import read_constants
from tests.model.gptq import Format, write_gptq
from toolchain.cli import main
from toolchain.model.names import hf_name_of
from toolchain.model.packing import WeightInts
from toolchain.model.quant_settings import QuantConfig
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 72, "context": 5, "tied": False}


@pytest.mark.parametrize(
    "written",
    [
        Format(bits=4, group_size=16, special={"l00.mlp.up_proj": 8, "l01.attn.k_proj": 2}),
        Format(bits=4, group_size=-1, version="gptq_v2", sym=False, head=True),
        Format(bits=4, group_size=16, sym=False, version="gptq_v2", head=True, desc_act="site"),
        Format(bits=3, group_size=12, desc_act="each"),
        Format(bits=4, group_size=16, version="awq", sym=False),
    ],
    ids=["mixed bits", "zero points", "orders of sites", "orders of each", "awq"],
)
def test_blobs_hold_the_codes(tmp_path: Path, written: Format) -> None:
    coded = write_gptq(tmp_path / "model", written, **SHAPE)
    options = CompileOptions(QuantConfig(), prefix="gptq")
    compiled = compile_model(tmp_path / "model", "siracusa", options, lambda _: None)
    write_bundle(compiled.bundle, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    constants = read_constants(bundle.program, bundle.plan, bundle.blobs)
    for op_id, expected in coded.items():
        weights = constants[f"{op_id}.weight"]
        assert isinstance(weights, WeightInts)
        integers = expected.integers[:, expected.order]
        if op_id.endswith(("gate_proj", "up_proj")):  # in the order that down_proj reads
            integers = integers[coded[f"{op_id[:3]}.mlp.down_proj"].order]
        np.testing.assert_array_equal(weights.values, integers)
    report = json.loads((bundle.directory / "report" / "quantization.json").read_text())
    rows = {row["op"]: row for row in report["tensors"]}
    assert {op_id for op_id, row in rows.items() if "integers" in row} == set(coded)
    assert rows["l00.attn.q_proj"]["bits"] == written.bits + (not written.sym)
    assert (rows["l00.attn.q_proj"]["scale_change_max"] == 0) == (written.group_size == -1)
    report = verify_bundle(bundle.directory, ("host",), VerifyOptions())
    assert report.passed


@pytest.mark.parametrize(
    "written",
    [
        Format(bits=bits, group_size=group, version=version, sym=sym)
        for bits, group, version, sym in [
            (4, 32, "gptq", True),
            (3, 32, "gptq", True),
            (8, -1, "gptq_v2", True),
            (2, 16, "gptq_v2", False),
            (4, 16, "gptq_v2", False),
        ]
    ]
    + [
        Format(bits=4, group_size=32, desc_act="each"),
        Format(bits=3, group_size=32, version="gptq_v2", sym=False, desc_act="site"),
        Format(bits=8, group_size=16, desc_act="site"),
        Format(bits=4, group_size=16, version="awq", sym=False),
    ],
    ids=str,
)
def test_equals_gptqmodel(tmp_path: Path, written: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gptqmodel", reason="gptqmodel is not installed")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    from tests.gptq_library import dequantize_with_library
    from toolchain.model.checkpoint import load_model

    write_gptq(tmp_path, written, hidden_size=64, intermediate_size=96, num_heads=2)
    model = load_model(tmp_path)
    for op_id in ("l00.attn.q_proj", "l01.mlp.down_proj"):
        theirs = dequantize_with_library(model, op_id)
        ours = model.load(hf_name_of(op_id)).astype(np.float16)
        np.testing.assert_array_equal(ours.view(np.uint16), theirs.view(np.uint16))


def test_commands_take_the_settings_from_the_codes(tmp_path: Path) -> None:
    write_gptq(tmp_path / "model", Format(bits=2, group_size=8))
    run = CliRunner().invoke
    wrong = run(main, ["fit", str(tmp_path / "model"), "--bits", "4", "--group-size", "16"])
    assert wrong.exit_code == 2
    assert "--bits: found 4, allowed 2" in wrong.output
    assert "--group-size: found 16, allowed 8" in wrong.output
    right = run(main, ["fit", str(tmp_path / "model"), "--json"])
    (tmp_path / "model" / "model.safetensors").unlink()
    nominal = run(main, ["fit", str(tmp_path / "model"), "--bits", "8", "--json"])
    assert right.exit_code == nominal.exit_code == 0, right.output
    assert json.loads(right.output)["bytes"] == json.loads(nominal.output)["bytes"]
