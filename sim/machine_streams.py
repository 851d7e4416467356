"""Off-chip weights of the byte-true simulator: what is in the slots of the streams, and when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from memory_planner.plan import Plan
from sim.memory import BLOB, NOBODY, PATTERN, Memory


class StreamSlots:
    """Moves the streams of a plan as the generated code does; nothing without streams."""

    def __init__(self, plan: Plan, memories: Mapping[str, Memory], owner: int) -> None:
        self._streams = plan.streams
        self._memories, self._owner = memories, owner
        self._end = plan.streams.count if plan.streams else 0  # then comes the first one again
        if plan.streams:
            self._place = plan.placements[plan.streams.buffer]
        self.finish(0)

    def advance(self, index: int) -> None:
        """The weights of a stream are there; those of the next one are then under way."""
        if index:
            self.finish(index)
        following = index + 1 if index + 1 < self._end else 0
        if (index ^ following) & 1:
            self._start(following)

    def expect_head(self, expected: bool) -> None:
        """Whether the head follows the blocks, or the blocks of other tokens of a prompt."""
        if self._streams:
            blocks = self._streams.head
            self._end = blocks if blocks and not expected else self._streams.count

    def rewind(self) -> None:
        """Behind the blocks of tokens without a head: the first stream is there again."""
        if self._streams and self._streams.head:
            if self._streams.head % 2:
                self._start(0)
            self.finish(0)

    def finish(self, index: int) -> None:
        """The bytes of a stream have arrived."""
        streams = self._streams
        stream = streams.stream(index) if streams else None
        if streams and stream:
            source = self._memories[streams.region]
            data = source.read(stream.source_offset, stream.size, BLOB, f"stream {index}")
            self._write(index, data, self._owner)

    def _start(self, index: int) -> None:
        """From now on until its end the slot of the stream holds nothing that can be read."""
        streams = self._streams
        if streams and streams.stream(index):
            self._write(index, np.full(streams.slot_size, PATTERN, np.uint8), NOBODY)

    def _write(self, index: int, data: np.ndarray, owner: int) -> None:  # type: ignore[type-arg]
        assert self._streams is not None
        offset = self._streams.slot(index)
        assert offset + data.size <= self._place.size, f"{self._place.name} is written past its end"
        self._memories[self._place.region].write(self._place.offset + offset, data, owner)
