"""Programs and targets small enough to reason about by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from memory_planner.cost_table import SPARSE_KERNELS
from memory_planner.target import (
    Costs,
    Link,
    MemoryRegion,
    OffChip,
    Reservation,
    SparseCosts,
    TargetSpec,
    Tiling,
)
from toolchain.model.outline import LowerConfig, attention_constants
from toolchain.model.packing import Packing, WeightLayout
from toolchain.model.program import Program, ProgramShape
from toolchain.model.schedule import build_schedule, build_tensors

TOY_SHAPE = ProgramShape(
    hidden=16, ffn=24, layers=2, heads=4, kv_heads=2, head_dim=4, vocab=97, context=32
)
COSTS = Costs(
    mac={"crumb": 4.0, "nibble": 4.0, "byte": 4.0},
    linear_row=20.0,
    linear_group=5.0,
    embed=10.0,
    quantize=18.0,
    rmsnorm=30.0,
    rope=12.0,
    kv_append=7.0,
    attention_mac=5.0,
    attention_score=40.0,
    attention_merge=12.0,
    residual_add=10.0,
    gather=8.0,
    swiglu=50.0,
    argmax=5.0,
    reduction=90.0,
    barrier=10.0,
    sparse=SparseCosts(dict.fromkeys(SPARSE_KERNELS, 8.0), tail=20.0, row=70.0, group=25.0),
)


def toy_program(
    shape: ProgramShape = TOY_SHAPE,
    *,
    packing: Packing = Packing.NIBBLE,
    group_size: int = 8,
    tied: bool = True,
    packings: Mapping[str, Packing] | None = None,
) -> Program:
    """The program of a model of `shape` without constants; `packings` overrides by op id."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    dims = {
        "attn.q_proj": (queries, shape.hidden),
        "attn.k_proj": (keys, shape.hidden),
        "attn.v_proj": (keys, shape.hidden),
        "attn.o_proj": (shape.hidden, queries),
        "mlp.gate_proj": (shape.ffn, shape.hidden),
        "mlp.up_proj": (shape.ffn, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.ffn),
    }
    layouts = {}
    for layer in range(shape.layers):
        for role, (rows, columns) in dims.items():
            name = f"l{layer:02d}.{role}"
            stored = (packings or {}).get(name, packing)
            layouts[name] = WeightLayout(stored, rows, columns, min(group_size, columns))
    vocabulary = WeightLayout(Packing.BYTE, shape.vocab, shape.hidden, shape.hidden, tied)
    layouts["embed"] = vocabulary
    if not tied:
        layouts["lm_head"] = replace(vocabulary, requant=True)
    modes = LowerConfig(shape.context)
    attention = attention_constants(shape.head_dim, shape.context)
    ops = build_schedule(shape, modes, 1, attention, tied)
    return Program(shape, 12, build_tensors(shape, modes, layouts), ops, {})


def toy_target(
    *,
    mram: int = 16384,
    tile_sram: int = 16384,
    l2: int = 16384,
    l1: int = 16384,
    cores: int = 8,
    slot_cap: int = 512,
    positions_cap: int = 16,
    max_transfer: int = 4096,
    far: int = 0,
) -> TargetSpec:
    """A small Siracusa: weights and cache are moved by DMA into L1.

    `far` bytes of off-chip memory, whose streams move at most 1000 bytes at a time; 0 for none.
    """
    weight_memory = (Reservation("reserved", "first word", 32),)
    target = TargetSpec(
        name="toy",
        description="toy",
        cores=cores,
        clock_hz=1_000_000,
        regions=(
            MemoryRegion("mram", 0x1000_0000, mram, 32, ".m", False, 9.0, weight_memory),
            MemoryRegion("tile_sram", 0x2000_0000, tile_sram, 32, ".t", True, 9.0, weight_memory),
            MemoryRegion("l2", 0x3000_0000, l2, 8, ".c", True, 20.0),
            MemoryRegion("l1", 0x4000_0000, l1, 8, ".d", True, 6.0, _stacks(cores)),
        ),
        placement={
            "weights": ("mram", "tile_sram"),
            "constants": ("l2", "tile_sram"),
            "state": ("tile_sram", "l2"),
            "activations": ("l1", "tile_sram"),
        },
        links=(
            Link("nms", ("mram", "tile_sram"), "l1", 8.0, 20.0, 85.0, max_transfer),
            Link("l2", ("l2",), "l1", 8.0, 20.0, 85.0, max_transfer),
        ),
        tiling=Tiling("l1", slot_cap, positions_cap),
        costs=COSTS,
        constants={},
    )
    if not far:
        return target
    links = (Link("bus", ("far",), name, 0.5, 50.0, 100.0, 1000) for name in ("l2", "tile_sram"))
    return replace(
        target,
        regions=(*target.regions, MemoryRegion("far", 0x8000_0000, far, 32, ".x", True, 0.0)),
        links=(*target.links, *links),
        off_chip=OffChip("far", ("l2", "tile_sram")),
    )


def flat_target(*, flash: int = 65536, sram: int = 65536) -> TargetSpec:
    """A small microcontroller that reads everything in place."""
    return TargetSpec(
        name="flat",
        description="flat",
        cores=1,
        clock_hz=1_000_000,
        regions=(
            MemoryRegion("flash", 0x2000_0000, flash, 32, ".f", False, 2.0),
            MemoryRegion("sram", 0x8000_0000, sram, 8, ".s", True, 2.0, _stacks(1)),
        ),
        placement={
            "weights": ("flash",),
            "constants": ("flash",),
            "state": ("sram",),
            "activations": ("sram",),
        },
        links=(
            Link("flash", ("flash",), "cores", 4.0, 0.0, 0.0, flash),
            Link("sram", ("sram",), "cores", 4.0, 0.0, 0.0, sram),
        ),
        tiling=None,
        costs=COSTS,
        constants={},
    )


def _stacks(cores: int) -> tuple[Reservation, ...]:
    return (Reservation("stacks", "one per core", 100 * cores),)
