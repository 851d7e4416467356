"""What the planner and the cycle model know about one SoC: `TargetSpec`, and nothing of a model.

Sizes and offsets are bytes, rates bytes per cycle, costs cycles of one core. Where every number
comes from stays with it: `TargetSpec.constants` maps its path in the target file to value, unit,
source and whether it was measured, documented or assumed. Files are read by target_file.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from memory_planner.engine_time import EngineCycles
from memory_planner.fused_costs import FusedCosts


class Status(StrEnum):
    """How far a constant can be trusted."""

    MEASURED = "measured"
    DOCUMENTED = "documented"
    ASSUMED = "assumed"


class Reading(StrEnum):
    """Which of two values counts where the sources of a constant differ."""

    SIMULATOR = "simulator"  # what the SoC's open simulator does
    CONSERVATIVE = "conservative"  # the slower of the sources: RTL, contention, cold code


@dataclass(frozen=True, slots=True)
class Constant:
    """A number of the target file with its provenance."""

    value: float
    unit: str
    source: str
    status: Status
    conservative: float | None = None  # where another source is slower
    span: tuple[float, float] | None = None  # lowest and highest plausible value

    def read(self, reading: Reading) -> float:
        """The value in a reading."""
        slower = reading is Reading.CONSERVATIVE and self.conservative is not None
        return self.conservative if slower and self.conservative is not None else self.value


@dataclass(frozen=True, slots=True)
class Reservation:
    """Bytes at the start of a region that the model may not use."""

    category: str  # stacks, code or reserved: the report's row
    reason: str
    size: int  # of all `count` together
    count: int = 1  # equal parts, one per core


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """One address range. `align` holds for the blob, the arena and every offset in them."""

    name: str
    base: int
    size: int
    align: int  # a power of two
    section: str  # linker section of the blob
    volatile: bool  # loses its content without power: the image must be loaded into it
    load_cycles: float  # one load by a core, in a simple loop
    reservations: tuple[Reservation, ...] = ()

    @property
    def reserved(self) -> int:
        """Reserved bytes, padded to the alignment."""
        return align_up(sum(part.size for part in self.reservations), self.align)

    def reserved_for(self, category: str) -> int:
        """Bytes of the reservations of one category."""
        return sum(part.size for part in self.reservations if part.category == category)


@dataclass(frozen=True, slots=True)
class Link:
    """A path on which data reaches a region or the cores.

    A transfer of n bytes takes max(min_cycles, setup_cycles + n / bytes_per_cycle) cycles.
    """

    name: str
    sources: tuple[str, ...]  # region names
    destination: str  # a region name, or "cores" when they read in place
    bytes_per_cycle: float
    setup_cycles: float
    min_cycles: float
    max_transfer: int  # bytes of one transfer


@dataclass(frozen=True, slots=True)
class Tiling:
    """Weights and KV cache come to the cores through double-buffered tiles in `region`."""

    region: str
    slot_cap: int  # bytes of a slot of cache rows; larger tiles of weights give way first
    positions_cap: int  # cache rows of one slot, likewise
    near_cache: bool = False  # a KV cache for which `region` has room lies there, without slots
    near_constants: bool = False  # of programs with linears on the engine: in what is left


@dataclass(frozen=True, slots=True)
class SparseCosts:
    """Cycles of one core in linears of the packing nm-sparse."""

    kept: Mapping[str, float]  # per stored weight of a whole unit, by index form and dense packing
    tail: float  # per stored weight behind the last whole unit
    row: float  # set-up and requantization of one output
    group: float  # scale group of one output


@dataclass(frozen=True, slots=True)
class BatchCosts:
    """What it means to run an op for several tokens in turn."""

    refetched: float  # of fixed cycles and cold code: what an op saves right behind its like
    select_token: float  # cycles to go over to another token
    piece: float  # of rows by jobs of several tokens, per token: beyond a linear's fixed cycles


@dataclass(frozen=True, slots=True)
class Costs:
    """Cycles of one core per unit of work; sim/cycle_model.py counts the units.

    `rope`, `kv_append` and `attention_merge` come on top of `quantize`.
    """

    mac: Mapping[str, float]  # per multiply-accumulate of a linear, by packing
    linear_row: float  # requantization of one output
    linear_group: float  # combination of one group sum of one output
    embed: float  # per element
    quantize: float  # maximum, then scaling to the quantized vector
    rmsnorm: float
    rope: float
    kv_append: float
    attention_mac: float
    attention_score: float  # softmax and requantization, per head and position
    attention_merge: float
    residual_add: float
    gather: float
    swiglu: float
    argmax: float
    reduction: float  # serial part of an op that reduces over all cores
    barrier: float  # all cores arriving together
    sparse: SparseCosts
    attention_head: float = 0.0  # per head, chunk of the cache and pass over it
    attention_chunk: float = 0.0  # per chunk that is moved and pass
    attention_left: float = 0.0  # more per MAC with the v of rows that fill no group of four
    linear_call: float = 0.0  # per core and tile of a linear
    linear_column: float = 0.0  # per core, tile and element of the vector, of dense kernels
    cold_code: float = 0.0  # least cycles of an op beside its work: code that no cache holds
    # By kind of op: calls, descriptors, and what of its code the instruction cache had lost.
    fixed: Mapping[str, float] = field(default_factory=dict)
    batch: BatchCosts | None = None  # None: prompts run token by token
    fused: FusedCosts | None = None  # None: ops are priced one by one

    def op_end(self, kind: str, counted: float = 0.0) -> float:
        """Cycles of an op of this kind that belong to no unit of work, its last barrier included.

        What was measured as fixed has fetches of code in it, so `cold_code` is not added to it: it
        is what an op costs at least. `counted` are cycles of its start that the caller adds.
        """
        return self.barrier + max(self.fixed.get(kind, 0.0), self.cold_code - counted)


@dataclass(frozen=True, slots=True)
class Span:
    """A quantity that is known within limits."""

    low: float
    nominal: float
    high: float


@dataclass(frozen=True, slots=True)
class Energy:
    """What a token's energy is made of; sim/energy.py says how."""

    power: Mapping[str, Span]  # mW by lane: the cores all the time, an engine while it is busy
    per_byte: Mapping[str, Span]  # pJ by link, and at the engine's weight port
    average: float  # mW of the whole chip, published: what an estimate is held against


@dataclass(frozen=True, slots=True)
class Timing:
    """The fields of a target that depend on the reading."""

    links: tuple[Link, ...]
    costs: Costs
    engine: EngineSpec | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """Tensors whose names match `pattern` (as in fnmatch) lie in `region`."""

    pattern: str
    region: str


@dataclass(frozen=True, slots=True)
class OffChip:
    """Memory that only DMA reads: it takes weights for which no other region has room.

    They pass through a staging buffer in one of `staging`, preferred first.
    """

    region: str
    staging: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine that multiplies vectors by weights that it reads in place, job by job."""

    name: str
    activations: str  # region of its inputs and accumulators
    weights: tuple[str, ...]  # regions that it reads weights from
    weight_base: int  # address from which register 0 counts
    issue_cycles: float  # of core 0, per job: it writes the registers
    stage_cycles: float  # of one core, per staged input
    row_cycles: float  # of one core, per output: requantization
    sum_cycles: float  # of one core, per accumulator that it fetches
    start_cycles: float  # per linear that stages: what comes before the first input
    piece_cycles: float  # per piece: calls, descriptors and their instruction fetches
    cycles: EngineCycles  # of the engine, as the SoC's simulator counts them
    conservative: EngineCycles  # as the public sources of a sibling have it


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """One SoC. `placement` gives the allowed regions of each class of data, preferred first."""

    name: str
    description: str
    cores: int
    clock_hz: int
    regions: tuple[MemoryRegion, ...]
    placement: Mapping[str, tuple[str, ...]]  # weights, constants, state, activations
    links: tuple[Link, ...]
    tiling: Tiling | None  # None: the cores read weights and KV cache in place
    costs: Costs
    constants: Mapping[str, Constant]
    off_chip: OffChip | None = None
    engine: EngineSpec | None = None
    ports: tuple[str, ...] = ()  # of the runtime, beside host and rv32: those of this chip
    pins: tuple[Pin, ...] = ()  # of the user: the last one that matches a name counts
    energy: Energy | None = None  # None: nobody has published figures
    conservative: Timing | None = None  # None: no source differs

    def region(self, name: str) -> MemoryRegion:
        """The region called `name`."""
        return next(region for region in self.regions if region.name == name)

    def link(self, source: str) -> Link:
        """The link on which the cores get data from region `source`."""
        return self.link_between(source, self.tiling.region if self.tiling else CORES)

    def link_between(self, source: str, destination: str) -> Link:
        """The link from region `source` to a region or to the cores."""
        return next(
            link
            for link in self.links
            if source in link.sources and link.destination == destination
        )

    def extra_load(self, source: str) -> float:
        """Cycles by which a load from region `source` is longer than in the kernels as measured."""
        usual = self.region(self.placement["activations"][0]).load_cycles
        return max(0.0, self.region(source).load_cycles - usual)

    def read_as(self, reading: Reading) -> TargetSpec:
        """This target, whose fields are those of the simulator, with the timing of a reading."""
        if reading is Reading.SIMULATOR or self.conservative is None:
            return self
        slower = {(link.name, link.destination): link for link in self.conservative.links}
        links = tuple(slower[link.name, link.destination] for link in self.links)
        costs, engine = self.conservative.costs, self.conservative.engine
        return replace(self, links=links, costs=costs, engine=engine)

    def pinned(self, name: str) -> str | None:
        """The region to which the user pinned a tensor."""
        matching = (pin.region for pin in reversed(self.pins) if fnmatchcase(name, pin.pattern))
        return next(matching, None) if self.pins else None


CORES, ENGINE = "cores", "engine"  # lanes
ENGINE_PORT = "engine_port"  # on which the engine reads weights
PLACEMENT_CLASSES = ("weights", "constants", "state", "activations")


def allowed_regions(target: TargetSpec, group: str) -> tuple[str, ...]:
    """Regions that may hold data of a placement class, off-chip memory last."""
    off_chip = (target.off_chip.region,) if target.off_chip and group == "weights" else ()
    return (*target.placement[group], *off_chip)


def align_up(size: int, align: int) -> int:
    """`size` rounded up to a multiple of `align` bytes."""
    return -(-size // align) * align
