"""The steps of a verification: which tokens, and the comparison of dumps with the simulator.

The simulator runs once, step by step, and the dumps of all runs are read beside it: one step of
expected values is in memory at a time, whatever the length of the context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import BinaryIO

from codegen.bundle import LoadedBundle
from codegen.golden import build_golden, check_bytes, expected_records, selftest_bytes
from codegen.serialize import graph_hash
from sim.compare import Comparison, compare_records
from sim.dump import END_OF_STEP, HEADER, MAGIC, Dump, read_dump
from sim.golden import Expected, Golden, OpSpec
from sim.machine import Record, run_steps
from toolchain.model.errors import ConfigError, MismatchError, Problem
from toolchain.model.program import OpKind, Program

# Compared positions where the cache is read in place; the chunks of the targets that have some
# are of this order, and the same kernels run.
IN_PLACE_CHUNK = 64
SELFTEST = "golden/selftest.bin"
CHECKS = "golden/checks.bin"
COMPILE_AGAIN = "compile the model again with this edgec"
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


class PromptFile(DumpFile):
    """The comparison of a dump of prompts of `prompt` tokens, prompt by prompt.

    Ops from the index `behind` on run for the last token of a prompt alone.
    """

    def __init__(self, path: Path, ops: Sequence[OpSpec], prompt: int, behind: int) -> None:
        super().__init__(path, ops)
        self._prompt, self._behind = prompt, behind
        self._steps: list[Sequence[Expected]] = []

    def take(self, expected: Sequence[Expected]) -> None:
        """Hold the step back until its prompt is complete."""
        self._steps.append(expected)
        if len(self._steps) == self._prompt:
            self._compare()

    def finish(self) -> Comparison:
        """The result over all prompts."""
        if self._steps:
            self._compare()
        return super().finish()

    def _compare(self) -> None:
        *others, last = self._steps
        held = [record for step in others for record in step if record.op < self._behind]
        self._steps = []
        super().take([*held, *last])


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

    def watch(records: Iterable[Record]) -> Iterator[Record]:
        for step, group in groupby(records, key=lambda record: record.step):
            trace = list(group)
            if step < steps:
                expected = tuple(expected_records(program, trace))
                for file in files:
                    file.take(expected)
                nexts.append(_next_of(program, trace))
            yield from trace

    records = watch(run_steps(program, bundle.plan, bundle.blobs, tokens))
    per_step = sum(len(op.outputs) for op in program.ops)
    check_golden(bundle, islice(records, per_step * len(golden.tokens)))
    for _ in records:  # behind the golden steps there is nothing to do but to watch
        pass
    return tuple(nexts)


def _next_of(program: Program, trace: Sequence[Record]) -> int:
    """The token that a step proposes, from its records."""
    last = next(op.id for op in program.ops if op.kind is OpKind.ARGMAX)
    return next(int(record.value.reshape(-1)[0]) for record in trace if record.op == last)


def check_golden(bundle: LoadedBundle, trace: Iterable[Record]) -> None:
    """Raise MismatchError unless the golden files say what the simulator computes."""
    golden = bundle.golden
    program = bundle.program
    fresh = build_golden(program, graph_hash(program, bundle.plan), golden.tokens, trace)
    problems = []
    if fresh != golden:
        problems.append(_golden_problem(fresh, golden))
    if selftest_bytes(fresh) != stored_selftest(bundle):
        problems.append(Problem(SELFTEST, "other tokens or logits", "the simulator's"))
    if problems:
        raise MismatchError(
            "the golden files disagree with the simulator", problems, fix=COMPILE_AGAIN
        )


def check_selftest(bundle: LoadedBundle) -> None:
    """Raise MismatchError unless the data of self-test and checker are those of golden.json.

    The programs take their tokens from there, so this comes before any of them runs.
    """
    expected = {SELFTEST: selftest_bytes(bundle.golden), CHECKS: check_bytes(bundle.golden)}
    problems = [
        Problem(path, "other tokens or outputs", "those of golden.json")
        for path, data in expected.items()
        if (bundle.directory / path).read_bytes() != data
    ]
    if problems:
        raise MismatchError("the golden files disagree with each other", problems, COMPILE_AGAIN)


def stored_selftest(bundle: LoadedBundle) -> bytes:
    """The self-test's data as they are linked."""
    return (bundle.directory / SELFTEST).read_bytes()


def _golden_problem(fresh: Golden, stored: Golden) -> Problem:
    for want, got in zip(fresh.records, stored.records, strict=False):
        if want != got:
            op = fresh.ops[want.op]
            where = f"golden.json: step {want.step}, {op.id}, {op.outputs[want.output].tensor}"
            return Problem(where, f"CRC-32 {got.crc32:08x}", f"{want.crc32:08x}")
    return Problem("golden.json", "other tokens, ops or records", "the simulator's")
