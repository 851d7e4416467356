"""Kernels of the packing nm-sparse against sim/ops.py, from the bytes that the packer writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from sim import ops
from tests.c.data import CORES, STEPS, int_type, suffix
from tests.c.runtime import RUNTIME, Guarded, Matrix, Runtime
from tests.model.nm_weights import remove
from toolchain.model.matrix_storage import pack_matrix
from toolchain.model.nm_pattern import PATTERNS, Pattern
from toolchain.model.packing import CORE_PACKINGS, Packing, WeightInts
from toolchain.model.program import ActMode
from toolchain.model.sparse_packing import SparseLayout

INT32_MAX = 2**31 - 1
MODES = pytest.mark.parametrize("mode", list(ActMode))
KINDS = [
    (pattern, packing)
    for pattern in PATTERNS
    for packing in CORE_PACKINGS
    if SparseLayout(packing, 64, 256, 32, pattern=pattern).pays
]
PATTERN_KINDS = pytest.mark.parametrize(
    ("pattern", "packing"), KINDS, ids=[f"{p}-{k.value}" for p, k in KINDS]
)


@dataclass(frozen=True)
class Case:
    """A sparse matrix with its input and the shift that lowering would choose."""

    layout: SparseLayout
    weights: WeightInts
    q: npt.NDArray[np.int64]
    mode: ActMode
    shift: int
    headroom: int  # bits that the accumulators leave unused


def make_case(layout: SparseLayout, mode: ActMode, seed: int, extreme: bool = False) -> Case:
    """`extreme`: all kept weights and all inputs at their ends, so that sums do not cancel."""
    rng = np.random.default_rng(seed)
    half = 1 << (layout.packing.field_bits - 1)
    allowed = [-half, half - 1] if extreme else list(range(-half, half))
    values = remove(rng.choice(allowed, (layout.rows, layout.columns)), layout.pattern, rng)
    multipliers = rng.integers(255 if extreme else 1, 256, (layout.rows, layout.groups))
    multipliers[:] = multipliers if layout.groups > 1 else 1
    m = rng.choice([0, 2**15, 2**16 - 1, 40000], layout.rows)
    requant = (m << 16 | (rng.integers(-60, 90, layout.rows) & 0xFFFF)).astype(np.uint32)
    weights = WeightInts(values.astype(np.int8), multipliers.astype(np.uint8), requant)
    bound = 127 if mode is ActMode.A8 else 1 << 14
    q = rng.integers(-bound, bound + 1, layout.columns)
    if extreme:
        q = np.where(values[0] < 0, -bound, bound)
    largest = int(np.abs(ops.matrix_of(weights, layout.group_size).transposed).sum(0).max())
    shift = 0
    while mode is ActMode.A16 and (64.5 * largest + 1) * 2 ** (8 - shift) > INT32_MAX:
        shift += 1
    assert shift <= 8
    headroom = 31 - ((bound * largest >> shift) + 1).bit_length()
    return Case(layout, weights, q, mode, shift, min(headroom, 15))


def run_linear(runtime: Runtime, cores: int, case: Case, tile: int = 0) -> None:
    """Runs a case and compares; `tile`: records per tile, 0 reads in place."""
    layout, guarded, scale = case.layout, Guarded(), (1 << 14, -20)
    bits = layout.packing.field_bits
    removed, group = layout.pattern.removed, layout.pattern.group
    kernel = f"edgec_linear_{suffix(case.mode)}_w{bits}_{removed}of{group}"
    slot = tile * layout.record_size
    matrix = Matrix(
        *(layout.rows, layout.columns, layout.group_size, bits),
        *(layout.record_size, tile or layout.records, slot, 1, 2),
    )
    y = guarded.array(layout.rows, np.int32)
    tiles = guarded.array(2 * slot, np.uint8)
    data = np.frombuffer(pack_matrix(case.weights, layout), np.uint8).copy()
    runtime.run(
        *(cores, "edgec_linear", matrix, runtime.function(kernel), data, tiles),
        *(case.q.astype(int_type(case.mode)), np.array(scale, np.int32)),
        *(case.shift | case.headroom << 4, y),
    )
    guarded.check()
    dense = ops.matrix_of(case.weights, layout.group_size)
    scaling = case.shift | case.headroom << 4
    want = ops.linear(case.q[None], np.array([scale]), dense, scaling, STEPS.rows)
    assert y.tolist() == want[0].tolist()


@MODES
@PATTERN_KINDS
@pytest.mark.parametrize(
    ("rows", "columns", "group"),
    [(1, 1, 1), (3, 16, 16), (5, 31, 31), (19, 172, 32), (9, 127, 64), (40, 96, 32), (2, 1500, -1)],
)
def test_linear(
    runtime: Runtime,
    pattern: Pattern,
    packing: Packing,
    mode: ActMode,
    rows: int,
    columns: int,
    group: int,
) -> None:
    size = columns if group == -1 else group
    layout = SparseLayout(packing, rows, columns, size, pattern=pattern)
    run_linear(runtime, 1, make_case(layout, mode, rows * columns))


@MODES
@PATTERN_KINDS
@pytest.mark.parametrize(("columns", "group"), [(1530, 1530), (270, 128)])
def test_linear_at_the_accumulator_bound(
    runtime: Runtime, pattern: Pattern, packing: Packing, mode: ActMode, columns: int, group: int
) -> None:
    layout = SparseLayout(packing, 3, columns, group, pattern=pattern)
    run_linear(runtime, 1, make_case(layout, mode, 7, extreme=True))


def test_accumulators_beyond_32_bits(runtime: Runtime) -> None:
    layout = SparseLayout(Packing.BYTE, 4, 800, 400, pattern=Pattern(1, 8))
    case = make_case(layout, ActMode.A16, 1, extreme=True)
    assert case.shift == 8
    run_linear(runtime, 1, case)


@MODES
@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("tile", [0, 1, 3, 8])
def test_tiles_and_cores_change_nothing(
    runtime: Runtime, mode: ActMode, cores: int, tile: int
) -> None:
    layout = SparseLayout(Packing.NIBBLE, 151, 40, 32, pattern=Pattern(4, 8))
    run_linear(runtime, cores, make_case(layout, mode, 5), tile)


def test_there_is_a_kernel_for_what_pays_and_for_nothing_else() -> None:
    expected = {
        f"edgec_linear_{suffix(mode)}_w{packing.field_bits}_{p.removed}of{p.group}.c"
        for p, packing in KINDS
        for mode in ActMode
    }
    assert {path.name for path in (RUNTIME / "src").glob("*of*.c")} == expected
