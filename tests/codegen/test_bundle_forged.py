"""Bundles whose hashes fit and whose contents do not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from codegen.bundle import MANIFEST, LoadedBundle
from codegen.bundle_read import load_bundle
from codegen.json_text import pretty
from tests.bundles import seal
from toolchain.model.errors import BundleError
from toolchain.simulate import Simulation


@pytest.fixture
def copy(tiny_bundle: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "bundle"))


def set_json(path: str, *keys: str | int, value: Any) -> Callable[[Path], None]:
    """Replace one value of a JSON file and make all hashes fit again."""

    def spoil(root: Path) -> None:
        document = json.loads((root / path).read_text())
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (root / path).write_bytes(pretty(document))
        seal(root)

    return spoil


def write(path: str, text: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / path).write_text(text)
        if path != MANIFEST:
            seal(root)

    return spoil


def drop(path: str) -> Callable[[Path], None]:
    """Remove a file and its line in the manifest."""

    def spoil(root: Path) -> None:
        (root / path).unlink()
        manifest = json.loads((root / MANIFEST).read_text())
        del manifest["files"][path]
        (root / MANIFEST).write_bytes(pretty(manifest))
        seal(root)

    return spoil


DEEP = '{"format": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}"
NEARLY_DEEP = '{"format": 1, "a": ' + "[" * 900 + "]" * 900 + "}"
PLAN, GOLDEN = "plan.json", "golden/golden.json"
REGION = ("plan", "regions", 0)
PLACEMENT = ("plan", "placements", 0)
OP = ("program", "ops", 2)
LAYOUT = ("program", "tensors", -1, "layout")
FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "deep manifest": (write(MANIFEST, DEEP), r"manifest\.json"),
    "rather deep manifest": (write(MANIFEST, NEARLY_DEEP), r"manifest\.json"),
    "deep plan": (write(PLAN, DEEP), r"plan\.json"),
    "rather deep plan": (write(PLAN, NEARLY_DEEP), r"plan\.json"),
    "deep golden": (write(GOLDEN, DEEP), r"golden\.json"),
    "no such region": (set_json(PLAN, *PLACEMENT, "region", value="x"), r"plan\.json"),
    "region name": (set_json(PLAN, *REGION, "name", value="../x"), r"plan\.json"),
    "capacity": (set_json(PLAN, *REGION, "capacity", value=-1), r"plan\.json: .*capacity -1"),
    "huge": (set_json(PLAN, *PLACEMENT, "size", value=10**400), r"plan\.json: .*size"),
    "float": (set_json(PLAN, *PLACEMENT, "offset", value=0.5), r"plan\.json: .*offset"),
    "bool": (set_json(PLAN, "plan", "cores", value=True), r"plan\.json: .*cores"),
    "plan null": (set_json(PLAN, "plan", value=None), r"plan\.json: plan"),
    "more members": (set_json(PLAN, *REGION, "more", value=1), r"plan\.json: .*more"),
    "missing key": (set_json(PLAN, *REGION, value={"name": "l2"}), r"plan\.json: .*capacity"),
    "op kind": (set_json(PLAN, *OP, "kind", value="jump"), r"plan\.json"),
    "op input": (set_json(PLAN, *OP, "inputs", 2, value="nothing"), r"plan\.json"),
    "no matrix": (set_json(PLAN, *OP, "inputs", 2, value="resid"), r"plan\.json"),
    "op output": (set_json(PLAN, *OP, "outputs", value=[]), r"plan\.json"),
    "no ops": (set_json(PLAN, "program", "ops", value=[]), r"plan\.json"),
    "layers": (set_json(PLAN, "program", "shape", "layers", value=1 << 62), r"plan\.json"),
    "context": (set_json(PLAN, "program", "shape", "context", value=0), r"plan\.json"),
    "layout": (set_json(PLAN, *LAYOUT, value={}), r"plan\.json: .*layout: packing"),
    "requant": (set_json(PLAN, *LAYOUT, "requant", value=1), r"requant: .*true or false"),
    "tensor": (set_json(PLAN, "program", "tensors", 0, "shape", value=[]), r"plan\.json"),
    "target name": (set_json(MANIFEST, "target", value="rv32"), r"manifest\.json: target"),
    "plan target": (set_json(PLAN, "plan", "target", value="rv32"), r"plan\.json: .*target"),
    "graph hash": (set_json(MANIFEST, "graph_hash", value="00"), r"manifest\.json: graph hash"),
    "prefix": (set_json(MANIFEST, "prefix", value="Evil; rm"), r"manifest\.json: prefix"),
    "no settings": (set_json(MANIFEST, "settings", value={}), r"manifest\.json: .*vocab_size"),
    "settings null": (set_json(MANIFEST, "settings", value=None), r"manifest\.json: settings"),
    "eos": (set_json(MANIFEST, "settings", "eos_token_ids", value=2), r"manifest\.json: .*eos"),
    "bos": (set_json(MANIFEST, "settings", "bos_token_id", value=97), r"manifest\.json: .*bos"),
    "limit": (
        set_json(MANIFEST, "settings", "memory", "regions", value={"l1": 1 << 40}),
        r"target\.toml of the bundle .*\n.*--region l1",
    ),
    "pins": (set_json(MANIFEST, "settings", "memory", "pins", value=["x"]), r"target\.toml"),
    "no limits": (set_json(MANIFEST, "settings", "memory", value=None), r"settings: memory"),
    "digests": (set_json(MANIFEST, "weights", value={}), r"manifest\.json: weights"),
    "golden op": (set_json(GOLDEN, "records", 0, 1, value=-1), r"golden\.json: records\[0\]"),
    "golden offset": (set_json(GOLDEN, "records", 0, 5, value=-9), r"golden\.json: records\[0\]"),
    "golden end": (set_json(GOLDEN, "records", 0, 5, value=1 << 40), r"golden\.bin ends"),
    "golden crc": (set_json(GOLDEN, "records", 0, 4, value="0x1"), r"golden\.json: records\[0\]"),
    "golden token": (set_json(GOLDEN, "tokens", 0, value=97), r"golden\.json: tokens"),
    "golden tokens": (set_json(GOLDEN, "tokens", value=None), r"golden\.json: tokens"),
    "golden ops": (set_json(GOLDEN, "ops", 0, "id", value="x"), r"golden\.json: ops"),
    "golden hash": (set_json(GOLDEN, "graph_hash", value="00"), r"golden\.json belongs"),
    "target text": (write("target.toml", "= nonsense"), r"target\.toml .* is not TOML"),
    "target value": (write("target.toml", "cores = 1"), r"target\.toml .* is not valid"),
    "target depth": (write("target.toml", "a = " + "[" * 9000), r"target\.toml"),
    "no target": (drop("target.toml"), r"target\.toml: found nothing"),
    "no blob": (drop("weights/tile_sram.bin"), r"weights/tile_sram\.bin: found nothing"),
    "no tokenizer": (drop("tokenizer/tokenizer.json"), r"tokenizer\.json: found nothing"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_contents_are_not_trusted_because_hashes_fit(copy: Path, forgery: str) -> None:
    spoil, message = FORGERIES[forgery]
    spoil(copy)
    with pytest.raises(BundleError, match=message) as error:
        load_bundle(copy)
    assert len(str(error.value)) < 100_000


def places_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(item, (*path, key))


@pytest.mark.parametrize("name", [PLAN, GOLDEN, MANIFEST])
def test_any_forged_value_loads_or_is_a_bundle_error(copy: Path, name: str) -> None:
    random = Random(name)
    places = list(places_in(json.loads((copy / name).read_text())))
    originals = {path: (copy / path).read_bytes() for path in (name, MANIFEST)}
    values: tuple[Any, ...] = (None, -1, 1 << 62, "x", "mram", [], {}, True, 0.5)
    for value in values:
        for place in random.sample(places, 4):
            if place == ("files",):
                continue  # seal needs them
            set_json(name, *place, value=value)(copy)
            with contextlib.suppress(BundleError):
                load_bundle(copy)
            for path, data in originals.items():
                (copy / path).write_bytes(data)
    load_bundle(copy)


def test_a_broken_tokenizer_in_a_bundle_is_the_bundle_s_fault(copy: Path) -> None:
    write("tokenizer/tokenizer.json", "{")(copy)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Simulation.load(copy)


def test_what_cannot_be_read_is_one_error(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="too long"):
        load_bundle(copy / ("x" * 300))
    (copy / "weights.S").unlink()
    os.mkfifo(copy / "weights.S")
    with pytest.raises(BundleError, match=r"weights\.S: found something else"):
        load_bundle(copy)
    original = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == "plan.json":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=r"plan\.json cannot be read: Permission denied"):
        load_bundle(copy)
