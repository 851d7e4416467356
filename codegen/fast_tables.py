"""Which tables of the generated code lie in the memory of the activations.

A target may reserve bytes there for code. The tables that cost the cores most loads come first; a
table has room as a whole, or stays with the other constants.
"""

from __future__ import annotations

from codegen.views import EngineView, ModelView
from memory_planner.target import TargetSpec

# Bytes on a core of 32 bits of one entry: types of runtime/include, model_tables.c.j2.
ATTENTION_BYTES = 40
MATRIX_BYTES = 36
STAGE_BYTES = 28
ENGINE_MATRIX_BYTES = 32
CHAIN_BYTES = 16
PIECE_BYTES = 32
ENGINE_LINEAR_BYTES = 44
ROW_PLAN_BYTES = 16
JOB_BYTES = 96
LINEAR_BYTES = 20
LINEAR_BYTES_WITH_ENGINE = 28
LOCATION_BYTES = 8
PORT_BYTES = 96  # variables of the port, beside the tables
PART_BYTES = 12
CACHE_BYTES = 4


def fast_tables(model: ModelView, target: TargetSpec) -> frozenset[str]:
    """Names of the tables in the bytes that the activations' region reserves for code."""
    room = target.region(target.placement["activations"][0]).reserved_for("code") - PORT_BYTES
    chosen = set()
    for name, size in _sizes(model).items():
        if size <= room:
            chosen.add(name)
            room -= size
    return frozenset(chosen)


def _sizes(model: ModelView) -> dict[str, int]:
    """Bytes of every table, those that are read most often in front."""
    sizes = {"ATTENTION": ATTENTION_BYTES, "MATRICES": MATRIX_BYTES * len(model.matrices)}
    engine, block = model.engine, model.whole
    fused = [*model.fused, *([model.fused_head] if model.fused_head else [])]
    if fused:
        sizes["FUSED_LINEARS"] = ROW_PLAN_BYTES * sum(len(each.linears) for each in fused)
    if engine is not None:
        sizes |= _engine_sizes(engine, "")
    linear = LINEAR_BYTES if engine is None else LINEAR_BYTES_WITH_ENGINE
    row = LOCATION_BYTES * len(block.arrays) + linear * len(block.linears)
    row += PART_BYTES * len(model.blocks[0].parts) + CACHE_BYTES * bool(model.blocks[0].parts)
    sizes["BLOCKS"] = row * len(model.blocks)
    if model.prefill and model.prefill.jobs:
        sizes |= _engine_sizes(model.prefill.jobs.engine, "BATCH_")
    return sizes


def _engine_sizes(engine: EngineView, prefix: str) -> dict[str, int]:
    sizes = {
        "STAGES": STAGE_BYTES * len(engine.stages),
        "ENGINE_MATRICES": ENGINE_MATRIX_BYTES * len(engine.matrices),
        "CHAINS": CHAIN_BYTES * len(engine.chains),
        "PIECES": PIECE_BYTES * len(engine.pieces),
        "ENGINE_LINEARS": ENGINE_LINEAR_BYTES * len(engine.linears),
        "JOBS": JOB_BYTES * len(engine.jobs),
    }
    return {prefix + name: size for name, size in sizes.items()}
