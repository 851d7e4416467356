"""A plan laid out by counting, so that golden C text does not depend on the planner's choices.

Buffers lie one behind the other, nothing is shared, and every linear but one goes through a tile.
"""

from __future__ import annotations

from memory_planner.footprint import (
    MAX_CORES,
    PARTIAL_SIZE,
    PARTIALS,
    SCRATCH_PREFIX,
    TILE_PREFIX,
    blob_header_size,
    scratch_size,
)
from memory_planner.liveness import folded_roles
from memory_planner.plan import (
    AttentionPlan,
    LinearPlan,
    Placement,
    Plan,
    RegionPlan,
    Transfer,
)
from memory_planner.target import TargetSpec, align_up
from tests.memory_planner.toy import toy_program, toy_target
from toolchain.model.program import Kind, Op, OpKind, Program, ProgramShape

SHAPE = ProgramShape(
    hidden=8, ffn=12, layers=2, heads=2, kv_heads=1, head_dim=4, vocab=11, context=4
)
ALIGN = 32
IN_PLACE = "attn.k_proj"
REGION_OF = {
    Kind.WEIGHT: "mram",
    Kind.CONST: "l2",
    Kind.STATE: "tile_sram",
    Kind.ACTIVATION: "l1",
}


def handmade() -> tuple[Program, Plan, TargetSpec]:
    """A program of two blocks without constants, its plan, and the target."""
    program = toy_program(SHAPE, group_size=4)
    target = toy_target()
    sizes: dict[str, list[tuple[str, int]]] = {region.name: [] for region in target.regions}
    for spec in program.tensors.values():
        sizes[REGION_OF[spec.kind]].append((spec.name, spec.size))
    for op in program.ops:
        if op.layer <= 0:
            sizes["l1"] += _extras(program, op.role)
    sizes["l1"].append((PARTIALS, MAX_CORES * PARTIAL_SIZE))
    headers = {name: blob_header_size(len(sizes[name])) for name in ("mram", "l2")}
    placements: dict[str, Placement] = {}
    regions = []
    for region in target.regions:
        start = offset = region.reserved + headers.get(region.name, 0)
        for name, size in sizes[region.name]:
            placements[name] = Placement(name, region.name, offset, size, 0, 1)
            offset = align_up(offset + size, ALIGN)
        blob = offset - region.reserved if region.name in headers else 0
        arena = 0 if blob else offset - start
        regions.append(
            RegionPlan(
                region.name,
                region.size,
                region.reserved,
                region.reserved,
                blob,
                region.reserved + blob,
                arena,
                arena,
            )
        )
    plan = Plan(
        target=target.name,
        cores=target.cores,
        roles=folded_roles(program),
        placements=placements,
        linears={op.id: _linear(program, placements, op.id) for op in _linears(program)},
        attention=AttentionPlan(2, f"{TILE_PREFIX}attn.attention", 64),
        regions=tuple(regions),
        rows=(),
        blob_headers=headers,
    )
    return program, plan, target


def _linears(program: Program) -> list[Op]:
    return [op for op in program.ops if op.kind is OpKind.LINEAR]


def _extras(program: Program, role: str) -> list[tuple[str, int]]:
    op = next(op for op in program.ops if op.role == role)
    extras = [(SCRATCH_PREFIX + role, scratch_size(program, op))]
    if op.kind is OpKind.LINEAR and role != IN_PLACE:
        extras.append((TILE_PREFIX + role, 2 * program.layout_of(op).record_size))
    if op.kind is OpKind.ATTENTION:
        extras.append((TILE_PREFIX + role, 128))
    return [(name, size) for name, size in extras if size]


def _linear(program: Program, placements: dict[str, Placement], op_id: str) -> LinearPlan:
    op = next(op for op in program.ops if op.id == op_id)
    layout, weight = program.layout_of(op), program.weight_of(op).name
    if op.role == IN_PLACE:
        return LinearPlan(op_id, weight, layout.records, None, 0, ())
    size, first = layout.record_size, placements[weight].offset
    transfers = tuple(Transfer(first + i * size, i % 2, i, 1, size) for i in range(layout.records))
    return LinearPlan(op_id, weight, 1, TILE_PREFIX + op.role, size, transfers)
