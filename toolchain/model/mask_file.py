"""Reads masks.safetensors, the bitmaps of removed weights (format: toolchain/compress/masks.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolchain.model.errors import CheckpointError, Problem

MASKS_FILE = "masks.safetensors"
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """`keep` (n_out, n_in), bool; `pattern` like "2:4" (removed of every) or None."""

    keep: Bools
    pattern: str | None = None


def read_masks(directory: Path) -> dict[str, Mask]:
    """The masks of a checkpoint by weight name, none if it is dense; CheckpointError if broken."""
    path = directory / MASKS_FILE
    if not path.exists():
        return {}
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - most models have no masks

    try:
        with safe_open(path, framework="np") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["masks"])
            return {
                name: Mask(_unpack(file.get_tensor(name), fact["inputs"]), fact["pattern"])
                for name, fact in facts.items()
            }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        problem = Problem(str(path), f"an unreadable file ({error})", "masks that edgec wrote")
        raise CheckpointError("the masks are broken", [problem]) from error


def _unpack(packed: npt.NDArray[np.uint8], inputs: int) -> Bools:
    return np.unpackbits(packed, axis=1, count=inputs, bitorder="little").astype(bool)
