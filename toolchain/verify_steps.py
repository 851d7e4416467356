"""The steps of a verification: which tokens, and the comparison of dumps with the simulator.

The simulator runs once, step by step, and the dumps of all runs are read beside it: one step of
expected values is in memory at a time, whatever the length of the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import BinaryIO

from codegen.bundle import LoadedBundle
from codegen.golden import build_golden, expected_records, op_specs, selftest_bytes
from codegen.serialize import graph_hash
from sim.compare import Comparison, compare_records
from sim.dump import END_OF_STEP, HEADER, MAGIC, Dump, read_dump
from sim.golden import Expected, Golden, OpSpec
from sim.machine import Record, run_steps
from toolchain.model.errors import ConfigError, MismatchError, Problem
from toolchain.model.program import OpKind

# Compared positions where the cache is read in place; the chunks of the targets that have some
# are of this order, and the same kernels run.
IN_PLACE_CHUNK = 64
SPREAD = 2654435769  # 2^32 / golden ratio: its multiples spread evenly


def steps_to_compare(bundle: LoadedBundle, asked: int | None) -> int:
    """Steps of the traced runs: into the third chunk of the KV cache, unless `asked` for others.

    Raises ConfigError when `asked` is outside 1..context.
    """
    context = bundle.program.shape.context
    if asked is not None:
        if not 1 <= asked <= context:
            problem = Problem("--steps", str(asked), f"1..{context}")
            raise ConfigError("the context does not have so many steps", [problem])
        return asked
    attention = bundle.plan.attention
    chunk = attention.positions_per_chunk if attention.tile_buffer else IN_PLACE_CHUNK
    return min(context, max(len(bundle.golden.tokens), 2 * chunk + 1))


def token_at(bundle: LoadedBundle, step: int) -> int:
    """Token of a step: the golden one, then those that the bundle's test/main.c computes."""
    if step < len(bundle.golden.tokens):
        return bundle.golden.tokens[step]
    return (step * SPREAD % 2**32) * bundle.program.shape.vocab >> 32


class DumpFile:
    """The comparison of one run's dump file, step by step."""

    def __init__(self, path: Path, ops: Sequence[OpSpec]) -> None:
        self._dumps = dump_steps(path)
        self._ops = ops
        self.result = Comparison(0, 0, 0, 0, None)

    def take(self, expected: Sequence[Expected]) -> None:
        """Compare the next step."""
        dump = next(self._dumps, Dump((), ()))
        self._add(compare_records(dump, self._ops, expected))

    def finish(self) -> Comparison:
        """The result over all steps; what the dump has beyond them is unexpected."""
        for dump in self._dumps:
            self._add(compare_records(dump, self._ops, ()))
        return self.result

    def _add(self, step: Comparison) -> None:
        so_far = self.result
        self.result = Comparison(
            so_far.ops_compared + step.ops_compared,
            so_far.ops_equal + step.ops_equal,
            so_far.missing + step.missing,
            so_far.unexpected + step.unexpected,
            so_far.first_divergence or step.first_divergence,
        )


def dump_steps(path: Path) -> Iterator[Dump]:
    """The dump of each step in a file; raises BundleError as `read_dump`."""
    with path.open("rb") as file:
        for data in _step_bytes(file):
            yield read_dump(data, path.name)


def _step_bytes(file: BinaryIO) -> Iterator[bytes]:
    """The file cut behind each end of a step, and at anything that is not a record."""
    step = bytearray()
    while head := file.read(HEADER.size):
        step += head
        end = len(head) < HEADER.size
        if not end:
            magic, _, op, _, size = HEADER.unpack(head)
            end = magic != MAGIC or op == END_OF_STEP
            step += file.read(size) if magic == MAGIC else b""
        if end:
            yield bytes(step)
            step.clear()
    if step:
        yield bytes(step)


def compare_with_simulator(
    bundle: LoadedBundle, steps: int, files: Sequence[DumpFile]
) -> tuple[int, ...]:
    """Simulate the golden steps and the first `steps`, feeding `files` on the way.

    Returns the token that each of the first `steps` proposes. Raises MismatchError when the golden
    files say anything else than the simulator.
    """
    program, golden = bundle.program, bundle.golden
    count = max(steps, len(golden.tokens))
    tokens = [token_at(bundle, step) for step in range(count)]
    nexts: list[int] = []
    trace = _watched(bundle, run_steps(program, bundle.plan, bundle.blobs, tokens), files, nexts)
    outputs = sum(len(op.outputs) for op in program.ops)
    steps_seen = chain.from_iterable(islice(trace, steps))
    rest = chain.from_iterable(trace)
    records = chain(steps_seen, rest)
    check_golden(bundle, islice(records, outputs * len(golden.tokens)))
    for _ in records:
        pass
    return tuple(nexts[:steps])
