/* What the vector kernels share: slices of the cores, ranges, block normalisation, quantizers. */
#ifndef EDGEC_VECTOR_H
#define EDGEC_VECTOR_H

#include "edgec_math.h"
#include "edgec_port.h"
#include "edgec_types.h"
#include "edgec_xpulp.h"

/* Weight words are read from byte arrays (blobs and tiles). */
#if defined(__GNUC__)
typedef uint32_t __attribute__((__may_alias__)) edgec_word;
typedef uint16_t __attribute__((__may_alias__)) edgec_half;
#else
typedef uint32_t edgec_word;
typedef uint16_t edgec_half;
#endif

#if defined(__GNUC__)
#define EDGEC_LIKELY(condition) __builtin_expect((condition) ? 1L : 0L, 1L)
#define EDGEC_RARE __attribute__((__noinline__, __cold__, __unused__))
#else
#define EDGEC_LIKELY(condition) (condition)
#define EDGEC_RARE
#endif

/* A half-open range of indices. */
typedef struct edgec_slice {
    uint32_t first;
    uint32_t last;
} edgec_slice;

/* The part of n items that belongs to the worker. Usual teams need no division. */
static inline edgec_slice edgec_slice_of(const edgec_worker *worker, uint32_t n) {
    const uint32_t count = worker->count;
    const uint32_t share = count == 8U ? (n + 7U) / 8U : count == 1U ? n : (n + count - 1U) / count;
    const uint32_t first = worker->id * share;
    edgec_slice slice = {first < n ? first : n, first + share < n ? first + share : n};
    return slice;
}

/* Largest and smallest element so far, beginning with 0: only magnitudes matter. */
typedef struct edgec_range {
    int32_t max;
    int32_t min;
} edgec_range;

static inline void edgec_range_add(edgec_range *range, int32_t value) {
    range->max = edgec_max32(range->max, value);
    range->min = edgec_min32(range->min, value);
}

static inline edgec_range edgec_range_of(const int32_t *x, uint32_t n) {
    edgec_range range = {0, 0};
    for (const int32_t *const end = x + n; x != end; x++) {
        edgec_range_add(&range, *x);
    }
    return range;
}

/* Leaves the worker's range of reduction `stage`; the team reads it after a barrier. */
static inline void edgec_put_range(const edgec_worker *worker, uint32_t stage, edgec_range range) {
    worker->partials[worker->id].max[stage] = range.max;
    worker->partials[worker->id].min[stage] = range.min;
}

static inline edgec_range edgec_get_range(const edgec_worker *worker, uint32_t stage) {
    edgec_range range = {0, 0};
    for (uint32_t core = 0; core < worker->count; core++) {
        const edgec_partial *partial = &worker->partials[core];
        range.max = edgec_max32(range.max, partial->max[stage]);
        range.min = edgec_min32(range.min, partial->min[stage]);
    }
    return range;
}

/* blen(max |x|) - bits: the shift that normalises a vector of this range to `bits` bits. */
static inline int32_t edgec_range_shift(edgec_range range, int32_t bits) {
    const uint32_t above = (uint32_t)range.max;
    const uint32_t below = 0U - (uint32_t)range.min;
    return edgec_bits32(edgec_maxu32(above, below)) - bits;
}

/* rs(x, shift) for either sign of the shift without a branch: a left shift becomes a product
 * with one more bit, which the final rounding step takes back. */
typedef struct edgec_normalizer {
    int32_t factor;
    uint32_t shift;
} edgec_normalizer;

static inline edgec_normalizer edgec_normalizer_of(int32_t shift) {
    edgec_normalizer by = {1, 0U};
    if (shift >= 1) {
        by.shift = (uint32_t)shift - 1U;
    } else {
        by.factor = (int32_t)(1U << (uint32_t)(1 - shift));
    }
    return by;
}

static inline int32_t edgec_normalize(int32_t x, edgec_normalizer by) {
    return (((x * by.factor) >> by.shift) + 1) >> 1;
}

/* A vector quantizer: q_i = normalize(x_i), and for int8 rs(normalize(x_i) * reciprocal, 23). */
typedef struct edgec_quantizer {
    edgec_normalizer by;
    int32_t shift;      /* of the normalisation */
    int32_t amax;       /* A: 0 or 2^14 .. 2^15 for int8, 2^14 for int16 */
    int32_t exponent;   /* E: shift for int8, shift - 14 for int16 */
    int32_t reciprocal; /* int8 only: floor(127 * 2^23 / amax) */
} edgec_quantizer;

static inline edgec_quantizer edgec_quantizer_s8(edgec_range range) {
    edgec_quantizer quantizer;
    quantizer.shift = edgec_range_shift(range, 15);
    quantizer.by = edgec_normalizer_of(quantizer.shift);
    /* rs is monotonic, hence the extremes of the normalised vector */
    const int32_t above = edgec_normalize(range.max, quantizer.by);
    const int32_t below = -edgec_normalize(range.min, quantizer.by);
    quantizer.amax = above > below ? above : below;
    quantizer.reciprocal =
        quantizer.amax != 0 ? (int32_t)((127U << 23) / (uint32_t)quantizer.amax) : 0;
    quantizer.exponent = quantizer.shift;
    return quantizer;
}

static inline edgec_quantizer edgec_quantizer_s16(edgec_range range) {
    edgec_quantizer quantizer;
    quantizer.shift = edgec_range_shift(range, 14);
    quantizer.by = edgec_normalizer_of(quantizer.shift);
    quantizer.amax = 1 << 14;
    quantizer.exponent = quantizer.shift - 14;
    quantizer.reciprocal = 0;
    return quantizer;
}

/* Loops of a few instructions: worth more code where branches and addresses cost instructions of
 * their own. Cores with XpulpV2 have loops in hardware and little room for code. */
#if defined(__GNUC__) && !EDGEC_XPULP
#define EDGEC_UNROLLED _Pragma("GCC unroll 4")
#else
#define EDGEC_UNROLLED
#endif

static inline void edgec_quantize_s8(const edgec_quantizer *quantizer, const int32_t *x, uint32_t n,
                                     int8_t *q) {
    const edgec_normalizer by = quantizer->by;
    const int32_t reciprocal = quantizer->reciprocal;
    EDGEC_UNROLLED
    for (uint32_t i = 0; i < n; i++) {
        const int32_t scaled = edgec_normalize(x[i], by) * reciprocal;
        q[i] = (int8_t)edgec_round_shift(scaled, 23U); /* below 2^30 */
    }
}

static inline void edgec_quantize_s16(const edgec_quantizer *quantizer, const int32_t *x,
                                      uint32_t n, int16_t *q) {
    const edgec_normalizer by = quantizer->by;
    EDGEC_UNROLLED
    for (uint32_t i = 0; i < n; i++) {
        q[i] = (int16_t)edgec_normalize(x[i], by);
    }
}

#endif
