"""Bytes of the tables beside the activations, against what a compiler takes for an entry."""

from __future__ import annotations

from pathlib import Path

from codegen import fast_tables
from tests.c.runtime import INCLUDES, compile_c
from tests.firmware.builds import any_compiler

TYPES = {
    "edgec_attention_params": fast_tables.ATTENTION_BYTES,
    "edgec_matrix": fast_tables.MATRIX_BYTES,
    "edgec_engine_stage": fast_tables.STAGE_BYTES,
    "edgec_engine_matrix": fast_tables.ENGINE_MATRIX_BYTES,
    "edgec_engine_chain": fast_tables.CHAIN_BYTES,
    "edgec_engine_piece": fast_tables.PIECE_BYTES,
    "edgec_engine_linear": fast_tables.ENGINE_LINEAR_BYTES,
    "edgec_row_plan": fast_tables.ROW_PLAN_BYTES,
    "uint32_t[EDGEC_ENGINE_REGISTERS]": fast_tables.JOB_BYTES,
}


def test_sizes_of_entries(tmp_path: Path) -> None:
    source = tmp_path / "sizes.c"
    includes = ("edgec_fused_engine.h", "edgec_kernels.h")
    lines = [f'#include "{header}"' for header in includes]
    lines += [f'_Static_assert(sizeof({name}) == {size}, "");' for name, size in TYPES.items()]
    source.write_text("\n".join(lines) + "\n")
    target = str(tmp_path / "sizes.o")
    compile_c([*any_compiler().command, "-c", *INCLUDES, str(source), "-o", target])
