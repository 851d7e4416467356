"""The safetensors files of a directory, with tensors of any dtype, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open

from toolchain.compress.checkpoint import Tensor
from toolchain.model.checkpoint import INDEX_FILE, SINGLE_FILE
from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.json_fields import read_json_object


@dataclass(frozen=True, slots=True, eq=False)
class TensorDirectory:
    """Tensor names and the files that hold them."""

    files: Mapping[str, Path]

    @staticmethod
    def open(directory: Path) -> TensorDirectory:
        """Raises CheckpointError when there are no readable weights."""
        return TensorDirectory({n: path for path in _files(directory) for n in _names(path)})

    def load(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)

    def of_module(self, module: str) -> dict[str, Tensor]:
        """All tensors whose names begin with a module's."""
        names = [name for name in self.files if name.startswith(f"{module}.")]
        return {name: self.load(name) for name in names}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        problem = Problem(str(path), f"an unreadable file ({error})", "a safetensors file")
        raise CheckpointError("the weights are broken", [problem]) from error


def _files(directory: Path) -> list[Path]:
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if (directory / INDEX_FILE).is_file():
        weight_map = cast("dict[str, str]", read_json_object(directory / INDEX_FILE)["weight_map"])
        return [directory / name for name in sorted(set(weight_map.values()))]
    problem = Problem(str(directory), "nothing", f"{SINGLE_FILE} or {INDEX_FILE}")
    raise CheckpointError("the model has no readable weights", [problem])
