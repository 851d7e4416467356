"""Which region holds each read-only tensor and each state tensor.

What is read most per byte comes first: every byte of a linear is read once per token, of the
embedding and of position tables one row. Ties are in program order. A tensor takes the first
region of its class with room, and is never split. When no region has room left it goes to the
last one, which then exceeds its capacity: the caller finds and reports every such region at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from memory_planner.footprint import (
    BLOB_ENTRY_SIZE,
    BLOB_HEADER_ALIGN,
    BLOB_HEADER_SIZE,
    blob_header_size,
)
from memory_planner.target import MemoryRegion, TargetSpec, align_up
from memory_planner.two_regions import split
from toolchain.model.packing import WeightLayout
from toolchain.model.program import (
    Kind,
    Op,
    OpKind,
    Program,
    TensorSpec,
    is_prompt_words,
)


@dataclass(frozen=True, slots=True)
class Blob:
    """The read-only part of one region. Offsets count from the region's base."""

    region: str
    base: int
    header: int
    offsets: Mapping[str, int]  # in blob order
    size: int  # header and tensors, padded to the alignment; 0 without tensors


class _Shelves:
    """Read-only tensors by region while they are being placed; `taken` bytes are not free."""

    def __init__(self, target: TargetSpec, taken: Mapping[str, int]) -> None:
        self.target = target
        self.contents: dict[str, list[TensorSpec]] = {r.name: [] for r in target.regions}
        self._used = {r.name: r.reserved + taken.get(r.name, 0) for r in target.regions}

    def free(self, name: str, spec: TensorSpec) -> int:
        """Bytes left of a region with `spec` in it; negative when it does not fit."""
        region = self.target.region(name)
        header = _header_size(region, len(self.contents[name]) + 1)
        return region.size - self._used[name] - header - align_up(spec.size, region.align)

    def put(self, name: str, spec: TensorSpec) -> None:
        self.contents[name].append(spec)
        self._used[name] += align_up(spec.size, self.target.region(name).align)

    def put_pinned(self, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
        """Place what the user pinned; the rest."""
        pinned = {spec.name: self.target.pinned(spec.name) for spec in specs}
        for spec in specs:
            region = pinned[spec.name]
            if region:
                self.put(region, spec)
        return [spec for spec in specs if not pinned[spec.name]]

    def put_first_fit(self, specs: Sequence[TensorSpec], regions: Sequence[str]) -> None:
        """Each tensor into the first region with room."""
        for spec in specs:
            self.put(_first_with_room({name: self.free(name, spec) for name in regions}), spec)

    def put_whole(self, groups: Sequence[list[TensorSpec]], name: str) -> list[TensorSpec]:
        """Each group into one region, if it has room for all of it; what is there then."""
        placed: list[TensorSpec] = []
        region = self.target.region(name)
        for group in groups:
            size = sum(align_up(spec.size, region.align) for spec in group)
            header = _header_size(region, len(self.contents[name]) + len(group))
            if self._used[name] + header + size <= region.size:
                for spec in group:
                    self.put(name, spec)
                placed += group
        return placed

    def put_packed(self, specs: Sequence[TensorSpec], regions: Sequence[str]) -> None:
        """As first fit does, or in any other way in which two regions have room for all."""
        contents = {name: list(held) for name, held in self.contents.items()}
        used = dict(self._used)
        self.put_first_fit(specs, regions)
        if len(regions) != 2 or all(self._room(name) >= 0 for name in regions):
            return
        fitting = self.contents, self._used
        self.contents, self._used = contents, used
        inside = self._split(specs, regions)
        if inside is None:
            self.contents, self._used = fitting
            return
        for spec, first in zip(specs, inside, strict=True):
            self.put(regions[0] if first else regions[1], spec)

    def _split(self, specs: Sequence[TensorSpec], regions: Sequence[str]) -> list[bool] | None:
        align = max(self.target.region(name).align for name in regions)
        entry = BLOB_ENTRY_SIZE  # in the header
        sizes = [align_up(spec.size, align) + entry for spec in specs]
        rooms = []
        for name in regions:
            region, held = self.target.region(name), len(self.contents[name])
            header = BLOB_HEADER_SIZE + entry * held + max(BLOB_HEADER_ALIGN, region.align) - entry
            rooms.append(region.size - self._used[name] - header)
        return split(sizes, rooms[0], rooms[1], min(align, entry))

    def _room(self, name: str) -> int:
        """Bytes left of a region; negative when it has too much."""
        region, held = self.target.region(name), len(self.contents[name])
        header = _header_size(region, held) if held else 0
        return region.size - self._used[name] - header


def place_blobs(
    program: Program,
    target: TargetSpec,
    *,
    aside: bool = False,
    beside: Mapping[str, int] | None = None,
) -> dict[str, Blob]:
    """The blobs of all regions without off-chip memory: weights are placed before constants.

    `aside`: constants leave the regions of weights and state to those, wherever they can.
    `beside`: bytes that the arenas of regions have taken. What is left there holds constants that
    a token reads as a whole, those of a role for all blocks or for none: equal blocks run the same
    code.
    """
    shelves = _Shelves(target, beside or {})
    weights = [spec for spec in by_value(program, Kind.WEIGHT) if not is_prompt_words(spec)]
    rest = shelves.put_pinned(weights)
    shelves.put_first_fit(rest, target.placement["weights"])
    rest = shelves.put_pinned(by_value(program, Kind.CONST))
    read = bytes_read(program)
    for name in beside or ():
        whole = [spec for spec in rest if read.get(spec.name, 0) >= spec.size]
        near = {spec.name for spec in shelves.put_whole(_by_readers(program, whole), name)}
        rest = [spec for spec in rest if spec.name not in near]
    shelves.put_first_fit(rest, _aside(target) if aside else target.placement["constants"])
    _put_copies(program, target, shelves)
    return _blobs(program, shelves)


def _put_copies(program: Program, target: TargetSpec, shelves: _Shelves) -> None:
    """Second copies of words behind all else, those of a block in one region: blocks are alike."""
    blocks: dict[str, list[TensorSpec]] = {}
    for spec in program.tensors.values():
        if is_prompt_words(spec):
            blocks.setdefault(spec.name.partition(".")[0], []).append(spec)
    regions = target.placement["weights"]
    for block in blocks.values():
        for name in regions:
            if shelves.put_whole([block], name):
                break
        else:
            shelves.put_first_fit(block, regions[-1:])


def _by_readers(program: Program, specs: Sequence[TensorSpec]) -> list[list[TensorSpec]]:
    """Tensors in groups of those that the same roles read, in the order of their first ones."""
    roles: dict[str, list[str]] = {}
    for op in program.ops:
        for name in op.inputs:
            roles.setdefault(name, []).append(op.role)
    groups: dict[frozenset[str], list[TensorSpec]] = {}
    for spec in specs:
        groups.setdefault(frozenset(roles.get(spec.name, ())), []).append(spec)
    return list(groups.values())


def _aside(target: TargetSpec) -> tuple[str, ...]:
    """The regions of constants, those that may not hold weights first."""
    return tuple(
        sorted(target.placement["constants"], key=lambda n: n in target.placement["weights"])
    )


def place_blobs_beside(
    program: Program, target: TargetSpec, taken: Mapping[str, int], off_chip: Set[str]
) -> dict[str, Blob]:
    """The blobs when the weights of `off_chip` are outside and arenas have taken their bytes.

    Constants come first, because only weights can leave the chip, and where weights may not lie:
    a byte that sends a weight outside costs more than any load of a constant.
    """
    assert target.off_chip is not None
    shelves = _Shelves(target, taken)
    rest = shelves.put_pinned(by_value(program, Kind.CONST))
    shelves.put_first_fit(rest, _aside(target))
    weights = by_value(program, Kind.WEIGHT)
    for spec in weights:
        if spec.name in off_chip:
            shelves.put(target.off_chip.region, spec)
    rest = shelves.put_pinned([spec for spec in weights if spec.name not in off_chip])
    shelves.put_packed(rest, target.placement["weights"])
    return _blobs(program, shelves)


def place_states(
    program: Program, target: TargetSpec, blobs: Mapping[str, Blob]
) -> dict[str, list[TensorSpec]]:
    """State tensors by region, in what the blobs leave."""
    placed: dict[str, list[TensorSpec]] = {region.name: [] for region in target.regions}
    for spec in in_order_of_use(program, Kind.STATE):
        free = {}
        for name in target.placement["state"]:
            region = target.region(name)
            arena = sum(align_up(s.size, region.align) for s in [*placed[name], spec])
            blob = blobs[name].size if name in blobs else 0
            free[name] = region.size - region.reserved - blob - arena
        placed[target.pinned(spec.name) or _first_with_room(free)].append(spec)
    return placed


@lru_cache(maxsize=2)  # one draft asks for the same program many times
def bytes_read(program: Program) -> Mapping[str, int]:
    """Bytes of each read-only tensor that one token reads, at most."""
    sizes: dict[str, int] = {}
    for op in program.ops:
        for name in op.inputs:
            spec = program.tensors[name]
            if spec.kind in (Kind.WEIGHT, Kind.CONST):
                sizes[name] = sizes.get(name, 0) + op_reads(op, spec)
    return sizes


def op_reads(op: Op, spec: TensorSpec) -> int:
    """Bytes of a read-only tensor that one run of an op reads, at most."""
    if op.kind is OpKind.EMBED and isinstance(spec.layout, WeightLayout):
        return spec.layout.record_size
    if op.kind in (OpKind.EMBED, OpKind.ROPE, OpKind.KV_APPEND):
        return spec.size // spec.shape[0]
    return spec.size


@lru_cache(maxsize=4)
def by_value(program: Program, kind: Kind) -> tuple[TensorSpec, ...]:
    """Tensors of a kind, those first of which a token reads most per byte that is stored."""
    read = bytes_read(program)
    specs = in_order_of_use(program, kind)
    return tuple(sorted(specs, key=lambda spec: -read.get(spec.name, 0) / spec.size))


@lru_cache(maxsize=4)
def in_order_of_use(program: Program, kind: Kind) -> tuple[TensorSpec, ...]:
    """Tensors of a kind in the order in which the schedule touches them first."""
    used = [name for op in program.ops for name in (*op.inputs, *op.outputs)]
    names = dict.fromkeys([*used, *program.tensors])
    return tuple(program.tensors[name] for name in names if program.tensors[name].kind is kind)


def _first_with_room(free: Mapping[str, int]) -> str:
    """The first region whose free bytes stay at or above 0, else the last."""
    return next((name for name, left in free.items() if left >= 0), list(free)[-1])


def _header_size(region: MemoryRegion, tensors: int) -> int:
    return align_up(blob_header_size(tensors), region.align)


def _blobs(program: Program, shelves: _Shelves) -> dict[str, Blob]:
    """Weights before constants, each in program order: blocks of a region are contiguous."""
    specs = [*in_order_of_use(program, Kind.WEIGHT), *in_order_of_use(program, Kind.CONST)]
    places = {spec.name: index for index, spec in enumerate(specs)}
    return {
        region.name: _blob(
            region, sorted(shelves.contents[region.name], key=lambda spec: places[spec.name])
        )
        for region in shelves.target.regions
    }


def _blob(region: MemoryRegion, specs: Sequence[TensorSpec]) -> Blob:
    if not specs:
        return Blob(region.name, region.reserved, 0, {}, 0)
    header = _header_size(region, len(specs))
    offsets = {}
    end = region.reserved + header
    for spec in specs:
        offsets[spec.name] = end
        end += align_up(spec.size, region.align)
    return Blob(region.name, region.reserved, header, offsets, end - region.reserved)
