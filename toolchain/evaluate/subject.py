"""What `edgec eval` is given: a build, a checkpoint directory, or a model of the hub, opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codegen.bundle import MANIFEST
from codegen.bundle_read import load_bundle
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import network_of_float
from toolchain.evaluate.scoring import CausalModel
from toolchain.evaluate.session_model import SessionModel, model_of_build
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import CheckpointError, ConfigError, Problem, ToolError
from toolchain.model.json_fields import read_json_object
from toolchain.model.lora import base_directory
from toolchain.model.tokenizer import (
    TOKENIZER_CONFIG,
    TOKENIZER_FILE,
    Tokenizer,
    adds_bos,
    read_tokenizer,
)
from toolchain.options import BUNDLED_NAME, bundled_model

NUMPY = "numpy"


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model under evaluation with its tokenizer."""

    name: str
    kind: str  # "build", "checkpoint" or "quantized checkpoint"
    engine: str  # what computes: "integer simulator", "NumPy float32", "torch cpu float32"
    model: CausalModel
    tokenizer: Tokenizer
    eos: tuple[int, ...]

    @property
    def start(self) -> int | None:
        """The token that begins a sequence, if the tokenizer puts one there."""
        return self.tokenizer.start


def open_subject(path: Path | None, device: str) -> Subject:
    """Open a build or a checkpoint; None is the model that comes with edgec.

    `device` is `auto`, `numpy`, `cpu`, `cuda` or `cuda:N`; `auto` is torch where it is installed,
    with a GPU where there is one, else NumPy. Raises ConfigError for a device that does not suit,
    BundleError or CheckpointError for a directory that cannot be read.
    """
    directory = path or bundled_model()
    if (directory / MANIFEST).is_file():
        return _open_build(directory, device)
    if not directory.is_dir():
        found = "a file" if directory.exists() else "nothing"
        allowed = "a build, or a checkpoint directory"
        fix = "a model of the hub needs --allow-hub"
        raise ConfigError("there is no model", [Problem(str(directory), found, allowed, fix)])
    name = BUNDLED_NAME if path is None else directory.resolve().name
    if device == NUMPY or (device == "auto" and find_spec("torch") is None):
        return _open_numpy(directory, name)
    return _open_torch(directory, name, device)


def _open_build(directory: Path, device: str) -> Subject:
    if device not in ("auto", NUMPY):
        problem = Problem("--device", device, "auto: a build runs on the integer simulator")
        raise ConfigError("a build does not run there", [problem])
    bundle = load_bundle(directory)
    settings = bundle.manifest["settings"]
    tokenizer = read_tokenizer(
        bundle.tokenizer_path,
        vocab_size=settings["vocab_size"],
        bos_token_id=settings["bos_token_id"],
    )
    return Subject(
        name=directory.resolve().name,
        kind="build",
        engine="integer simulator",
        model=model_of_build(bundle),
        tokenizer=tokenizer,
        eos=tuple(settings["eos_token_ids"]),
    )


def _open_numpy(directory: Path, name: str) -> Subject:
    network = network_of_float(load_model(directory))
    session = FloatSession(network)
    model = SessionModel(session, session.context)
    tokenizer, eos = _read_tokenizer(directory, base_directory(directory))
    return Subject(name, "checkpoint", "NumPy float32", model, tokenizer, eos)


def _open_torch(directory: Path, name: str, device: str) -> Subject:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise ToolError(
            "torch and transformers are not installed",
            fix="pip install 'edgec[compress]', or use --device numpy",
        )
    from toolchain.evaluate import torch_model  # noqa: PLC0415 - torch takes seconds

    base = torch_model.adapter_base(directory) or directory
    tokenizer, eos = _read_tokenizer(directory, base)  # before the long work
    place = torch_model.pick_device(device)
    model, dtype = torch_model.load_torch_model(directory, place)
    packed = torch_model.is_packed(read_json_object(base / "config.json"))
    kind = "quantized checkpoint" if packed else "checkpoint"
    return Subject(name, kind, f"torch {place} {dtype}", model, tokenizer, eos)


def _read_tokenizer(directory: Path, base: Path | None = None) -> tuple[Tokenizer, tuple[int, ...]]:
    """Tokenizer and end tokens of any checkpoint, of an architecture known to edgec or not."""
    holder = directory if (directory / TOKENIZER_FILE).is_file() else base or directory
    config = read_json_object((base or directory) / "config.json")
    text = config.get("text_config")
    fields: dict[str, Any] = {**text, **config} if isinstance(text, dict) else config
    vocab = fields.get("vocab_size")
    if not isinstance(vocab, int):
        problem = Problem("config.json: vocab_size", repr(vocab), "a number of token ids")
        raise CheckpointError("the checkpoint is broken", [problem])
    bos = _ids(fields.get("bos_token_id")) if adds_bos(holder / TOKENIZER_CONFIG) else ()
    tokenizer = read_tokenizer(
        holder / TOKENIZER_FILE, vocab_size=vocab, bos_token_id=next(iter(bos), None)
    )
    return tokenizer, _ids(fields.get("eos_token_id"))


def _ids(value: object) -> tuple[int, ...]:
    values: Sequence[object] = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
