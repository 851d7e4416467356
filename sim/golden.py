"""Golden vectors: what every op must write, for given tokens. Reader and writer of one format.

`golden.json` holds the tokens, the ops with their outputs, and one row per expected tensor:
[step, op, output, size in bytes, CRC-32, offset in golden.bin or null]. `golden.bin` holds the
bytes of the rows that have an offset; the other rows are known by their CRC alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.model.errors import BundleError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One output of an op, as it is recorded."""

    tensor: str
    dtype: str  # NumPy name of the element type, little-endian in memory


@dataclass(frozen=True, slots=True)
class OpSpec:
    """An op and its outputs, in the order of their indices."""

    id: str
    outputs: tuple[OutputSpec, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected value of one output of one op in one step."""

    step: int
    op: int  # index in Golden.ops
    output: int  # index in OpSpec.outputs
    size: int  # bytes
    crc32: int
    data: bytes | None  # None when only the CRC is kept


@dataclass(frozen=True, slots=True)
class Golden:
    """Expected values in schedule order."""

    graph_hash: str  # of the code and blobs that they belong to, in hex
    tokens: tuple[int, ...]  # fed at positions 0, 1, ...
    next_tokens: tuple[int, ...]  # argmax after each
    ops: tuple[OpSpec, ...]
    records: tuple[Expected, ...]


def golden_to_json(golden: Golden) -> tuple[dict[str, Any], bytes]:
    """The value of golden.json and the bytes of golden.bin."""
    blob = bytearray()
    rows: list[list[object]] = []
    for record in golden.records:
        offset = None
        if record.data is not None:
            offset = len(blob)
            blob += record.data
        rows.append(
            [record.step, record.op, record.output, record.size, f"{record.crc32:08x}", offset]
        )
    value = {
        "format": FORMAT_VERSION,
        "graph_hash": golden.graph_hash,
        "tokens": list(golden.tokens),
        "next_tokens": list(golden.next_tokens),
        "ops": [
            {"id": op.id, "outputs": [[output.tensor, output.dtype] for output in op.outputs]}
            for op in golden.ops
        ],
        "records": rows,
    }
    return value, bytes(blob)


def golden_from_json(value: dict[str, Any], blob: bytes) -> Golden:
    """The inverse of `golden_to_json`; raises BundleError when the two files disagree."""
    if value.get("format") != FORMAT_VERSION:
        raise BundleError(
            f"golden.json has format {value.get('format')!r}, this edgec reads {FORMAT_VERSION}"
        )
    try:
        return Golden(
            graph_hash=value["graph_hash"],
            tokens=tuple(value["tokens"]),
            next_tokens=tuple(value["next_tokens"]),
            ops=tuple(
                OpSpec(op["id"], tuple(OutputSpec(*output) for output in op["outputs"]))
                for op in value["ops"]
            ),
            records=tuple(_expected(row, blob) for row in value["records"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BundleError(f"golden.json is not a golden file: {error!r}") from error


def _expected(row: Sequence[Any], blob: bytes) -> Expected:
    step, op, output, size, crc, offset = row
    data = None if offset is None else blob[offset : offset + size]
    if data is not None and len(data) != size:
        raise BundleError(f"golden.bin ends before byte {offset + size}, which golden.json names")
    return Expected(step, op, output, size, int(crc, 16), data)


def read_golden(directory: Path) -> Golden:
    """The golden files of `directory`: a `golden/` folder, or a bundle that has one."""
    folder = directory / "golden" if (directory / "golden").is_dir() else directory
    try:
        value = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
        blob = (folder / "golden.bin").read_bytes()
        return golden_from_json(value, blob)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"no golden vectors in {directory}: {error}") from error
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise BundleError(f"golden.json in {directory} is not one of edgec: {error!r}") from error
