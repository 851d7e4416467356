"""Memories of the byte-true machine: every byte knows which buffer wrote it last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolchain.model.errors import InternalError, Problem

PATTERN = 0xA5  # unwritten memory, also what the C runners fill their arenas with
NOBODY, BLOB = 0, 1


class MemoryFaultError(InternalError):
    """The plan made the machine read a byte that does not hold what the op expects."""


class Memory:
    """Bytes of one region and the buffer that wrote each of them."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.bytes = np.full(size, PATTERN, np.uint8)
        self.owner = np.full(size, NOBODY, np.int32)

    def write(self, offset: int, data: npt.NDArray[np.uint8], owner: int) -> None:
        """Store bytes and take possession of them; MemoryFaultError past the planned bytes."""
        if not 0 <= offset <= self.bytes.size - data.size:
            raise MemoryFaultError(
                "the plan lets an op write outside the region",
                [Problem(self.name, f"bytes {offset}..{offset + data.size}", str(self.bytes.size))],
            )
        self.bytes[offset : offset + data.size] = data
        self.owner[offset : offset + data.size] = owner

    def read(self, offset: int, size: int, owner: int, what: str) -> npt.NDArray[np.uint8]:
        """Bytes that `owner` wrote; MemoryFaultError names the first byte that it did not."""
        wrong = self.owner[offset : offset + size] != owner
        if wrong.any() or wrong.size != size:
            at = offset + int(np.argmax(wrong))
            raise MemoryFaultError(
                "the plan lets an op read memory that does not hold its operand",
                [Problem(f"{what} at {self.name}+{at}", "unwritten or overwritten", "live data")],
            )
        return self.bytes[offset : offset + size]
