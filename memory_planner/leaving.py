"""The order in which weights leave the chip: first those of which a byte costs least to stream."""

from __future__ import annotations

from memory_planner.blobs import bytes_read, in_order_of_use
from memory_planner.target import TargetSpec
from toolchain.model.adapters import is_of_head
from toolchain.model.program import Kind, Program


def leaving_orders(program: Program, target: TargetSpec) -> list[list[str]]:
    """Orders in which weights may leave the chip, cheapest first, the usual one first.

    Those that the user pinned there lead, then those of more bytes than every region has.
    An embedding costs one record per token. Weights of blocks overlap with the block before, best
    when all blocks stream about as much: role by role, large ones first, and within a role from
    the last block, so that the first, whose stream nothing hides, has least. A head is read while
    nothing else runs.
    The other orders are those of chips with less room: in them more weights are larger than every
    region. Whatever is found on a smaller chip is found on a larger one too.
    """
    assert target.off_chip is not None
    layers, read = layers_of(program), bytes_read(program)
    names = [spec.name for spec in in_order_of_use(program, Kind.WEIGHT)]
    pins = {name: target.pinned(name) for name in names}
    pinned = [name for name in names if pins[name] == target.off_chip.region]
    free = [name for name in names if pins[name] is None and not is_of_head(name)]
    size = {name: program.tensors[name].size for name in free}
    rows = [name for name in size if read[name] < size[name]]
    blocks = [name for name in size if name in layers]
    blocks.sort(key=lambda name: (-size[name], name.partition(".")[2], -layers[name]))
    heads = [name for name in size if name not in rows and name not in layers]
    rooms = [target.region(name) for name in target.placement["weights"]]
    most = max(room.size - room.reserved for room in rooms)
    sizes = {s.size for s in program.tensors.values() if s.kind is Kind.WEIGHT and s.size <= most}
    orders: list[list[str]] = []
    for limit in (most, *(n - 1 for n in sorted(sizes, reverse=True))):
        huge = [name for name in size if size[name] > limit]
        order = list(dict.fromkeys([*pinned, *huge, *rows, *blocks, *heads]))
        if order not in orders:
            orders.append(order)
    return orders


def layers_of(program: Program) -> dict[str, int]:
    """The first block that reads each weight of a block."""
    found: dict[str, int] = {}
    for op in program.ops:
        for name in op.inputs:
            if op.layer >= 0 and program.tensors[name].kind is Kind.WEIGHT:
                found.setdefault(name, op.layer)
    return found
