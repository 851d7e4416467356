"""Header of one safetensors file -> validated references to its tensors; the data stays on disk.

Format (huggingface/safetensors, README "Format"): u64 little-endian header length N, N bytes of
JSON that map a name to dtype, shape and [begin, end) within the data, then the data, without gaps.

The header is parsed here because the safetensors library (0.8) cannot give bfloat16 to numpy,
keeps the last of duplicate keys silently, and stops at the first problem without naming its
tensor. Nothing is allocated by a number from the file before that number is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.json_fields import ProblemLog, parse_json_object, show
from toolchain.model.lazy_numpy import np

if TYPE_CHECKING:
    import numpy.typing as npt

FLOAT_SIZES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes per element
SIZES = FLOAT_SIZES | {"I32": 4}  # integers: the packed codes of quantized matrices
MAX_HEADER_SIZE = 16 << 20  # bytes; 512 layers need about 1 MiB
_PREFIX_SIZE = 8
_COMPARE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where one tensor lies: `size` bytes at `offset` from the start of `file`."""

    file: Path
    dtype: str  # a key of SIZES
    shape: tuple[int, ...]
    offset: int
    size: int

    def raw(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, memory-mapped read-only; CheckpointError if the file has changed."""
        if self.size == 0:
            return np.empty(0, dtype=np.uint8)
        try:
            return np.memmap(self.file, np.uint8, "r", offset=self.offset, shape=(self.size,))
        except (OSError, ValueError) as error:
            problem = Problem(str(self.file), f"unreadable data ({error})", "the file as checked")
            raise CheckpointError("a weight file changed while it was read", [problem]) from error

    def read(self) -> npt.NDArray[np.float32]:
        """Floats as a float32 copy, C-contiguous; f16 and bf16 widen exactly."""
        raw = self.raw()
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            wide = (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            wide = raw.view("<f4" if self.dtype == "F32" else "<f2").astype(np.float32)
        # A plain array: what numpy derives from a mapped one still calls itself a memmap.
        return wide.view(np.ndarray).reshape(self.shape)

    def any(self) -> bool:
        """Whether a float is anything but 0 or -0; reads up to the first that is."""
        raw = self.raw()
        size = FLOAT_SIZES[self.dtype]
        magnitude = (1 << (8 * size - 1)) - 1  # without the sign: -0 is 0
        return any(
            (raw[begin : begin + _COMPARE_BYTES].view(f"<u{size}") & magnitude).any()
            for begin in range(0, self.size, _COMPARE_BYTES)
        )

    def equals(self, other: TensorRef) -> bool:
        """Whether both are the same bits of the same type and shape."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        left, right = self.raw(), other.raw()
        # In pieces, so that the comparison needs no array of the tensor's size.
        pieces = (slice(at, at + _COMPARE_BYTES) for at in range(0, self.size, _COMPARE_BYTES))
        return all(np.array_equal(left[piece], right[piece]) for piece in pieces)


def read_header(path: Path, log: ProblemLog) -> dict[str, TensorRef | None] | None:
    """The tensors of one file by name, in stored order; every problem goes to `log`.

    A tensor whose entry is malformed maps to None; None for the whole means no readable header.
    """
    if not path.is_file():
        found = "something that is not a file" if path.exists() else "nothing"
        log.add_broken(str(path), found, "a safetensors file")
        return None
    try:
        file_size = path.stat().st_size
        with path.open("rb") as file:
            header_size = _header_size(file.read(_PREFIX_SIZE), file_size)
            header = parse_json_object(file.read(header_size).decode("utf-8"))
    except (OSError, ValueError) as error:
        log.add_broken(str(path), f"a bad header ({error})", "a safetensors file")
        return None
    header.pop("__metadata__", None)
    data_start = _PREFIX_SIZE + header_size
    refs = {
        name: _parse_entry(path, data_start, name, entry, log) for name, entry in header.items()
    }
    well_formed = {name: ref for name, ref in refs.items() if ref is not None}
    if len(well_formed) == len(refs):  # a malformed entry would look like a gap
        _check_layout(path, well_formed, data_start, file_size, log)
    return refs


def _header_size(prefix: bytes, file_size: int) -> int:
    """The length field, checked against the file and against absurd values."""
    if len(prefix) < _PREFIX_SIZE:
        raise ValueError(f"the file has {file_size} bytes, too few for the length field")
    size = int.from_bytes(prefix, "little")
    if size > file_size - _PREFIX_SIZE:
        raise ValueError(f"its length field says {size} bytes, the file has {file_size}")
    if size > MAX_HEADER_SIZE:
        raise ValueError(f"its length field says {size} bytes, more than {MAX_HEADER_SIZE}")
    return size


def _parse_entry(
    path: Path, data_start: int, name: str, entry: object, log: ProblemLog
) -> TensorRef | None:
    """One header entry; None if it is malformed. An unsupported dtype is noted but kept."""
    where = f"tensor {show(name)} in {path.name}"
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, span = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _is_sizes(shape) and _is_sizes(span) and len(span) == 2):
        log.add_broken(where, show(entry), "dtype, shape and data_offsets [begin, end]")
        return None
    begin, end = span
    if begin > end:
        log.add_broken(where, f"data_offsets {show(span)}", "begin not after end")
        return None
    if dtype not in SIZES:
        log.add_unsupported(where, f"dtype {show(dtype)}", f"one of {', '.join(FLOAT_SIZES)}")
    elif end - begin != math.prod(shape) * SIZES[dtype]:
        needed = f"{math.prod(shape) * SIZES[dtype]} bytes for {dtype} {show(shape)}"
        log.add_broken(where, f"{end - begin} bytes", needed)
    return TensorRef(path, dtype, tuple(shape), data_start + begin, end - begin)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """Whether this is a list of integers >= 0 (a JSON true is no integer)."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(
    path: Path, refs: Mapping[str, TensorRef], data_start: int, file_size: int, log: ProblemLog
) -> None:
    """The tensors must cover the data exactly, in any order of names."""
    expected = data_start
    for name, ref in sorted(refs.items(), key=lambda item: (item[1].offset, item[1].size)):
        if ref.offset != expected:
            kind = "a gap" if ref.offset > expected else "an overlap"
            found = f"data at byte {ref.offset - data_start} ({kind})"
            allowed = f"data at byte {expected - data_start}, the end of the tensor before"
            log.add_broken(f"tensor {show(name)} in {path.name}", found, allowed)
        expected = max(expected, ref.offset + ref.size)
    if expected != file_size:
        kind = "truncated" if file_size < expected else "trailing bytes"
        log.add_broken(str(path), f"{file_size} bytes ({kind})", f"{expected} bytes by its header")
