"""Writing safetensors files: what the system refuses becomes an edgec error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from toolchain.model.errors import EnvironmentFailureError


def save_tensors(
    tensors: dict[str, Any], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write torch tensors by name; raises EnvironmentFailureError when the disk is full."""
    try:
        save_file(tensors, path, metadata=None if metadata is None else dict(metadata))
    except (OSError, SafetensorError) as error:
        what = f"{path.name} cannot be written: {error}"
        raise EnvironmentFailureError(what, fix="make room, then run the same again") from error
