"""N:M weights all the way: the same integers dense and sparse, in C on the host and on RV32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen.bundle import LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.json_text import pretty
from sim.session import Session, read_constants
from tests.bundles import compile_tiny, seal
from tests.model.tiny import write_model
from toolchain.c_tools import find_rv32_compiler, find_rv32_simulator
from toolchain.cli import main
from toolchain.model.errors import BundleError, ToolError
from toolchain.model.nm_pattern import PATTERNS, Pattern
from toolchain.model.program import ActMode
from toolchain.model.quant_settings import Override, QuantConfig
from toolchain.model.sparse_packing import SparseLayout
from toolchain.model.sparsity import FOUND, OFF
from toolchain.verify import VerifyOptions, verify_bundle

MIXED = {
    "l00.attn.q_proj": Pattern(2, 4),
    "l00.attn.k_proj": Pattern(1, 2),
    "l01.attn.q_proj": Pattern(1, 8),
    "l01.attn.o_proj": Pattern(4, 8),
    "l00.mlp.gate_proj": Pattern(12, 16),
    "l01.mlp.up_proj": Pattern(8, 16),
    "l*.mlp.down_proj": Pattern(3, 4),
    "lm_head": Pattern(1, 16),
}
SHAPE: dict[str, Any] = {"hidden_size": 66, "pruned": MIXED}
QUANT = QuantConfig(bits=4, group_size=32, head_bits=8, sparse=(FOUND,))


def needs_rv32(scratch: Path) -> None:
    try:
        find_rv32_compiler()
        find_rv32_simulator(scratch)
    except ToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return compile_tiny(tmp_path_factory.mktemp("sparse"), quant=QUANT, **SHAPE)


def test_the_effective_packing_is_recorded(bundle: LoadedBundle) -> None:
    rows = {row["name"].removesuffix(".weight"): row for row in bundle.manifest["weights"]}
    found = {name: row["pattern"] for name, row in rows.items() if "pattern" in row}
    expected = {name: str(p) for name, p in MIXED.items() if "*" not in name}
    expected |= {f"l0{layer}.mlp.down_proj": "3:4" for layer in (0, 1)}
    assert found == expected
    assert {row["packing"] for name, row in rows.items() if name in found} == {"nm-sparse"}
    assert rows["l00.attn.v_proj"]["packing"] == "nibble"
    report = json.loads((bundle.directory / "report" / "fit.json").read_text())
    down = next(entry for entry in report["width"] if entry["role"] == "mlp.down_proj")
    assert (down["pattern"], down["matrices"], down["pays"]) == ("3:4", 2, True)
    assert down["stored_bytes"] == sum(rows[f"l0{i}.mlp.down_proj"]["size"] for i in (0, 1))
    assert report["estimates"] == []


def test_c_equals_the_simulator(bundle: LoadedBundle) -> None:
    report = verify_bundle(bundle.directory, ("host",), VerifyOptions(sanitize=True))
    assert report.passed
    assert [run.cores for run in report.runs] == [1, 3, 8]


@pytest.mark.parametrize("mode", list(ActMode))
def test_rv32_reading_in_place(tmp_path: Path, mode: ActMode) -> None:
    needs_rv32(tmp_path)
    bundle = compile_tiny(tmp_path, target="rv32", mode=mode, quant=QUANT, **SHAPE)
    assert verify_bundle(bundle.directory, ("rv32",)).passed


def test_only_the_kernels_that_are_called_travel(bundle: LoadedBundle) -> None:
    names = {path.stem for path in (bundle.directory / "runtime" / "src").iterdir()}
    kernels = {name for name in names if "linear_s" in name}
    assert kernels == {
        "tiny_linear_s16_w4",
        *(f"tiny_linear_s16_w4_{p}" for p in ("1of2", "2of4", "3of4", "1of8", "4of8")),
        *("tiny_linear_s16_w4_8of16", "tiny_linear_s16_w4_12of16", "tiny_linear_s16_w8_1of16"),
    }
    assert {"tiny_mask_positions", "tiny_mask_tops"} <= names


def test_dense_and_sparse_builds_are_equal(bundle: LoadedBundle, tmp_path: Path) -> None:
    quant = QuantConfig(bits=4, group_size=32, head_bits=8, sparse=(OFF,))
    dense = compile_tiny(tmp_path, quant=quant, **SHAPE)
    assert not any("pattern" in row for row in dense.manifest["weights"])
    assert dense.golden.records == bundle.golden.records
    assert sum(map(len, bundle.blobs.values())) < sum(map(len, dense.blobs.values()))
    one, two = (
        Session(b.program, read_constants(b.program, b.plan, b.blobs)) for b in (dense, bundle)
    )
    assert (one.forward([1, 5, 9]) == two.forward([1, 5, 9])).all()


def test_a_forged_index_is_refused(bundle: LoadedBundle, tmp_path: Path) -> None:
    """Hashes that fit, a position that does not ascend."""
    from zlib import crc32

    copy = Path(shutil.copytree(bundle.directory, tmp_path / "bundle"))
    place = bundle.plan.placements["l00.attn.q_proj.weight"]
    path = copy / "weights" / f"{place.region}.bin"
    data = bytearray(path.read_bytes())
    layout = bundle.program.tensors["l00.attn.q_proj.weight"].layout
    assert isinstance(layout, SparseLayout)
    row = place.offset - bundle.plan.region(place.region).blob_base + 4 * layout.packing.rows
    data[row + layout.groups] = 0  # the position 0 twice
    data[36:40] = crc32(data[96:]).to_bytes(4, "little")
    data[92:96] = crc32(data[:92]).to_bytes(4, "little")
    path.write_bytes(data)
    seal(copy)
    with pytest.raises(BundleError, match="ascending"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pattern", "2:5"),
        ("pattern", "0:0"),
        ("fields", "nm-sparse"),
        ("fields", "crumb"),
        ("packing", "nibble"),
        ("group_size", 8),
    ],
)
def test_a_forged_layout_is_refused(
    bundle: LoadedBundle, tmp_path: Path, key: str, value: object
) -> None:
    copy = Path(shutil.copytree(bundle.directory, tmp_path / "bundle"))
    plan = json.loads((copy / "plan.json").read_text())
    tensors = {tensor["name"]: tensor for tensor in plan["program"]["tensors"]}
    tensors["l00.attn.q_proj.weight"]["layout"][key] = value
    (copy / "plan.json").write_bytes(pretty(plan))
    seal(copy)
    with pytest.raises(BundleError, match="plan"):
        load_bundle(copy)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.slow
def test_odd_shapes_are_equal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    choices = st.one_of(st.none(), st.sampled_from(PATTERNS))
    roles = ("attn.q_proj", "attn.v_proj", "attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    drawn = {f"l{i:02d}.{role}": data.draw(choices) for i in range(2) for role in roles}
    pruned = {name: pattern for name, pattern in drawn.items() if pattern}
    bundle = compile_tiny(
        tmp_path_factory.mktemp("odd"),
        target=data.draw(st.sampled_from(["siracusa", "rv32"])),
        mode=data.draw(st.sampled_from(list(ActMode))),
        quant=QuantConfig(
            bits=data.draw(st.integers(2, 8)),
            group_size=data.draw(st.sampled_from([-1, 16, 32, 64])),
            overrides=(Override("l01.*", bits=data.draw(st.integers(2, 8))),),
            sparse=(FOUND,),
        ),
        hidden_size=data.draw(st.integers(1, 140)),
        intermediate_size=data.draw(st.integers(1, 140)),
        head_dim=2 * data.draw(st.integers(1, 20)),
        pruned=pruned,
    )
    assert verify_bundle(bundle.directory, options=VerifyOptions(cores=(1, 5))).passed


# ---------------------------------------------------------------- command line


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(
        tmp_path_factory.mktemp("model"), hidden_size=32, pruned={"l*.*": Pattern(2, 4)}
    )


@pytest.mark.parametrize(
    ("rules", "sparse"),
    [
        ([], 0),  # dense is faster, and has room
        (["auto"], 0),
        (["found"], 14),
        (["2:4"], 14),
        (["off"], 0),
        (["off", "*.down_proj=found"], 2),
        (["2:4", "l00.*=off"], 7),
    ],
)
def test_rules(directory: Path, tmp_path: Path, rules: list[str], sparse: int) -> None:
    options = [option for rule in rules for option in ("--sparse", rule)]
    arguments = ("compile", str(directory), "-o", str(tmp_path / "b"), "--engine", "cores")
    code, output = run(*arguments, *options)
    assert code == 0, output
    weights = load_bundle(tmp_path / "b").manifest["weights"]
    assert sum(row["packing"] == "nm-sparse" for row in weights) == sparse


def test_the_engine_leaves_what_must_be_sparse(directory: Path, tmp_path: Path) -> None:
    code, output = run(
        *("compile", str(directory), "-o", str(tmp_path / "b"), "--sparse", "2:4"),
        *("--engine", "neureka"),
    )
    assert code == 0, output
    weights = load_bundle(tmp_path / "b").manifest["weights"]
    assert {row["packing"] for row in weights if "." in row["name"][:-7]} == {"nm-sparse"}
    fit = json.loads((tmp_path / "b" / "report" / "fit.json").read_text())
    reasons = {entry["reason"] for entry in fit["linears"]}
    assert "N:M storage is asked for" in reasons


def test_a_required_pattern_that_does_not_pay(directory: Path, tmp_path: Path) -> None:
    """It is checked all the same, and the report says why the matrices are dense."""
    arguments = ("compile", str(directory), "-o", str(tmp_path / "b"), "--bits", "2")
    code, output = run(*arguments, "--sparse", "2:4", "--engine", "cores")
    assert code == 0
    assert "2:4 in crumbs does not pay: its indices take what it saves" in output
    bundle = load_bundle(tmp_path / "b")
    assert bundle.manifest["settings"]["sparse"] == ["l*.*=2:4"]
    assert {row["packing"] for row in bundle.manifest["weights"]} == {"crumb", "byte"}


def test_sparse_storage_decides_what_fits(directory: Path, tmp_path: Path) -> None:
    """Also when it does not fit, the bytes are those of the sparse matrices."""

    def compiled(limit: int, *options: str) -> tuple[int, str]:
        place = ("compile", str(directory), "-o", str(tmp_path / "b"), "--target", "rv32")
        return run(*place, "--region", f"flash={limit}", *options, "--json")

    limit = 24576
    code, output = compiled(limit, "--sparse", "found")
    assert code == 0
    flash = json.loads(output)["fit"]["regions"][0]
    room = flash["used"] - (flash["capacity"] - limit)
    assert compiled(room)[0] == 0
    stored = json.loads((tmp_path / "b" / "report" / "fit.json").read_text())
    place = ("--target", "rv32", "--region", f"flash={room}", "--json")
    code, output = run("fit", str(directory), *place)  # finds the patterns as compile does
    assert code == 0
    assert json.loads(output)["rows"] == stored["rows"]
    assert compiled(room, "--sparse", "off")[0] == 3
    code, output = compiled(room - 64)
    assert code == 3
    assert f"{flash['used']:,} bytes needed" in output


@pytest.mark.parametrize(
    ("rule", "code", "message"),
    [
        ("3:4", 9, "l00.attn.q_proj, row"),
        ("2:5", 2, "1:2, 2:4, 3:4, 1:8, 4:8, 1:16, 8:16, 12:16"),
        ("=auto", 2, "a pattern that matches a linear"),
        ("none", 2, "auto, found, off or N:M"),
        ("embed=2:4", 2, "a pattern that matches a linear"),
    ],
)
def test_bad_rules(directory: Path, tmp_path: Path, rule: str, code: int, message: str) -> None:
    found, output = run("compile", str(directory), "-o", str(tmp_path / "b"), "--sparse", rule)
    assert found == code
    assert message in output.replace("\n", " ")
    assert not (tmp_path / "b").exists()
