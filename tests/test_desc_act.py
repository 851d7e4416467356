"""Codes in an order of their own (desc_act): gathers, rows that follow, and equal integers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.bundle_write import write_bundle
from codegen.program_check import check_program
from memory_planner.engines import EngineChoice
from sim.session import Session, read_constants
from tests.bundles import seal
from tests.model.gptq import Format, write_gptq
from tests.model.spoil import Encoded
from tests.model.test_lora import random, write_adapter
from tests.model.tiny import encode_tensor
from tests.test_eora import SIZES
from tests.test_sparse import needs_rv32
from toolchain.cli import main
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import network_of_build, network_of_float, network_of_quant
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import BundleError
from toolchain.model.input_order import column_order, gathers_in, gathers_of, with_gathers
from toolchain.model.lower import lower_model
from toolchain.model.outline import SITES, LowerConfig, outline_program
from toolchain.model.program import ActMode, OpKind
from toolchain.model.quant_settings import QuantConfig
from toolchain.model.quantize import quantize_model
from toolchain.pipeline import CompileOptions, compile_model
from toolchain.verify import VerifyOptions, verify_bundle

SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 72, "context": 5, "tied": False}
TOKENS = np.array([1, 40, 7, 3, 90])
Q, K, V = (f"attn.{part}_proj" for part in "qkv")
GATE, UP = (f"mlp.{part}_proj" for part in ("gate", "up"))


def compiled(
    directory: Path,
    written: Format,
    mode: ActMode = ActMode.A16,
    engine: EngineChoice = EngineChoice.AUTO,
) -> LoadedBundle:
    """A bundle for Siracusa of a coded model with adapters on three roles."""
    write_gptq(directory / "base", written, **SHAPE)
    factors = {
        f"model.layers.{layer}.{part}": (
            random(3, columns, layer) * np.float32(1e-3),
            random(rows, 3, 7 + layer) * np.float32(20),
        )
        for layer in range(2)
        for part, (rows, columns) in SIZES.items()
    }
    write_adapter(directory / "eora", factors, base_model_name_or_path="../base")
    modes = dict.fromkeys(SITES, mode)
    options = CompileOptions(QuantConfig(), prefix="order", modes=modes, engine=engine)
    found = compile_model(directory / "eora", "siracusa", options, lambda _: None)
    write_bundle(found.bundle, directory / "bundle")
    return load_bundle(directory / "bundle")


@pytest.mark.parametrize(
    ("order", "mode", "engine", "gathers"),
    [
        ("site", ActMode.A16, EngineChoice.AUTO, 7),
        ("each", ActMode.A8, EngineChoice.CORES, 13),
        ("o_proj", ActMode.A8, EngineChoice.NEUREKA, 2),
    ],
)
def test_c_and_float_agree(
    tmp_path: Path, order: str, mode: ActMode, engine: EngineChoice, gathers: int
) -> None:
    written = Format(bits=4, group_size=8, desc_act=order, head=order != "o_proj")
    bundle = compiled(tmp_path, written, mode, engine)
    assert sum(op.kind is OpKind.GATHER for op in bundle.program.ops) == gathers
    assert verify_bundle(
        bundle.directory, ("host",), VerifyOptions(sanitize=order == "each")
    ).passed
    constants = read_constants(bundle.program, bundle.plan, bundle.blobs)
    logits = Session(bundle.program, constants).forward(TOKENS) * 2.0**-16
    model = load_model(tmp_path / "eora")
    exact = FloatSession(network_of_float(model)).forward(TOKENS)
    own = FloatSession(network_of_build(bundle)).forward(TOKENS)
    quant = FloatSession(network_of_quant(quantize_model(model, QuantConfig()))).forward(TOKENS)
    scale = np.abs(exact).max()
    limit = 0.1 if mode is ActMode.A8 else 0.05
    assert np.abs(logits - exact).max() < limit * scale
    assert np.abs(logits - own).max() < limit * scale
    assert np.abs(quant - own).max() < 1e-3 * scale


def test_fit_and_damaged_tables(tmp_path: Path) -> None:
    bundle = compiled(tmp_path, Format(bits=4, group_size=8, desc_act="site"))
    report = json.loads((bundle.directory / "report" / "fit.json").read_text())
    found = CliRunner().invoke(main, ["fit", str(tmp_path / "eora"), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["bytes"] == report["bytes"]
    place = bundle.plan.placements["l01.attn.q_proj.order"]
    path = bundle.directory / "weights" / f"{place.region}.bin"
    data = bytearray(path.read_bytes())
    start = place.offset - bundle.plan.region(place.region).blob_base
    data[start : start + 2] = b"\xff\xff"
    data[36:40] = crc32(data[96:]).to_bytes(4, "little")  # of the payload, then of the header
    data[92:96] = crc32(data[:92]).to_bytes(4, "little")
    path.write_bytes(data)
    seal(bundle.directory)
    with pytest.raises(BundleError, match=r"l01.attn.q_proj.order: .* each of 0\.\.31 once"):
        load_bundle(bundle.directory)


def test_rv32(tmp_path: Path) -> None:
    needs_rv32(tmp_path)
    bundle = compiled(tmp_path, Format(bits=4, group_size=8, desc_act="site"))
    assert verify_bundle(bundle.directory, ("rv32",), VerifyOptions()).passed


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    group=st.sampled_from((5, 8, 16, 24)),
    mode=st.sampled_from(list(ActMode)),
    sites=st.booleans(),
)
def test_an_order_changes_no_integer(seed: int, group: int, mode: ActMode, sites: bool) -> None:
    """With one scale for all groups it does not matter which group an input is in."""
    rng = np.random.default_rng(seed)

    def one_scale(tensors: Encoded) -> None:
        for name, (_, shape, _) in list(tensors.items()):
            if name.endswith(".scales"):
                rows = rng.uniform(0.01, 0.1, shape[1]).astype(np.float16).astype(np.float32)
                tensors[name] = encode_tensor(np.tile(rows, (shape[0], 1)), "f16")

    def shuffled(tensors: Encoded) -> None:
        for name, (dtype, shape, data) in list(tensors.items()):
            if name.endswith(".g_idx") and (sites or rng.random() < 0.5):
                groups = rng.permutation(np.frombuffer(data, "<i4"))
                tensors[name] = (dtype, shape, groups.astype("<i4").tobytes())

    logits = []
    for change in (lambda _: None, shuffled):
        rng = np.random.default_rng(seed)

        def both(tensors: Encoded, change: Any = change) -> None:
            one_scale(tensors)
            change(tensors)

        with tempfile.TemporaryDirectory() as folder:
            write_gptq(Path(folder), Format(group_size=group, head=True), both, **SHAPE)
            quant = quantize_model(load_model(Path(folder)), QuantConfig())
            program = lower_model(quant, LowerConfig(5, dict.fromkeys(SITES, mode)))
        logits.append(Session(program, program.constants).forward(TOKENS))
    np.testing.assert_array_equal(logits[0], logits[1])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_column_order(groups: list[int]) -> None:
    array = np.array(groups)
    order = column_order(array)
    if order is None:
        assert groups == sorted(groups)
    else:
        assert sorted(order) == list(range(len(groups)))
        assert array[order].tolist() == sorted(groups)
        same = [(g, i) for i, g in zip(order, array[order], strict=True)]
        assert same == sorted(same)


def test_one_gather_per_distinct_order() -> None:
    a, b = np.array([1, 0]), np.array([1, 0, 2])
    shared = {f"l{i:02d}.{role}": a for i in range(2) for role in (Q, K, GATE)}
    assert gathers_of(shared, 2) == {Q: Q, K: Q, GATE: GATE}
    del shared[f"l01.{K}"]  # in one block only: another gather, in both blocks
    assert gathers_of(shared, 2) == {Q: Q, K: K, GATE: GATE}
    assert gathers_of({"l00.mlp.down_proj": b}, 2) == {}
    assert gathers_of({"lm_head": b, f"l01.{V}": a, f"l01.{UP}": a}, 2) == {
        V: V,
        UP: UP,
        "lm_head": "lm_head",
    }


def test_programs_that_no_compile_writes(tmp_path: Path) -> None:
    """A gather read back must be in front of linears that read the same vector."""
    write_gptq(tmp_path, Format(), **SHAPE)
    config = load_model(tmp_path).config
    plain = outline_program(config, QuantConfig(group_size=8), LowerConfig(5))
    good = with_gathers(plain, {Q: Q, K: Q, UP: UP})
    assert gathers_in(good) == {Q: Q, K: Q, UP: UP}
    assert check_program(good) == []
    wrong = with_gathers(plain, {Q: Q, UP: Q})  # up_proj reads another vector
    assert gathers_in(wrong) == {Q: Q}
