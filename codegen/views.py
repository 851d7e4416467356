"""The values that templates print: frozen, computed once, nothing left to calculate.

A view holds names, sizes and ready C expressions for one thing of the generated code. Offsets in
expressions are bytes from the start of a blob or an arena; offsets in comments are those of
plan.json, bytes from the base of the region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memory_planner.engine_plan import PiecePlan


@dataclass(frozen=True, slots=True)
class RegionView:
    """One memory region, as headers, linker fragment and init see it."""

    name: str  # as in plan.json
    field: str  # lower-case C identifier
    macro: str  # upper-case C identifier
    section: str  # linker section of the blob
    arena_section: str
    sections: tuple[str, ...]  # those of the two that exist
    alignment: int
    available: int  # capacity without the reserved bytes
    reserved: int  # for stacks, code and skipped words
    blob_size: int  # 0: the region has no blob
    arena_size: int  # 0: the region has no arena
    crc: str  # C constant, CRC-32 of the name


@dataclass(frozen=True, slots=True)
class MatrixView:
    """One distinct `edgec_matrix`."""

    rows: int
    columns: int
    group_size: int
    field_bits: int
    record_size: int
    records_per_tile: int
    slot_size: int
    has_requant: int
    slots: int


@dataclass(frozen=True, slots=True)
class WeightView:
    """Where a packed matrix lies and what reads it."""

    field: str  # member of block_weights, or name of the table of its own
    comment: str  # tensor, shape, packing, place
    matrix: int  # index in MATRICES
    kernel: str  # inner kernel without prefix
    blob: str  # macro part of the region
    offset: int  # bytes from the blob's start
    shift_index: int  # element of linear.shift
    engine: int = -1  # index in ENGINE_LINEARS; blob and offset are then those of the table
    words: int = 0  # register 0 of the chain's first words


@dataclass(frozen=True, slots=True)
class ConstantView:
    """A plain array of constants in a blob."""

    field: str
    ctype: str
    comment: str
    blob: str
    offset: int


@dataclass(frozen=True, slots=True)
class BufferView:
    """A typed pointer into an arena."""

    field: str
    ctype: str
    comment: str
    arena: str  # macro part of the region
    offset: int


@dataclass(frozen=True, slots=True)
class CacheView:
    """One of the four arrays of the KV cache."""

    field: str  # member of edgec_kv_cache
    ctype: str
    comment: str
    arena: str
    offset: int
    layer_size: int  # bytes from one block's rows to the next block's
    width: int  # elements per position


@dataclass(frozen=True, slots=True)
class PartView:
    """Attention or feed-forward of a block, where some blocks lack one."""

    name: str
    speaks: bool
    op: int  # number of its first op in the schedule
    stream: int  # index of its first stream


@dataclass(frozen=True, slots=True)
class BlockView:
    """What differs between equal blocks: where their weights lie, and what some of them lack."""

    name: str
    arrays: tuple[ConstantView, ...]  # norm weights and orders of inputs
    has_orders: bool
    linears: tuple[WeightView, ...]
    parts: tuple[PartView, ...] = ()  # empty when all blocks are whole
    cache: int = 0  # place in the KV cache


@dataclass(frozen=True, slots=True)
class OutputView:
    """One output that the trace hook reports."""

    index: int
    pointer: str  # C expression
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class OpView:
    """One function of the generated schedule: an op, or the same op of all blocks."""

    title: str  # id, with lNN for the block
    function: str
    kind: str
    mode: str  # s8, s16 or empty: element type of the quantized vector
    number: str  # C expression of the op's index in the schedule
    in_block: bool
    comment: tuple[str, ...]  # one line per operand
    reads: tuple[str, ...]  # C expressions of the inputs
    writes: tuple[str, ...]  # C expressions of the outputs
    scratch: str  # C expression, empty when the kernel needs none
    tiles: str  # C expression, NULL when it reads in place
    outputs: tuple[OutputView, ...]
    eps: int = 0
    elements: str = ""  # of the first operand, a C expression
    stream: str = ""  # C expression of the stream that it waits for, empty when for none
    part: str = ""  # member of block_weights that tells whether a block has it; empty: all have


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """A linear on the engine inside a fused op."""

    field: str  # member of block_weights
    entry: int  # index in ENGINE_LINEARS
    halves: int  # vectors of int8 that the engine sees: 2 for int16
    plain: int  # 1: one group of columns, and no tail
    grouped: int  # several groups of columns
    tailed: int  # columns are left to the cores
    rows: int
    columns: int
    runs: int  # of rows and between them waits for jobs, at most
    apart: int  # 1: the cores finish piece by piece together, not each the next rows of all
    first: bool  # of its chain
    begins: int  # jobs that may begin when the rows of the linears before it are finished
    called: int  # linears from it on whose rows are finished in one call; 0: in an earlier one
    waited: int  # jobs to wait for first, beyond those of the linear before it; 0: piece by piece
    use: str  # of the rows: STAY, GATE of SwiGLU, or ADD to the residual stream
    amplitude: str  # where that of the rows is left: part of the name
    op: OpView


@dataclass(frozen=True, slots=True)
class FusedJob:
    """One job of the fused ops of a block, in order."""

    job: int  # index in JOBS
    field: str  # member of block_weights whose words it counts from
    begins: int  # 1: first of those that may begin at once


@dataclass(frozen=True, slots=True)
class FusedView:
    """Consecutive ops as one function."""

    title: str
    function: str
    kind: str  # FusedKind of memory_planner/fused_ops.py
    ops: tuple[OpView, ...]
    linears: tuple[FusedLinear, ...]
    measures: bool  # the norm has to look for the amplitude of the residual stream itself


@dataclass(frozen=True, slots=True)
class AttentionView:
    """Members of edgec_attention_params that are not dimensions."""

    positions_per_chunk: int
    slot_size: int
    slots: int
    score_multiplier: int
    score_exponent: int
    exp_bits: int


@dataclass(frozen=True, slots=True)
class StreamRow:
    """What one stream copies from off-chip memory; nothing when the size is 0."""

    source: int  # bytes from the blob's start
    size: int
    slot: int  # bytes from the arena's start


@dataclass(frozen=True, slots=True)
class StreamView:
    """How off-chip weights come to the staging buffer."""

    comment: str
    blob: str  # macro part of the off-chip region
    arena: str  # macro part of the staging buffer's region
    offset: int  # of the buffer in the arena
    check_size: int  # bytes of it that one transfer of edgec_init fills
    max_transfer: int
    pieces: int  # transfers of the longest stream
    rows: tuple[StreamRow, ...]  # by index
    record_slot: int  # bytes from the arena's start to the slot of the embedding's record
    record_size: int  # 0: the embedding is on chip
    head: int  # index of the head's first stream
    head_rows: int  # rows of the head in a stream; 0: it is on chip


@dataclass(frozen=True, slots=True)
class StageView:
    """One distinct `edgec_engine_stage`."""

    columns: int
    group_size: int
    group_stride: int
    chunk: int
    chunk_stride: int
    origins: tuple[int, int]


@dataclass(frozen=True, slots=True)
class EngineMatrixView:
    """One distinct `edgec_engine_matrix`."""

    rows: int
    groups: int
    columns: int
    tail: int
    slots: int
    channels: int
    record_size: int
    pixel_row: int


@dataclass(frozen=True, slots=True)
class ChainView:
    """One distinct `edgec_engine_chain`."""

    comment: str
    stage: int  # index in STAGES
    first_job: int  # index in JOBS
    job_count: int
    input: int  # bytes from the arena's start
    accumulators: int


@dataclass(frozen=True, slots=True)
class EngineLinearView:
    """One distinct `edgec_engine_linear`."""

    comment: str
    matrix: int  # index in ENGINE_MATRICES
    chain: int  # index in CHAINS
    first_piece: int  # index in PIECES
    piece_count: int
    done: int
    issued: int
    mode: str  # s8 or s16
    table_rows: int
    slot_size: int


@dataclass(frozen=True, slots=True)
class EngineWindowView:
    """Memory that jobs reach."""

    address: str  # C constant
    size: int
    pointer: str  # C expression
    writable: bool


@dataclass(frozen=True, slots=True)
class EngineView:
    """Tables of the linears on the engine; equal entries of different blocks are one."""

    name: str
    weight_base: str  # C constant
    arena: str  # macro part of the region of inputs and accumulators
    windows: tuple[EngineWindowView, ...]
    stages: tuple[StageView, ...]
    matrices: tuple[EngineMatrixView, ...]
    jobs: tuple[tuple[str, ...], ...]  # rows of C constants, four lines of six registers each
    chains: tuple[ChainView, ...]
    pieces: tuple[PiecePlan, ...]
    linears: tuple[EngineLinearView, ...]
    inputs: tuple[BufferView, ...]
    input_sizes: tuple[int, ...]  # bytes, of each of `inputs`


@dataclass(frozen=True, slots=True)
class TokenBufferView:
    """A typed pointer that changes with the token."""

    field: str
    offset: int  # bytes from the start of the token's share


@dataclass(frozen=True, slots=True)
class GroupView:
    """Ops that run one after the other for a token, or a linear that runs for all at once."""

    items: tuple[FusedView | OpView, ...]
    batched: bool
    stream: str  # C expression of the stream that the first op waits for, empty when for none
    fused: bool  # some of the items are
    first_job: int  # of the fused items, among those of the block
    job_count: int
    part: str  # that all items belong to, as in OpView; empty when they differ


@dataclass(frozen=True, slots=True)
class TokenStep:
    """Bytes from a token's part to that of the next, and more where a row of pixels ends.

    A row has parts of `BatchView.line` tokens.
    """

    next: int
    skip: int


@dataclass(frozen=True, slots=True)
class BatchLinear:
    """A linear whose jobs serve all tokens of a batch."""

    of_step: FusedLinear
    entry: int  # index in BATCH_LINEARS
    runs: int  # of rows
    image: TokenStep
    sums: TokenStep


@dataclass(frozen=True, slots=True)
class BatchView:
    """Engine jobs of several tokens; tables as for steps."""

    engine: EngineView
    linears: tuple[BatchLinear, ...]  # of a block
    jobs: tuple[FusedJob, ...]  # of a block
    words: tuple[Mapping[str, int], ...]  # per block, register 0 of a chain's first words by field
    line: int  # tokens whose windows lie in a row of pixels
    covered: tuple[BufferView, ...]  # images of steps that hold something else in a prompt
    covered_sizes: tuple[int, ...]  # bytes
    partials: int  # bytes from the arena's start to those of the first token
    angles: int  # likewise to the angles of the first token's position
    states: int  # likewise to what each core keeps of each token


@dataclass(frozen=True, slots=True)
class PrefillView:
    """How the generated code runs a batch."""

    batch: int
    comment: str
    arena: str  # macro part of the region
    offset: int  # bytes from the arena's start
    stride: int
    buffers: tuple[TokenBufferView, ...]
    groups: tuple[GroupView, ...]
    jobs: BatchView | None  # None: every token has jobs of its own


@dataclass(frozen=True, slots=True)
class ModelView:
    """Everything that the templates of the model's code need."""

    shape: dict[str, int]
    regions: tuple[RegionView, ...]
    blobs: tuple[RegionView, ...]
    arenas: tuple[RegionView, ...]
    matrices: tuple[MatrixView, ...]
    embedding: WeightView
    head: WeightView
    head_adapter: tuple[WeightView, ...]  # A and B beside it; their fields are the C names
    blocks: tuple[BlockView, ...]
    constants: tuple[ConstantView, ...]
    buffers: tuple[BufferView, ...]
    partials: BufferView
    cache: tuple[CacheView, ...]
    attention: AttentionView
    before: tuple[OpView, ...]  # ops in front of the blocks
    block_ops: tuple[OpView, ...]
    block_items: tuple[FusedView | OpView, ...]  # of a build that fuses
    block_parts: tuple[tuple[str, tuple[FusedView | OpView, ...]], ...]  # the same by OpView.part
    whole: BlockView  # the fields of block_weights
    fused: tuple[FusedView, ...]
    fused_jobs: tuple[FusedJob, ...]
    fused_ahead: bool  # no other jobs lie between them
    fused_head: FusedView | None
    head_jobs: tuple[FusedJob, ...]
    fused_functions: frozenset[str]  # of ops that such a build does not call
    measures: bool  # the first norm wants the amplitude of the residual stream
    after: tuple[OpView, ...]
    ops_per_block: int
    graph_hash: tuple[str, ...]  # rows of C constants
    off_chip: str  # macro part of the region whose blob only DMA reads, empty without one
    streams: StreamView | None
    engine: EngineView | None
    prefill: PrefillView | None  # None: token by token
