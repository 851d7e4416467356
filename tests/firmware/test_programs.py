"""Checker and profiler of a bundle on this machine, and golden/checks.bin by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from zlib import crc32

import pytest

from codegen.bundle import LoadedBundle
from codegen.golden import check_bytes
from sim.golden import golden_from_json
from toolchain.c_tools import Build, ProgramRun, find_host_compiler, run_make, run_program


def run(bundle: Path, out: Path, kind: str, *arguments: str) -> ProgramRun:
    run_make(Build(bundle, out, "host", find_host_compiler(), (kind,)))
    return run_program([str(out / f"tiny_{kind}"), *arguments])


@pytest.fixture
def copy(tiny_bundle: LoadedBundle, tmp_path: Path) -> Path:
    place = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.directory, place)
    return place


def test_checks_by_hand() -> None:
    value = {
        "format": 1,
        "graph_hash": "00",
        "tokens": [5, 7],
        "next_tokens": [3, 0],
        "ops": [{"id": "a", "outputs": [["x", "int32"]]}, {"id": "bc", "outputs": []}],
        "records": [[0, 0, 0, 4, "11111111", 0], [1, 0, 0, 4, "22222222", None]],
    }
    names = b"a\0bc\0\0\0\0"
    head = bytes.fromhex("02000000 02000000 01000000 08000000 11111111 22222222")
    body = b"EDGECGV1" + head + names[:8]
    assert check_bytes(golden_from_json(value, b"abcd")) == body + crc32(body).to_bytes(4, "little")


def test_every_op_has_its_line(tiny_bundle: LoadedBundle, copy: Path, tmp_path: Path) -> None:
    result = run(copy, tmp_path / "out", "checker", "3")
    lines = result.output.decode().splitlines()
    assert result.exit_code == 0
    assert lines[0] == "self-test: passed"
    assert [line.split() for line in lines[1:-1]] == [
        [op.id, "ok"] for op in tiny_bundle.golden.ops
    ]
    assert lines[-1] == "golden: 36 of 36 ops equal in 5 steps and a prompt: PASSED"


def test_first_difference_is_named(tiny_bundle: LoadedBundle, copy: Path, tmp_path: Path) -> None:
    """Another expected value in steps 2 and 4 of one output: the earlier one is told."""
    golden, checks = tiny_bundle.golden, copy / "golden" / "checks.bin"
    op = next(i for i, each in enumerate(golden.ops) if each.id == "l01.attn.attention")
    outputs = sum(len(each.outputs) for each in golden.ops)
    before = sum(len(each.outputs) for each in golden.ops[:op])
    data = bytearray(checks.read_bytes())
    for step in (4, 2):
        data[24 + 4 * (step * outputs + before + 1)] ^= 0x10
    data[-4:] = crc32(data[:-4]).to_bytes(4, "little")
    checks.write_bytes(data)
    want = next(r for r in golden.records if (r.step, r.op, r.output) == (2, op, 1)).crc32
    result = run(copy, tmp_path / "out", "checker")
    lines = result.output.decode().splitlines()
    assert result.exit_code == 1
    text = f"differs: step 2, output 1, CRC-32 {want:08x}, expected {want ^ 0x10:08x}"
    assert lines[1 + op] == f"{'l01.attn.attention':<28}{text}"
    assert sum(line.endswith("ok") for line in lines) == len(golden.ops) - 1
    assert lines[-1] == "golden: 35 of 36 ops equal in 5 steps and a prompt: FAILED"
    data[100] ^= 1
    checks.write_bytes(data)
    broken = run(copy, tmp_path / "out", "checker")
    assert (broken.exit_code, broken.output) == (1, b"golden: the expected values are damaged\n")


def test_profile_on_this_machine(copy: Path, tmp_path: Path) -> None:
    result = run(copy, tmp_path / "out", "profiler", "1", "3")
    head, *rows = result.output.decode().splitlines()
    assert (result.exit_code, head) == (0, "op, ns of a call, calls, share in percent")
    assert len(rows) == 37
    assert {row.split()[2] for row in rows} == {"3"}
    shares = [float(row.split()[3]) for row in rows]
    assert shares[-1] == 100.0
    assert 95 < sum(shares[:-1]) <= 100.0
