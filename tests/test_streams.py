"""Small memories all the way: weights off chip in the simulators, in C on the host and on RV32."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen.blob import build_blobs
from codegen.bundle_read import load_bundle
from codegen.serialize import document, from_document
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.planner import draft_plan, plan_memory
from memory_planner.target import Pin
from memory_planner.target_file import load_target
from memory_planner.validate import validate_plan
from sim.machine import run_steps
from sim.memory import MemoryFaultError
from sim.session import Session
from tests.bundles import compile_tiny, edit, seal
from tests.model.tiny import write_model
from tests.sim.test_machine import check_prompts
from toolchain.c_tools import (
    Build,
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_simulator,
    run_make,
)
from toolchain.cli import main
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import ToolError
from toolchain.model.lower import lower_model
from toolchain.model.outline import LowerConfig
from toolchain.model.quantize import QuantConfig, quantize_model
from toolchain.verify import VerifyOptions, verify_bundle

EVERYTHING = MemoryLimits({}, (Pin("*.weight", "hyperram"),))
LITTLE = MemoryLimits({"mram": 2048, "tile_sram": 4096, "l1": 2048})
LEAST_L1 = MemoryLimits({"l1": 1536})  # one slot for the widest matrix
TOKENS = (1, 5, 9, 0, 7)


@pytest.mark.parametrize(
    ("limits", "shape"),
    [
        (EVERYTHING, {}),
        (LITTLE, {"num_layers": 3, "tied": True}),
        (LEAST_L1, {"num_layers": 1}),
    ],
    ids=["all off chip", "little", "least L1"],
)
def test_c_equals_the_simulator(
    tmp_path: Path, limits: MemoryLimits, shape: dict[str, Any]
) -> None:
    bundle = compile_tiny(tmp_path, limits=limits, **shape)
    assert (bundle.plan.streams is None) == (limits is LEAST_L1)
    assert bundle.manifest["settings"]["memory"] == limits.to_dict()
    report = verify_bundle(
        bundle.directory, ("host",), VerifyOptions(sanitize=limits is EVERYTHING)
    )
    assert report.passed
    assert [run.cores for run in report.runs] == [1, 3, 8]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("head", [True, False], ids=["head off chip", "head on chip"])
def test_prompts_stream_weights_of_blocks(tmp_path: Path, layers: int, head: bool) -> None:
    """An even and an odd number of streams in front of the head's, or of nothing."""
    pins = (Pin("l??.*.weight", "hyperram"), *([Pin("lm_head.weight", "hyperram")] if head else []))
    write_model(tmp_path, num_layers=layers, tied=False)
    quant = quantize_model(load_model(tmp_path), QuantConfig(bits=4, group_size=16))
    program = lower_model(quant, LowerConfig(16))
    plan = plan_memory(program, limited_target(load_target("siracusa"), MemoryLimits({}, pins)))
    assert plan.streams is not None
    assert plan.streams.head % 2 == layers * len(plan.streams.cuts) % 2
    check_prompts(program, plan, (2, 1, 2))


def test_what_travels_at_once_has_a_single_slot(tmp_path: Path) -> None:
    bundle = compile_tiny(tmp_path, limits=LEAST_L1, num_layers=1)
    linears = bundle.plan.linears
    assert linears["l00.mlp.down_proj"].slots == 1
    assert {t.slot for t in linears["l00.mlp.down_proj"].transfers} == {0}
    assert all(how.slots == 1 for how in linears.values() if len(how.transfers) == 1)


def test_attention_with_one_slot(tmp_path: Path) -> None:
    far = MemoryLimits({}, (Pin("kv.*", "tile_sram"),))  # not read in place
    bundle = compile_tiny(tmp_path, limits=far, num_layers=1, context=12)
    assert bundle.plan.attention.tile_buffer is not None
    chunk = replace(bundle.plan.attention, positions_per_chunk=4, slots=1)
    plan = replace(bundle.plan, attention=chunk)
    assert validate_plan(bundle.program, load_target("siracusa"), plan) == []
    one, two = (
        list(run_steps(bundle.program, p, bundle.blobs, TOKENS)) for p in (bundle.plan, plan)
    )
    assert all((a.value == b.value).all() for a, b in zip(one, two, strict=True))


def test_streams_on_rv32(tmp_path: Path) -> None:
    try:
        find_rv32_compiler()
        find_rv32_simulator(tmp_path)
    except ToolError as error:
        pytest.skip(str(error))
    bundle = compile_tiny(tmp_path, limits=EVERYTHING)
    assert verify_bundle(bundle.directory, ("rv32",)).passed


def test_c_that_does_not_wait_for_a_stream_is_found(tmp_path: Path) -> None:
    """The host's DMA delivers at the wait: without it the slot holds a pattern."""
    bundle = compile_tiny(tmp_path, limits=EVERYTHING)
    model = bundle.directory / "src" / "tiny_model.c"
    edit(model, "        wait_copy(s->streams->piece[index & 1U], &STREAMS[index]);\n", "")
    seal(bundle.directory)
    report = verify_bundle(
        load_bundle(bundle.directory).directory, ("host",), VerifyOptions(cores=(1,))
    )
    assert not report.passed


def test_init_checks_the_off_chip_blob(tmp_path: Path) -> None:
    """A flipped bit of an off-chip weight, and one of the header: the cores see both by DMA."""
    bundle = compile_tiny(tmp_path, limits=EVERYTHING)
    path = bundle.directory / "weights" / "hyperram.bin"
    data = path.read_bytes()
    for case, (position, status) in enumerate([(None, 0), (-9, 10), (50, 9)]):
        changed = bytearray(data)
        if position is not None:
            changed[position] ^= 1
        path.write_bytes(changed)
        out = tmp_path / str(case)
        run_make(Build(bundle.directory, out, "host", find_host_compiler(), ("runner",)))
        done = subprocess.run([str(out / "tiny_runner")], capture_output=True, check=False)
        assert done.returncode == (0 if status == 0 else 1)
        assert int.from_bytes(done.stdout[20:24], "little") == status


def test_plans_with_streams_survive_json(tmp_path: Path) -> None:
    bundle = compile_tiny(tmp_path, limits=EVERYTHING)
    text = json.dumps(document(bundle.program, bundle.plan))
    assert from_document(json.loads(text))[1] == bundle.plan


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_budget_gives_the_same_integers(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kv_heads = data.draw(st.sampled_from([1, 3]))
    directory = write_model(
        tmp_path_factory.mktemp("model"),
        hidden_size=data.draw(st.sampled_from([12, 18, 24])),
        intermediate_size=data.draw(st.integers(5, 60)),
        num_layers=data.draw(st.integers(1, 4)),
        num_heads=3,
        num_kv_heads=kv_heads,
        head_dim=data.draw(st.sampled_from([4, 6])),
        vocab_size=data.draw(st.integers(20, 90)),
        context=6,
        tied=data.draw(st.booleans()),
    )
    quant = QuantConfig(bits=data.draw(st.sampled_from([2, 4, 8])), group_size=8)
    program = lower_model(quantize_model(load_model(directory), quant), LowerConfig(6))
    sizes = {
        "mram": 32 * data.draw(st.integers(1, 200)),
        "tile_sram": 32 * data.draw(st.integers(40, 200)),
        "l2": 8 * data.draw(st.integers(400, 2000)),
        "l1": 8 * data.draw(st.integers(200, 500)),
    }
    target = limited_target(load_target("siracusa"), MemoryLimits(sizes))
    if any(region.free < 0 for region in draft_plan(program, target).regions):
        return
    plan = plan_memory(program, target)
    session = Session(program, program.constants)
    logits = [session.forward([token])[0] for token in TOKENS]
    records = run_steps(program, plan, build_blobs(program, plan), TOKENS)
    found = [record.value for record in records if record.tensor == "logits"]
    assert all((one == two).all() for one, two in zip(found, logits, strict=True))


def test_the_machine_refuses_a_stream_that_lacks_a_byte(tmp_path: Path) -> None:
    """The machine finds by running what the validator finds by proof."""
    bundle = compile_tiny(tmp_path, limits=EVERYTHING)
    streams = bundle.plan.streams
    assert streams is not None
    short = replace(streams.streams[1], size=streams.streams[1].size - 4)
    changed = (streams.streams[0], short, *streams.streams[2:])
    plan = replace(bundle.plan, streams=replace(streams, streams=changed))
    with pytest.raises(MemoryFaultError, match=r"l01\.mlp\.down_proj"):
        list(run_steps(bundle.program, plan, bundle.blobs, TOKENS))


# ---------------------------------------------------------------- command line


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pin", "kv.*=l9"], "--pin kv.*: found region 'l9', allowed one of mram"),
        (["--pin", "kv.*"], "PATTERN=REGION"),
        (["--pin", "nothing*=l2"], "no tensor of that name"),
        (["--region", "l3=8KiB"], "region 'l3'"),
        (["--region", "l2=8kB"], "a size like 65536, 64KiB or 1MiB"),
        (["--l1", "1MiB"], "8 to 227,448 bytes"),
        (["--l1", "8KiB", "--region", "l1=8KiB"], "each region once"),
        (["--l1", "8KiB", "--target", "rv32"], "region 'l1', allowed one of flash, sram"),
    ],
)
def test_bad_limits_are_refused(arguments: list[str], message: str) -> None:
    code, output = run("fit", "stories260k", *arguments)
    assert code == 2
    assert message in output


@pytest.mark.parametrize("shape", ["stories260k", "stories15m"])
def test_eight_kibibytes_of_l1_are_enough(shape: str) -> None:
    code, output = run("fit", shape, "--l1", "8KiB", "--json")
    assert code == 0
    report = json.loads(output)
    l1 = next(region for region in report["regions"] if region["name"] == "l1")
    reserved = 8 + 9 * 2944 + 8192  # a skipped word, nine stacks, tables
    assert l1["capacity"] == 8192 + reserved


def test_fit_says_what_streaming_costs() -> None:
    code, output = run("fit", "stories15m", "--json")
    report = json.loads(output)
    assert code == 0
    off_chip = report["off_chip"]
    head = 32000 // 4 * (288 * 4 + 16)  # the tied matrix: larger than any region of the chip
    assert off_chip["bytes"] == head + 288 * 4 + 16
    assert off_chip["ms_per_token"] == pytest.approx(off_chip["bytes"] / 200e3, rel=1e-3)
    assert 0 < off_chip["exposed_ms_per_token"] < off_chip["ms_per_token"]  # work hides a part
    categories = {row["category"] for row in report["rows"] if row["region"] == "hyperram"}
    assert categories == {"weights", "scales", "headers"}
