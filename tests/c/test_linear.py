"""Matrix kernels and the embedding against sim/ops.py, from the bytes that the packer writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from sim import ops
from tests.c.data import CORES, IS_FAST, STEPS, int_type, suffix
from tests.c.runtime import Guarded, Matrix, Runtime
from toolchain.model.packing import CORE_PACKINGS, Packing, WeightInts, WeightLayout, pack_weights
from toolchain.model.program import ActMode

MODES = pytest.mark.parametrize("mode", list(ActMode))
TEAMS = pytest.mark.parametrize("cores", CORES)
PACKINGS = pytest.mark.parametrize("packing", CORE_PACKINGS)
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Case:
    """A matrix with its input, everything at the bounds that lowering guarantees."""

    layout: WeightLayout
    weights: WeightInts
    q: npt.NDArray[np.int64]
    mode: ActMode
    shift: int
    headroom: int  # bits that the accumulators leave unused


@pytest.fixture(params=["vectors", "scalar"])
def kernels(request: pytest.FixtureRequest) -> Runtime:
    """The runtime with either kind of linear kernels."""
    name = {"vectors": "runtime", "scalar": "scalar_runtime"}[request.param]
    runtime: Runtime = request.getfixturevalue(name)
    return runtime


def random_weights(layout: WeightLayout, rng: np.random.Generator, extreme: bool) -> WeightInts:
    half = 1 << (layout.packing.field_bits - 1)
    shape, scales = (layout.rows, layout.columns), (layout.rows, layout.groups)
    allowed = [-half, half - 1] if extreme else list(range(-half, half))
    values = rng.choice(allowed, shape)
    multipliers = rng.integers(255 if extreme else 1, 256, scales)
    if layout.groups == 1:
        multipliers[:] = 1
    m = rng.choice([40000] if extreme else [0, 2**15, 2**16 - 1, 40000], layout.rows)
    e = rng.integers(*((20, 21) if extreme else (-60, 90)), layout.rows)
    requant = (m << 16 | (e & 0xFFFF)).astype(np.uint32)
    return WeightInts(values.astype(np.int8), multipliers.astype(np.uint8), requant)


def make_case(layout: WeightLayout, mode: ActMode, seed: int, extreme: bool = False) -> Case:
    """`extreme`: all weights and inputs at their ends, aligned so that sums do not cancel."""
    rng = np.random.default_rng(seed)
    weights = random_weights(layout, rng, extreme)
    bound = 127 if mode is ActMode.A8 else 1 << 14
    q = rng.integers(-bound, bound + 1, layout.columns)
    if extreme:
        q = np.where(weights.values[0] < 0, -bound, bound)
    matrix = ops.matrix_of(weights, layout.group_size)
    largest = int(np.abs(matrix.transposed).sum(0).max())
    shift = 0
    while mode is ActMode.A16 and (64.5 * largest + 1) * 2 ** (8 - shift) > INT32_MAX:
        shift += 1
    assert shift <= 8
    assert mode is ActMode.A16 or 127 * largest <= INT32_MAX
    headroom = 31 - ((bound * largest >> shift) + 1).bit_length()
    return Case(layout, weights, q, mode, shift, min(headroom, 15))


def run_linear(
    runtime: Runtime,
    cores: int,
    case: Case,
    scale: tuple[int, int],
    *,
    tile: int = 0,
    slots: int = 2,
    headroom: int = 0,
    narrow: int = 0,
) -> list[int]:
    """`tile`: records per tile; 0 reads in place."""
    layout, guarded = case.layout, Guarded()
    kernel = f"edgec_linear_{suffix(case.mode)}_w{layout.packing.field_bits}"
    slot = tile * layout.record_size
    matrix = Matrix(
        *(layout.rows, layout.columns, layout.group_size, layout.packing.field_bits),
        *(layout.record_size, tile or layout.records, slot, int(layout.requant), slots),
    )
    y = guarded.array(layout.rows, np.int32)
    tiles = guarded.array(slots * slot, np.uint8)
    data = np.frombuffer(pack_weights(case.weights, layout), np.uint8).copy()
    runtime.run(
        *(cores, "edgec_linear", matrix, runtime.function(kernel), data, tiles),
        *(case.q.astype(int_type(case.mode)), np.array(scale, np.int32)),
        *(case.shift | headroom << 4 | narrow << 24, y),
    )
    guarded.check()
    return [int(v) for v in y]


def expected(case: Case, scale: tuple[int, int], headroom: int = 0, narrow: int = 0) -> list[int]:
    matrix = ops.matrix_of(case.weights, case.layout.group_size)
    scaling = case.shift | headroom << 4 | narrow << 24
    y = ops.linear(case.q[None], np.array([scale]), matrix, scaling, STEPS.rows)
    return [int(v) for v in y[0]]


@MODES
@PACKINGS
@pytest.mark.parametrize(
    ("rows", "columns", "group"),
    [
        *((1, 1, 1), (3, 6, 6), (6, 97, 32), (97, 100, 16), (40, 64, 32), (70, 33, 1)),
        *((5, 1500, 1500), (9, 1100, 600), (130, 5, 2), (24, 129, 129), (23, 131, 42)),
    ],
)
def test_linear(
    kernels: Runtime, packing: Packing, mode: ActMode, rows: int, columns: int, group: int
) -> None:
    case = make_case(WeightLayout(packing, rows, columns, group), mode, rows * columns)
    for scale in ((1 << 14, -20), (1 << 15, 3), (0, 0), (12345, -70), (1, 40)):
        precise = expected(case, scale)
        for narrow, headroom in enumerate({0, min(1, case.headroom), case.headroom}):
            want = expected(case, scale, headroom, narrow)
            assert IS_FAST or want == precise
            found = run_linear(kernels, 1, case, scale, headroom=headroom, narrow=narrow)
            assert found == want, scale


@MODES
@PACKINGS
@pytest.mark.parametrize(("columns", "group"), [(31, 31), (32, 32), (1500, 1500), (256, 128)])
def test_linear_at_the_accumulator_bound(
    kernels: Runtime, packing: Packing, mode: ActMode, columns: int, group: int
) -> None:
    case = make_case(WeightLayout(packing, 3, columns, group), mode, 7, extreme=True)
    for scale in ((1 << 15, -30), (1 << 14, 5)):
        for headroom in {0, case.headroom}:
            for narrow in (0, 3) if IS_FAST else (0,):
                want = expected(case, scale, headroom, narrow)
                found = run_linear(kernels, 1, case, scale, headroom=headroom, narrow=narrow)
                assert found == want


@pytest.mark.parametrize(("columns", "shift"), [(64, 5), (200, 6), (700, 8)])
def test_accumulators_beyond_32_bits(kernels: Runtime, columns: int, shift: int) -> None:
    layout = WeightLayout(Packing.BYTE, 4, columns, columns // 2)
    case = make_case(layout, ActMode.A16, 1, extreme=True)
    assert case.shift == shift
    matrix = ops.matrix_of(case.weights, layout.group_size)
    assert np.abs(case.q @ matrix.transposed).max() > INT32_MAX
    for scale in ((1 << 14, -30), (1 << 15, -50)):
        assert run_linear(kernels, 3, case, scale) == expected(case, scale)


@TEAMS
@MODES
@PACKINGS
def test_tiles_and_cores_change_nothing(
    kernels: Runtime, packing: Packing, mode: ActMode, cores: int
) -> None:
    layout = WeightLayout(packing, 151, 40, 16)
    case, scale = make_case(layout, mode, 5), (1 << 14, -25)
    want = expected(case, scale)
    for tile in (0, 1, 3, 8, layout.records):
        assert run_linear(kernels, cores, case, scale, tile=tile) == want, tile
    for tile in (1, 3, layout.records):
        assert run_linear(kernels, cores, case, scale, tile=tile, slots=1) == want, tile


@TEAMS
@PACKINGS
@pytest.mark.parametrize("requant", [True, False])
@pytest.mark.parametrize(("columns", "group"), [(18, 18), (50, 16), (64, 1)])
def test_embed(
    runtime: Runtime, packing: Packing, cores: int, requant: bool, columns: int, group: int
) -> None:
    layout = WeightLayout(packing, 21, columns, group, requant=requant)
    rng = np.random.default_rng(columns)
    weights = random_weights(layout, rng, extreme=False)
    words = weights.requant  # the embedding has words of its own, wherever the head keeps its own
    data = np.frombuffer(pack_weights(weights, layout), np.uint8).copy()
    matrix = Matrix(
        *(layout.rows, columns, group, packing.field_bits, layout.record_size),
        *(layout.records, 0, int(requant)),
    )
    dense = ops.matrix_of(weights, group).transposed.T.astype(np.int64)
    for token in (0, 1, 7, 16, 20):
        guarded = Guarded()
        r = guarded.array(columns, np.int32)
        runtime.run(cores, "edgec_embed", matrix, data, words, token, r)
        guarded.check()
        want = ops.embed(dense[token : token + 1], words[token : token + 1].astype(np.int64))
        assert r.tolist() == want[0].tolist()


@pytest.mark.parametrize("sign", [-1, 1])
def test_pairs_at_the_bound_of_16_bits(kernels: Runtime, sign: int) -> None:
    """All weights -2^(bits-1), all activations 127: sums of 32512 in the upper half of a word."""
    for packing, columns in ((Packing.NIBBLE, 32), (Packing.CRUMB, 128)):
        layout = WeightLayout(packing, packing.rows, columns, columns)
        half = 1 << (packing.field_bits - 1)
        shape = (layout.rows, columns)
        weights = WeightInts(
            np.full(shape, -half, np.int8), np.ones((layout.rows, 1), np.uint8),
            np.full(layout.rows, 0x80000000 | 15, np.uint32),
        )  # fmt: skip
        q = np.full(columns, 127 * sign)
        case = Case(layout, weights, q, ActMode.A8, 0, 0)
        found = run_linear(kernels, 1, case, (1 << 15, -15), headroom=15)
        assert found == [-32512 * sign] * layout.rows


def test_hand_computed_record(kernels: Runtime) -> None:
    """The nibble example of docs/packing.md: W = [[-24, 0, 1785], [4, -4, 10]], x = 100, 3, -2."""
    record = bytes.fromhex(
        "ffff0180 100000c0" + "00" * 24 + "03040000 00000000 90887888 88888888 ff050000 00000000"
        "af888888"
    )
    matrix = Matrix(2, 3, 2, 4, 60, 1, 0, 1)
    x, scale = np.array([100, 3, -2], np.int16), np.array([1 << 15, -15], np.int32)
    guarded = Guarded()
    y = guarded.array(2, np.int32)
    kernels.run(
        *(1, "edgec_linear", matrix, kernels.function("edgec_linear_s16_w4")),
        *(np.frombuffer(record, np.uint8).copy(), y, x, scale, 15 << 4, y),
    )
    # acc = -24*100 - 2*1785 = -5970 and 4*100 - 4*3 - 2*10 = 368
    # M = 0x8001, e = -1: -5970 * 32769 * 2 = -391261860; M = 0xC000, e = 16: 368 * 49152 / 65536
    # fast: rs(M * A, 19) = 2048 and 3072: -5970 * 2048 * 32 and 368 * 3072 / 4096
    assert y.tolist() == [-391249920 if IS_FAST else -391261860, 276]
