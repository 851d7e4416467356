"""The program behind the byte-by-byte example of docs/packing.md."""

from __future__ import annotations

import numpy as np

from memory_planner.plan import AttentionPlan, Placement, Plan, RegionPlan
from toolchain.model.packing import Packing, WeightInts, WeightLayout
from toolchain.model.program import DType, Kind, Program, ProgramShape, TensorSpec

EXAMPLE_HASH = bytes(range(32))


def example_program() -> Program:
    """An int16 table and a packed 1 x 2 matrix."""
    layout = WeightLayout(Packing.NIBBLE, rows=1, columns=2, group_size=2, requant=False)
    tensors = [
        TensorSpec("lut", Kind.CONST, DType.I16, (3,)),
        TensorSpec("w", Kind.WEIGHT, DType.U8, (1, 2), layout),
    ]
    return Program(
        shape=ProgramShape(2, 2, 1, 1, 1, 2, 3, 1),
        residual_bits=12,
        tensors={tensor.name: tensor for tensor in tensors},
        ops=(),
        constants={
            "lut": np.array([1, -2, 300], np.int16),
            "w": WeightInts(
                np.array([[-8, 7]], np.int8), np.ones((1, 1), np.uint8), np.zeros(1, np.uint32)
            ),
        },
    )


def example_plan() -> Plan:
    """Both in the blob of region `rom`, 32 bytes behind the region's base."""
    return Plan(
        target="demo",
        cores=1,
        roles=(),
        placements={
            "w": Placement("w", "rom", 32 + 136, 8, 0, 0),
            "lut": Placement("lut", "rom", 32 + 128, 6, 0, 0),
        },
        linears={},
        attention=AttentionPlan(1, None, 0),
        regions=(RegionPlan("rom", 1024, 32, 32, 144, 176, 0, 0),),
        rows=(),
        blob_headers={"rom": 128},
    )
