"""What must hold whatever happens: kills anywhere, full disks, no pickles, odd groups."""

from __future__ import annotations

import builtins
import os
import pickle
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compress.test_lora import needs_peft
from tests.compress.test_pipeline import contents, file_size_limit
from tests.compress.toys import compress, text_file, toy_model
from toolchain.compress.checkpoint import block_name
from toolchain.compress.gptq_format import CodeMatrix
from toolchain.compress.publish import content_hash
from toolchain.compress.quantized import QuantizedSource
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import EnvironmentFailureError

STAGES: tuple[dict[str, Any], ...] = (
    {"kind": "depth", "method": "magnitude", "remove": 1, "protect_first": 0},
    {"kind": "width", "method": "magnitude", "pattern": "2:4"},
    {"kind": "quantize", "method": "rtn", "group_size": 8},
)
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
needs_gptqmodel = pytest.mark.skipif(
    find_spec("gptqmodel") is None, reason="gptqmodel is not installed"
)


def run_and_kill(model: Path, out: Path, at: int, **settings: Any) -> int:
    """A process that dies in front of its `at`th change below `out`; its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    seen = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        inside = event in CHANGES and str(args[0]).startswith(str(out))
        if inside and (event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR)):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        compress(model, out, *STAGES, **settings)
    finally:
        os._exit(7)


@pytest.mark.parametrize("restart", [False, True])
def test_killed_anywhere(tmp_path: Path, restart: bool) -> None:
    """Whatever has its final name is whole, and the same command goes on to the same bytes."""
    model = toy_model(tmp_path / "m")
    compress(model, tmp_path / "whole", *STAGES)
    whole = contents(tmp_path / "whole")
    ends = 0
    for at in range(1, 200, 4):
        out = tmp_path / f"out{at}"
        if restart:
            compress(model, out, *STAGES)
        status = run_and_kill(model, out, at, restart=restart)
        for path in out.iterdir() if out.exists() else ():
            if path.is_dir() and not path.name.startswith("."):
                found = {f"{path.name}/{name}": data for name, data in contents(path).items()}
                assert found == {n: d for n, d in whole.items() if n.startswith(path.name)}
        compress(model, out, *STAGES)
        assert contents(out) == whole
        assert not list(out.glob(".*.partial"))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 7
            ends += 1
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert ends == 1
    assert at > 20


def test_a_changed_allocation_is_another_input(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    before = content_hash(model)
    (model / "edgec_bits.toml").write_text("group_size = 8\n")
    assert content_hash(model) != before


@needs_peft
def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model(tmp_path / "m", num_layers=2)
    (model / "optimizer.pt").write_bytes(b"\x80\x02")
    text: dict[str, Any] = {"calibration": str(text_file(tmp_path)), "samples": 8}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    opened: list[str] = []
    plain = builtins.open

    def watch(file: Any, *args: Any, **options: Any) -> Any:
        opened.append(str(file))
        return plain(file, *args, **options)

    monkeypatch.setattr(builtins, "open", watch)
    compress(
        model,
        tmp_path / "out",
        {"kind": "width", "method": "gblm", "pattern": "2:4", **text},
        {"kind": "lora", "rank": 2, **text},
        {"kind": "quantize", "method": "gptq", "group_size": 8, **text},
        {"kind": "eora", "rank": 2, **text},
    )
    assert not [name for name in opened if name.endswith((".pt", ".bin", ".pth", ".pkl"))]


@pytest.mark.parametrize(
    "engine", ["edgec", pytest.param("gptqmodel", marks=[pytest.mark.slow, needs_gptqmodel])]
)
def test_groups_that_do_not_divide(tmp_path: Path, engine: str) -> None:
    """The last group of a row is shorter, from the codes to the integers of a compile."""
    model = toy_model(tmp_path / "m", hidden_size=32, intermediate_size=72, num_layers=1)
    text: dict[str, Any] = {"calibration": str(text_file(tmp_path)), "samples": 8}
    stage = {"kind": "quantize", "group_size": 16, "engine": engine, **text}
    compress(model, tmp_path / "out", stage)
    codes = QuantizedSource.open(tmp_path / "out" / "01-quantize")
    name = block_name(0, "mlp.down_proj")
    matrix = codes.matrix(name)
    assert isinstance(matrix, CodeMatrix)
    assert torch.bincount(matrix.group_of).tolist() == [16, 16, 16, 16, 8]
    assert np.array_equal(load_model(codes.directory).load(name), codes.stored(name).numpy())


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage["kind"])
def test_full_disk_in_any_stage(tmp_path: Path, stage: dict[str, Any]) -> None:
    model = toy_model(tmp_path / "m")
    with file_size_limit(4000), pytest.raises(EnvironmentFailureError, match="cannot be written"):
        compress(model, tmp_path / "out", stage)
    assert [path for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


@pytest.mark.slow
@needs_gptqmodel
def test_full_disk_in_the_package(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m", hidden_size=32, intermediate_size=64, num_layers=1)
    text: dict[str, Any] = {"calibration": str(text_file(tmp_path)), "samples": 8}
    with file_size_limit(8000), pytest.raises(EnvironmentFailureError):
        compress(model, tmp_path / "out", {"kind": "quantize", "group_size": 16, **text})
    assert [path for path in (tmp_path / "out").iterdir() if path.is_dir()] == []
