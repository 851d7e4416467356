"""The bandwidth bound: what one token costs at least, were all work free.

A token must read every weight of its linears once, one row of the embedding and of the position
tables, the other tables and the KV cache up to its position. Each byte crosses the port of the
region in which it lies, at the port's full rate; ports work at the same time, so the busiest one
is the bound. Bytes that are in the cores' fast memory from the start cross none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory_planner.blobs import op_reads
from memory_planner.target import ENGINE_PORT
from sim.op_cycles import port_of
from sim.step import Step
from sim.streams import stream_link
from toolchain.model.engine_packing import WORD_SIZE
from toolchain.model.program import Kind, OpKind

WEIGHTS, KV_CACHE, TABLES = "weights", "kv_cache", "tables"


@dataclass(frozen=True, slots=True)
class LinkUse:
    """Bytes that must cross a link, or the engine's weight port, for one token.

    Links of one name are one bus.
    """

    link: str
    bytes_per_cycle: float
    off_chip: bool
    weights: int = 0
    kv_cache: int = 0
    tables: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.weights + self.kv_cache + self.tables

    @property
    def cycles(self) -> int:
        """What they take at least."""
        return round(self.size / self.bytes_per_cycle)

    def to_dict(self) -> dict[str, object]:
        """The use as JSON values."""
        return {
            "link": self.link,
            "off_chip": self.off_chip,
            "bytes_per_cycle": self.bytes_per_cycle,
            "size": self.size,
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "tables": self.tables,
            "cycles": self.cycles,
        }


def link_uses(step: Step) -> tuple[LinkUse, ...]:
    """The bytes of one token by link, in the target's order."""
    target = step.context.target
    outside = target.off_chip.region if target.off_chip else None
    off_chip = {link.name for link in target.links if outside in link.sources}
    rates = {link.name: link.bytes_per_cycle for link in target.links}
    if step.context.plan.engine:
        rates[ENGINE_PORT] = WORD_SIZE  # the weight port: a word per cycle
    sums = {name: dict.fromkeys((WEIGHTS, KV_CACHE, TABLES), 0) for name in rates}
    for name, what, size in _reads(step):
        sums[name][what] += size
    return tuple(LinkUse(name, rates[name], name in off_chip, **sums[name]) for name in sums)


def bound_cycles(uses: tuple[LinkUse, ...]) -> int:
    """Cycles of the busiest link, at least 1."""
    return max(1, *(use.cycles for use in uses))


def _reads(step: Step) -> Iterator[tuple[str, str, int]]:
    """Link, class of data and bytes."""
    context = step.context
    for op, cycles in zip(context.program.ops, step.cycles, strict=True):
        for name, size in cycles.moved:
            yield name, KV_CACHE if op.kind is OpKind.ATTENTION else WEIGHTS, size
    link = stream_link(context.plan, context.target)
    if link:
        for stream in step.streams.streams:
            yield link.name, WEIGHTS, stream.size
    yield from _small_reads(step)


def _small_reads(step: Step) -> Iterator[tuple[str, str, int]]:
    """Tables, and the row of an embedding that no linear reads, once per token."""
    program, plan, target = step.context.program, step.context.plan, step.context.target
    linears = {program.weight_of(op).name for op in program.ops if op.kind is OpKind.LINEAR}
    sizes: dict[str, int] = {}
    for op, cycles in zip(program.ops, step.cycles, strict=True):
        for spec in (program.tensors[name] for name in op.inputs):
            row = op.kind is OpKind.EMBED and not cycles.moved and spec.name not in linears
            table = spec.kind is Kind.CONST and spec.layout is None  # others are moved by the op
            if table or (spec.kind is Kind.WEIGHT and row):
                sizes[spec.name] = max(sizes.get(spec.name, 0), op_reads(op, spec))
    for name, size in sizes.items():
        link = port_of(target, plan.placements[name].region)
        if link:
            kind = program.tensors[name].kind
            yield link.name, WEIGHTS if kind is Kind.WEIGHT else TABLES, size
