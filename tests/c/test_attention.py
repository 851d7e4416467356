"""Rotation, cache, attention and merge against sim/ops.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sim import ops
from tests.c.data import CORES, KINDS, POWERS, STEPS, quantized, vector
from tests.c.runtime import MAX_CORES, AttentionParams, Guarded, KVCacheView, Runtime
from toolchain.model.outline import attention_constants
from toolchain.model.program import ActMode

TEAMS = pytest.mark.parametrize("cores", CORES)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    chunk: int = 0  # positions per chunk; 0 reads in place
    slots: int = 2


SHAPES = (
    Shape(1, 1, 2, 4),
    Shape(3, 1, 6, 9),
    Shape(8, 4, 8, 70),
    Shape(6, 2, 20, 33),
    Shape(2, 2, 64, 20),
    Shape(5, 5, 4, 11),
    Shape(2, 1, 12, 7),
    Shape(2, 1, 16, 6),
    Shape(3, 1, 40, 5),
)


def rope_table(head_dim: int, position: int) -> npt.NDArray[np.int16]:
    angle = position * 0.7 ** np.arange(head_dim // 2)
    table: npt.NDArray[np.int16] = np.rint(
        np.concatenate([np.cos(angle), np.sin(angle)]) * 16384
    ).astype(np.int16)
    return table


def heads_of(kind: str, heads: int, head_dim: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Heads of very different size, the first one of `kind`."""
    x = vector(kind, heads * head_dim, seed).reshape(heads, head_dim)
    for head in range(1, heads):
        x[head] >>= 3 * head % 17
    return np.ascontiguousarray(x)


def params_of(shape: Shape, constants: dict[str, int]) -> AttentionParams:
    row = shape.kv_heads * shape.head_dim
    slot = -(-shape.chunk * row // 4) * 4 + 4 * shape.chunk * shape.kv_heads
    return AttentionParams(
        *(shape.heads, shape.kv_heads, shape.head_dim, shape.context),
        *(shape.chunk or shape.context, slot, shape.slots if shape.chunk else 0),
        *(constants["score_multiplier"], constants["score_exponent"], constants["exp_bits"]),
    )


@TEAMS
@pytest.mark.parametrize("shape", SHAPES)
def test_rope(runtime: Runtime, cores: int, shape: Shape) -> None:
    heads, head_dim = shape.heads, shape.head_dim
    for position, kind in enumerate(KINDS):
        x, table = heads_of(kind, heads, head_dim), rope_table(head_dim, position)
        guarded = Guarded()
        scratch = guarded.array((heads, head_dim), np.int32)
        q = guarded.array((heads, head_dim), np.int8)
        scale = guarded.array((heads, 2), np.int32)
        runtime.run(cores, "edgec_rope_s8", x, table, heads, head_dim, scratch, q, scale)
        guarded.check()
        want_q, want_scale = ops.rope(x[None].astype(np.int64), table[None].astype(np.int64))
        assert q.tolist() == want_q[0].tolist(), kind
        assert scale.tolist() == want_scale[0].tolist(), kind


@dataclass(frozen=True)
class Cache:
    """A KV cache filled by the kernel itself."""

    guarded: Guarded
    arrays: tuple[npt.NDArray[Any], ...]
    view: KVCacheView


def empty_cache(shape: Shape) -> Cache:
    guarded = Guarded()
    rows = (shape.context, shape.kv_heads, shape.head_dim)
    arrays = (
        guarded.array(rows, np.int8),
        guarded.array(rows[:2], np.int32),
        guarded.array(rows, np.int8),
        guarded.array(rows[:2], np.int32),
    )
    return Cache(guarded, arrays, KVCacheView(*(a.ctypes.data for a in arrays)))


def append(
    runtime: Runtime, cores: int, shape: Shape, cache: Cache, position: int, kv: Any
) -> None:
    scratch = cache.guarded.array((shape.kv_heads, shape.head_dim), np.int32)
    params = params_of(shape, attention_constants(shape.head_dim, shape.context))
    table = rope_table(shape.head_dim, position)
    runtime.run(
        *(cores, "edgec_kv_append", params, kv[0], kv[1], table, position, scratch, cache.view)
    )
    cache.guarded.check()


def filled_cache(runtime: Runtime, cores: int, shape: Shape, length: int) -> Cache:
    cache = empty_cache(shape)
    for position in range(length):
        kind = KINDS[position % len(KINDS)]
        kv = [heads_of(kind, shape.kv_heads, shape.head_dim, position + s) for s in (0, 1000)]
        append(runtime, cores, shape, cache, position, kv)
    return cache


@TEAMS
@pytest.mark.parametrize("shape", SHAPES)
def test_kv_append(runtime: Runtime, cores: int, shape: Shape) -> None:
    cache = empty_cache(shape)
    before: list[Ints] | list[None] = [None, None]
    for position, kind in enumerate(("large", "outlier", "zeros", "small")[: shape.context]):
        k = heads_of(kind, shape.kv_heads, shape.head_dim, 1)
        v = heads_of(kind, shape.kv_heads, shape.head_dim, 2)
        append(runtime, cores, shape, cache, position, (k, v))
        table = rope_table(shape.head_dim, position)[None].astype(np.int64)
        k8, k_scale = ops.rope(k[None].astype(np.int64), table)
        v8, v_scale = ops.quantize_heads(v[None].astype(np.int64))
        words = [ops.pack_scale(s, b) for s, b in zip((k_scale, v_scale), before, strict=True)]
        want = (k8[0], words[0][0], v8[0], words[1][0])
        before = [words[0][0], words[1][0]]
        for got, expected in zip(cache.arrays, want, strict=True):
            assert got[position].tolist() == expected.tolist()


def queries(shape: Shape, seed: int, bits: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    q = rng.integers(-127, 128, (shape.heads, shape.head_dim)).astype(np.int8)
    scale = np.stack(
        [
            rng.choice([0, 2**14, 2**15, 20000], shape.heads),
            rng.integers(bits - 3, bits + 3, shape.heads),
        ],
        axis=1,
    )
    return q, scale.astype(np.int32)


def run_attention(
    runtime: Runtime,
    cores: int,
    shape: Shape,
    cache: Cache,
    length: int,
    query: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    constants: dict[str, int],
) -> tuple[Any, Any]:
    params, guarded = params_of(shape, constants), Guarded()
    scratch = guarded.array((shape.heads, shape.context), np.int32)
    tiles = guarded.array(params.slots * params.slot_size, np.uint8)
    acc = guarded.array((shape.heads, shape.head_dim), np.int32)
    stats = guarded.array((shape.heads, 3), np.int32)
    runtime.run(
        *(cores, "edgec_attention", params, length, *query, cache.view),
        POWERS(constants["exp_bits"]),
        *(scratch, tiles, acc, stats),
    )
    guarded.check()
    return acc, stats


def expected_attention(
    cache: Cache,
    length: int,
    query: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    constants: dict[str, int],
) -> tuple[Ints, Ints]:
    rows = ops.KVCache(*(a[:length].astype(np.int64) for a in cache.arrays))
    q, q_scale = (a[None].astype(np.int64) for a in query)
    acc, stats = ops.attention(
        (q, q_scale),
        rows,
        partial(STEPS.power_of_two, POWERS(constants["exp_bits"]).astype(np.int64)),
        ops.AttentionConstants(**constants),
        STEPS.scores,
    )
    return acc[0], stats[0]


@TEAMS
@pytest.mark.parametrize("shape", SHAPES)
def test_attention(runtime: Runtime, cores: int, shape: Shape) -> None:
    constants = attention_constants(shape.head_dim, shape.context)
    cache = filled_cache(runtime, 1, shape, shape.context)
    for length in {1, 2, shape.context // 2, shape.context}:
        for bits in (-12, -2, 3, 12):  # from flat attention to a single position
            query = queries(shape, length, bits)
            acc, stats = expected_attention(cache, length, query, constants)
            chunks = (0, 1, 3, 4, 16, shape.context)
            for chunk, slots in product(chunks, (1, 2)):
                tiled = replace(shape, chunk=chunk, slots=slots)
                got = run_attention(runtime, cores, tiled, cache, length, query, constants)
                assert got[0].tolist() == acc.tolist(), (length, bits, chunk)
                assert got[1].tolist() == stats.tolist(), (length, bits, chunk)


@pytest.mark.parametrize("exp_bits", [15, 14, 12, 8])
def test_attention_with_shorter_weights(runtime: Runtime, exp_bits: int) -> None:
    shape = Shape(4, 2, 10, 50)
    constants = attention_constants(10, 50) | {"exp_bits": exp_bits}
    cache = filled_cache(runtime, 1, shape, 50)
    for bits in (-6, 0, 4):
        query = queries(shape, bits + 9, bits)
        acc, stats = expected_attention(cache, 50, query, constants)
        got = run_attention(runtime, 1, shape, cache, 50, query, constants)
        assert got[0].tolist() == acc.tolist()
        assert got[1].tolist() == stats.tolist()


def test_attention_over_all_exponents_of_v(runtime: Runtime) -> None:
    shape = Shape(2, 1, 8, 31)
    constants = attention_constants(8, 31)
    cache = empty_cache(shape)
    for position in range(31):
        kv = [vector(kind, 8, position)[None] for kind in ("small", "large")]
        append(runtime, 1, shape, cache, position, (kv[0], kv[1] >> position))
    query = queries(shape, 1, -14)
    acc, stats = expected_attention(cache, 31, query, constants)
    got = run_attention(runtime, 1, shape, cache, 31, query, constants)
    assert got[0].tolist() == acc.tolist()
    assert got[1].tolist() == stats.tolist()


@TEAMS
@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_and_cache_of_a_fused_op(runtime: Runtime, cores: int, shape: Shape) -> None:
    params = params_of(shape, attention_constants(shape.head_dim, shape.context))
    caches = (empty_cache(shape), empty_cache(shape))
    rope = np.stack([rope_table(shape.head_dim, p) for p in range(4)])
    for position, kind in enumerate(("large", "outlier", "zeros", "small")):
        q = heads_of(kind, shape.heads, shape.head_dim, 5)
        kv = [heads_of(kind, shape.kv_heads, shape.head_dim, seed) for seed in (1, 2)]
        append(runtime, 1, shape, caches[0], position, kv)
        guarded = Guarded()
        x = [guarded.array(a.shape, np.int32) for a in (q, *kv)]
        for target, source in zip(x, (q, *kv), strict=True):
            target[:] = source
        q8 = guarded.array(q.shape, np.int8)
        scale = guarded.array((shape.heads, 2), np.int32)
        tops = guarded.array(MAX_CORES, np.int32)
        runtime.run(
            *(cores, "fused_append", params, x[0], x[1], x[2], rope, position),
            *(caches[1].view, q8, scale, tops),
        )
        guarded.check()
        caches[1].guarded.check()
        want, want_scale = ops.rope(q[None].astype(np.int64), rope[position][None].astype(np.int64))
        assert q8.tolist() == want[0].tolist()
        assert scale.tolist() == want_scale[0].tolist()
        for got, expected in zip(caches[1].arrays, caches[0].arrays, strict=True):
            assert got[: position + 1].tolist() == expected[: position + 1].tolist()
        codes = caches[0].arrays[3][position] >> 22 & 63  # largest exponents of v
        assert set(tops[:cores].tolist()) == {int(max((codes ^ 32) - 32))}


def merged_by_hand(acc: Ints, stats: Ints, top: int) -> list[list[int]]:
    """The heads' sums at the exponent `top`: rs(acc * reciprocal, n)."""
    rows = []
    for row, (reciprocal, b, exponent) in zip(acc.tolist(), stats.tolist(), strict=True):
        n = max(24 + b + top - exponent, 1)
        rows.append([(x * reciprocal + (1 << (n - 1))) >> n for x in row])
    return rows


def run_fused(
    runtime: Runtime,
    cores: int,
    shape: Shape,
    cache: Cache,
    length: int,
    query: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    constants: dict[str, int],
) -> None:
    """Attention inside a fused op, against the sums of `ops` merged by hand."""
    acc, stats = expected_attention(cache, length, query, constants)
    top = int(stats[:, 2].max()) + length % 3
    params, guarded = params_of(shape, constants), Guarded()
    merged = guarded.array((shape.heads, shape.head_dim), np.int32)
    amplitudes = guarded.array(MAX_CORES, np.uint32)
    runtime.run(
        *(cores, "fused_attention", params, length, *query, cache.view),
        *(
            POWERS(constants["exp_bits"]),
            guarded.array((shape.heads, shape.context), np.int32),
            guarded.array(params.slots * params.slot_size, np.uint8),
            merged,
        ),
        *(guarded.array((shape.heads, 3), np.int32), top, amplitudes),
    )
    guarded.check()
    want = merged_by_hand(acc, stats, top)
    assert merged.tolist() == want
    most = max(max(2 * x + 1 if x >= 0 else -2 * x for x in row) for row in want)
    assert amplitudes[: min(cores, shape.heads)].max() == most


FUSED_SHAPES = (
    *(Shape(5, 5, 4, 12), Shape(8, 4, 8, 72), Shape(2, 1, 12, 8), Shape(2, 2, 16, 20)),
    *(Shape(3, 1, 20, 16), Shape(7, 1, 32, 12), Shape(3, 1, 40, 8), Shape(2, 1, 64, 4)),
    *(Shape(2, 1, 8, 10), Shape(3, 1, 6, 9)),
)


@TEAMS
@pytest.mark.parametrize("shape", FUSED_SHAPES)
def test_attention_of_a_fused_op(runtime: Runtime, cores: int, shape: Shape) -> None:
    constants = attention_constants(shape.head_dim, shape.context)
    cache = filled_cache(runtime, 1, shape, shape.context)
    for length in {1, 2, 3, shape.context - 1, shape.context}:
        for bits in (-12, -2, 3, 12):
            query = queries(shape, length, bits)
            run_fused(runtime, cores, shape, cache, length, query, constants)


MOVED_SHAPES = (
    *(Shape(3, 3, 4, 12), Shape(2, 1, 8, 24), Shape(3, 1, 20, 16), Shape(10, 5, 8, 12)),
    *(Shape(9, 3, 32, 12), Shape(3, 1, 6, 9), Shape(2, 1, 8, 10)),
)


@pytest.mark.parametrize("cores", [*CORES, *({8} - {*CORES})])
@pytest.mark.parametrize("shape", MOVED_SHAPES)
def test_fused_attention_in_chunks(runtime: Runtime, cores: int, shape: Shape) -> None:
    constants = attention_constants(shape.head_dim, shape.context)
    cache = filled_cache(runtime, 1, shape, shape.context)
    for chunk, slots in product((3, 4, 8, shape.context), (1, 2)):
        moved = replace(shape, chunk=chunk, slots=slots)
        for length in {1, 4, 7, shape.context}:
            for bits in (-12, 3):
                query = queries(shape, length, bits)
                run_fused(runtime, cores, moved, cache, length, query, constants)


@pytest.mark.parametrize("exp_bits", [15, 14, 8])
@pytest.mark.parametrize("chunk", [0, 16])
def test_fused_attention_with_shorter_weights(runtime: Runtime, exp_bits: int, chunk: int) -> None:
    shape = Shape(2, 1, 8, 48, chunk)
    constants = attention_constants(8, 48) | {"exp_bits": exp_bits}
    cache = filled_cache(runtime, 1, shape, 48)
    for bits in (-6, 0, 4):
        run_fused(runtime, 2, shape, cache, 45, queries(shape, bits + 9, bits), constants)


@pytest.mark.parametrize("chunk", [0, 8])
def test_fused_attention_over_all_exponents_of_v(runtime: Runtime, chunk: int) -> None:
    shape = Shape(2, 1, 8, 32, chunk)
    constants = attention_constants(8, 32)
    cache = empty_cache(shape)
    for position in range(32):
        kv = [vector(kind, 8, position)[None] for kind in ("small", "large")]
        append(runtime, 1, shape, cache, position, (kv[0], kv[1] >> position % 31))
    for length in (3, 20, 32):
        run_fused(runtime, 1, shape, cache, length, queries(shape, 1, -14), constants)


@pytest.mark.parametrize("sign", [1, -1])
def test_fused_attention_of_the_largest_dot_products(runtime: Runtime, sign: int) -> None:
    shape = Shape(2, 1, 4, 8)
    cache = filled_cache(runtime, 1, shape, 8)
    cache.arrays[0][:] = 127
    cache.arrays[0][::3] *= sign
    cache.arrays[1][:] = (cache.arrays[1] & -65536) | 2**15
    for bits in (-12, -2, 3):
        query = queries(shape, 1, bits)
        query[0][:] = 127
        query[1][:, 0] = 2**15
        run_fused(runtime, 1, shape, cache, 8, query, attention_constants(4, 8))


@TEAMS
@pytest.mark.parametrize("mode", list(ActMode))
def test_attention_merge(runtime: Runtime, cores: int, mode: ActMode) -> None:
    for heads, head_dim in ((1, 2), (3, 6), (8, 8), (9, 20)):
        rng = np.random.default_rng(heads)
        for magnitude in (0, 6, 15, 24, 31):
            bound = 2**magnitude
            acc = rng.integers(-bound + 1, bound, (heads, head_dim)).astype(np.int32)
            stats = np.stack(
                [
                    rng.integers(2**15, 2**16 + 1, heads),
                    rng.integers(-8, 9, heads),
                    rng.integers(-20, 20, heads),
                ],
                axis=1,
            ).astype(np.int32)
            if magnitude > 24:  # sums of real weights are no larger than their sum allows
                stats[:, 1] = 8
            n = heads * head_dim
            q, scale = quantized(
                runtime, cores, "attention_merge", mode, n, acc, stats, heads, head_dim
            )
            want_q, want_scale = ops.attention_merge(
                acc[None].astype(np.int64), stats[None].astype(np.int64), mode
            )
            assert q.tolist() == want_q[0].tolist()
            assert scale.tolist() == want_scale[0].tolist()
