"""The framework: resume, kill, same bytes, refusals before work, what lies on disk."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.compress.toys import compress, recipe_of, stage_values, text_file, toy_model
from toolchain.compress.machine import choose_device
from toolchain.compress.publish import STAGE_FILE, locked
from toolchain.model.errors import ConfigError, EdgecError, EnvironmentFailureError

DEPTH: dict[str, Any] = {"kind": "depth", "method": "magnitude", "remove": 1, "protect_first": 0}
WIDTH: dict[str, Any] = {"kind": "width", "method": "magnitude", "pattern": "2:4"}

# Runs two stages; argv[3] says when the process kills itself.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.compress.toys import compress
from toolchain.compress import pipeline, width
model, out, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
plain = pipeline.publish
def publish(scratch, out, name):
    if name.startswith("02"):
        assert (scratch / "edgec_stage.json").exists()
        kill()
    return plain(scratch, out, name)
if when == "before the rename":
    pipeline.publish = publish
else:
    write = width._write_block
    def some(writer, block, *rest):
        return kill() if block == 2 else write(writer, block, *rest)
    width._write_block = some
compress(model, out, %r, %r)
"""


def contents(directory: Path) -> dict[str, bytes]:
    """Every file; of the record only what the same run writes alike."""
    files = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    found = {name: path.read_bytes() for name, path in files.items()}
    for name, data in found.items():
        if name.endswith(STAGE_FILE):
            values = json.loads(data)
            assert values.pop("record")["seconds"] > 0
            found[name] = json.dumps(values).encode()
    return {n: data for n, data in found.items() if not n.startswith(("summary", "."))}


@pytest.mark.parametrize("when", ["before the rename", "in the middle"])
def test_kill_and_resume(tmp_path: Path, when: str) -> None:
    model, out = toy_model(tmp_path / "m"), tmp_path / "out"
    script = KILLED % (DEPTH, WIDTH)
    command = [sys.executable, "-c", script, str(model), str(out), when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == [".02-width.partial", "01-depth"]
    first = (out / "01-depth" / STAGE_FILE).stat().st_mtime_ns
    rows = compress(model, out, DEPTH, WIDTH)
    assert [row.reused for row in rows] == [True, True, False]
    assert (out / "01-depth" / STAGE_FILE).stat().st_mtime_ns == first
    assert not (out / ".02-width.partial").exists()
    compress(model, tmp_path / "whole", DEPTH, WIDTH)
    assert contents(out) == contents(tmp_path / "whole")


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m", dtype="f16")
    text = {"calibration": str(text_file(tmp_path)), "samples": 3}
    stages = (
        {"kind": "depth", "remove": 1, "protect_first": 0, "protect_last": 0, **text},
        {"kind": "width", "method": "gblm", "pattern": "2:4", **text},
        {"kind": "structured", "ffn": 0.5, "grain": 4, "attention": 1, **text},
    )
    for name, seed in (("one", 0), ("two", 0), ("other", 7)):
        compress(model, tmp_path / name, *stages, seed=seed)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = contents(tmp_path / "other")
    assert other != contents(tmp_path / "one")


def test_changes_are_named_and_restart_helps(tmp_path: Path) -> None:
    model, out = toy_model(tmp_path / "m"), tmp_path / "out"
    compress(model, out, DEPTH, WIDTH)
    with pytest.raises(ConfigError) as caught:
        compress(model, out, DEPTH, WIDTH | {"pattern": "1:4"}, seed=3)
    text = str(caught.value)
    assert "01-depth: seed: found 0, allowed 3" in text
    assert f"delete {out / '01-depth'}" in text
    with pytest.raises(ConfigError, match="02-width: pattern: found 2:4, allowed 1:4"):
        compress(model, out, DEPTH, WIDTH | {"pattern": "1:4"})
    with pytest.raises(ConfigError, match="a stage of another recipe, allowed 01-width"):
        compress(model, out, WIDTH)
    shutil.rmtree(out / "02-width")
    compress(model, out, DEPTH, WIDTH | {"pattern": "1:4"})
    compress(model, out, WIDTH, restart=True)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["01-width"]


def test_another_input_or_a_damaged_stage_is_noticed(tmp_path: Path) -> None:
    model, out = toy_model(tmp_path / "m"), tmp_path / "out"
    compress(model, out, DEPTH, WIDTH)
    other = toy_model(tmp_path / "n", seed=1)
    with pytest.raises(ConfigError, match="01-depth: input_hash"):
        compress(other, out, DEPTH, WIDTH)
    config = out / "01-depth" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(ConfigError, match="02-width: input_hash"):
        compress(model, out, DEPTH, WIDTH)


def test_foreign_directories_are_left_alone(tmp_path: Path) -> None:
    model, out = toy_model(tmp_path / "m"), tmp_path / "out"
    (out / "01-depth").mkdir(parents=True)
    (out / "01-depth" / "mine").touch()
    for restart in (False, True):
        with pytest.raises(ConfigError, match=f"no {STAGE_FILE}"):
            compress(model, out, DEPTH, restart=restart)
    assert (out / "01-depth" / "mine").exists()


def test_skipped_stages_keep_their_numbers(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    recipe = recipe_of(DEPTH, WIDTH, skips=["depth"])
    assert [stage.directory for stage in recipe.stages] == ["02-width"]
    compress(model, tmp_path / "out", DEPTH, WIDTH)
    values = stage_values(tmp_path / "out", "02-width")
    assert values["options"]["pattern"] == "2:4"
    assert values["record"]["peak_memory_bytes"] > 0


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The nearest thing to a full disk that a process may do to itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_one_error_and_earlier_stages_stay(tmp_path: Path) -> None:
    model, out = toy_model(tmp_path / "m"), tmp_path / "out"
    compress(model, out, DEPTH)
    with file_size_limit(20_000), pytest.raises(EnvironmentFailureError, match="cannot be written"):
        compress(model, out, DEPTH, WIDTH)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["01-depth"]
    rows = compress(model, out, DEPTH, WIDTH)
    assert [row.reused for row in rows] == [True, True, False]


def test_too_little_text_is_found_before_work(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    text = {"calibration": str(text_file(tmp_path, "very little " * 10)), "samples": 10}
    stages = (DEPTH, {"kind": "width", "pattern": "2:4", **text})
    with pytest.raises(ConfigError, match=r"3 windows of 32, allowed 10 windows") as caught:
        compress(model, tmp_path / "out", *stages)
    assert "give more text" in str(caught.value)
    with pytest.raises(ConfigError, match="only with --allow-hub"):
        compress(
            model, tmp_path / "out", {"kind": "width", "pattern": "2:4", "calibration": "hub:x"}
        )
    assert not (tmp_path / "out").exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    with locked(tmp_path / "out"), pytest.raises(EnvironmentFailureError, match="another edgec"):
        compress(model, tmp_path / "out", DEPTH)


def test_places_and_devices(tmp_path: Path) -> None:
    import torch

    model = toy_model(tmp_path / "m")
    for out in (model, model / "inside"):
        with pytest.raises(ConfigError, match="would change the input"):
            compress(model, out, DEPTH)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no directory"):
        compress(model, tmp_path / "file", DEPTH)
    with pytest.raises(EdgecError, match="there is no model"):
        compress(tmp_path / "absent", tmp_path / "out", DEPTH)
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(ConfigError, match="no GPU"):
            choose_device("cuda")


def test_input_with_shards_and_no_tokenizer(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m", shards=3, tied=False)
    (model / "tokenizer.json").unlink()
    compress(model, tmp_path / "out", DEPTH)
    names = {path.name for path in (tmp_path / "out" / "01-depth").iterdir()}
    assert names == {"config.json", "model.safetensors", STAGE_FILE}
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        compress(model, tmp_path / "two", {"kind": "width", "pattern": "2:4"})
