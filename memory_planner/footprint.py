"""How many bytes everything takes that is not a tensor: headers, scratch, partials, cache tiles.

The numbers mirror the runtime headers (edgec_blob.h, edgec_kernels.h, edgec_types.h) and are the
only place in Python that knows them: code generator and simulator ask here.
"""

from __future__ import annotations

from math import prod

from memory_planner.target import align_up
from toolchain.model.program import Op, OpKind, Program, ProgramShape

BLOB_HEADER_SIZE = 96  # EDGEC_BLOB_HEADER_SIZE
BLOB_ENTRY_SIZE = 16  # one tensor in the table of contents
BLOB_HEADER_ALIGN = 64
MAX_CORES = 16  # EDGEC_MAX_CORES
PARTIAL_SIZE = 32  # sizeof(edgec_partial)
TOKEN_STATE_SIZE = 12  # what a core keeps of a token between the phases of a batch

PARTIALS = "team.partials"  # one edgec_partial per core, used by every op that reduces
SCRATCH_PREFIX = "scratch."  # + role
TILE_PREFIX = "tile."  # + role
ENGINE_PREFIX = "engine."  # + role of the first linear of a chain, + what the buffer holds
ENGINE_INPUT = "input"  # the staged vector, zero wherever no input lies; permanent
ENGINE_SUMS = "sums"  # accumulators, while the chain lasts
STREAM_BUFFER = "stream.slots"  # both slots for weights that are off chip
PREFILL_PREFIX = "prefill."  # what prompts need beyond steps
PREFILL_BUFFER = "prefill.tokens"  # activations of each token of a batch
PREFILL_PARTIALS = "prefill.partials"  # of all tokens, their angles, what cores keep of them


def blob_header_size(tensors: int) -> int:
    """Bytes before the first tensor of a blob of `tensors` tensors: header and contents."""
    return align_up(BLOB_HEADER_SIZE + BLOB_ENTRY_SIZE * tensors, BLOB_HEADER_ALIGN)


def scratch_size(program: Program, op: Op) -> int:
    """Bytes of int32 scratch that the kernel of `op` asks for; 0 for none."""
    shape = program.shape
    elements = {
        OpKind.RMSNORM: prod(program.tensors[op.inputs[0]].shape),
        OpKind.SWIGLU: prod(program.tensors[op.inputs[0]].shape),
        OpKind.ROPE: shape.heads * shape.head_dim,
        OpKind.KV_APPEND: shape.kv_heads * shape.head_dim,
        OpKind.ATTENTION: shape.heads * shape.cache_rows,
        OpKind.ATTENTION_MERGE: shape.heads * shape.head_dim,
    }
    return 4 * elements.get(op.kind, 0)


def kv_position_size(shape: ProgramShape, bits: int = 8) -> int:
    """Bytes of KV cache per position of one block: k and v rows of `bits` and 32-bit scales."""
    return 2 * shape.kv_heads * (shape.head_dim * bits // 8 + 4)


def attention_slot_size(shape: ProgramShape, positions: int, align: int) -> int:
    """Bytes of one slot for `positions` cache rows.

    The first pass needs rows of k and their scales, the second those of v. Rows are padded to 4
    bytes so that the scales behind them are aligned.
    """
    rows = align_up(positions * shape.kv_heads * shape.head_dim, 4)
    return align_up(rows + 4 * positions * shape.kv_heads, align)
