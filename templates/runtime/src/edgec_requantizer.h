/* How the accumulators of a linear become outputs: acc * M * A * 2^(E - e). */
#ifndef EDGEC_REQUANTIZER_H
#define EDGEC_REQUANTIZER_H

#include "edgec_vector.h"

/* scaling: an element of linear.shift. */
static inline uint32_t edgec_scaling_shift(uint32_t scaling) {
    return scaling & 15U;
}

/* Headroom: acc * 2^this fits in 32 bits. Least and most: of the e of words. Narrow: bits that A
 * loses with fast arithmetic. */
#if EDGEC_XPULP
EDGEC_INSN_A(edgec_scaling_headroom, uint32_t, 0x33, 1, 0x63, 4)
EDGEC_INSN_A(edgec_scaling_least, uint32_t, 0x33, 1, 0x67, 8)
EDGEC_INSN_A(edgec_scaling_most, uint32_t, 0x33, 1, 0x67, 16)
EDGEC_INSN_A(edgec_scaling_narrow, uint32_t, 0x33, 1, 0x61, 24)
#else
static inline uint32_t edgec_scaling_headroom(uint32_t scaling) {
    return scaling >> 4 & 15U;
}

static inline uint32_t edgec_scaling_least(uint32_t scaling) {
    return scaling >> 8 & 255U;
}

static inline uint32_t edgec_scaling_most(uint32_t scaling) {
    return scaling >> 16 & 255U;
}

static inline uint32_t edgec_scaling_narrow(uint32_t scaling) {
    return scaling >> 24 & 3U;
}
#endif

/* One copy per kernel is enough for what happens rarely. */
EDGEC_RARE static int32_t edgec_requantize_any(int32_t acc, int32_t multiplier, int32_t n) {
    return edgec_requantize(acc, multiplier, n);
}

static inline int32_t edgec_word_at(const uint8_t *word, uint32_t *multiplier) {
    const void *const at = word;
    *multiplier = ((const edgec_half *)at)[1];
    return (int16_t)((const edgec_half *)at)[0];
}

#if EDGEC_ARITHMETIC_FAST

#define EDGEC_FAST_SUM_BITS 18U    /* of an accumulator; one more for each that its factor lacks */
#define EDGEC_FAST_FACTOR_DROP 19U /* lower bits of M * A */
#define EDGEC_FAST_LESS 6          /* of A: M times it is about half of what is dropped */

/* rs(acc, drop) * ((M * a >> 19) + 1) is at most 2^30. One more costs nothing: x + x * y, as p.mac
 * computes it, takes one cycle, and x * y two. */
typedef struct edgec_requantizer {
    int32_t a; /* rounded, less 6 */
    uint32_t drop;
    int32_t exponent; /* what has to be subtracted from e */
} edgec_requantizer;

static inline edgec_requantizer edgec_requantizer_of(const int32_t *scale, uint32_t scaling) {
    const uint32_t narrow = edgec_scaling_narrow(scaling);
    const uint32_t spare = edgec_scaling_headroom(scaling) + narrow;
    const int32_t most = 31 - (int32_t)EDGEC_FAST_SUM_BITS;
    const uint32_t drop = (uint32_t)edgec_max32(most - (int32_t)spare, 0);
    const int32_t a = edgec_max32(edgec_round_shift(scale[0], narrow) - EDGEC_FAST_LESS, 0);
    const edgec_requantizer by = {a, drop,
                                  scale[1] + (int32_t)(EDGEC_FAST_FACTOR_DROP + narrow + drop)};
    return by;
}

/* word: M << 16 | e of the row. */
static inline int32_t edgec_requantize_row(const edgec_requantizer *by, int32_t acc,
                                           const uint8_t *word) {
    uint32_t multiplier;
    const int32_t n = edgec_word_at(word, &multiplier) - by->exponent;
    const uint32_t factor = (multiplier * (uint32_t)by->a >> EDGEC_FAST_FACTOR_DROP) + 1U;
    const int32_t product = edgec_round_shift(acc, by->drop) * (int32_t)factor;
    if (EDGEC_LIKELY((uint32_t)n - 1U <= 30U)) {
        return ((product >> (uint32_t)(n - 1)) + 1) >> 1;
    }
    return edgec_requantize_any(product, 1, n);
}

#else

typedef struct edgec_requantizer {
    int32_t a;
    int32_t e;
    uint32_t headroom;
    int32_t least; /* e from which the upper half of acc * 2^headroom * M * A is enough */
} edgec_requantizer;

static inline edgec_requantizer edgec_requantizer_of(const int32_t *scale, uint32_t scaling) {
    const uint32_t headroom = edgec_scaling_headroom(scaling);
    const edgec_requantizer by = {scale[0], scale[1], headroom, scale[1] + 33 - (int32_t)headroom};
    return by;
}

/* word: M << 16 | e of the row. */
static inline int32_t edgec_requantize_row(const edgec_requantizer *by, int32_t acc,
                                           const uint8_t *word) {
    uint32_t of_row;
    const int32_t e = edgec_word_at(word, &of_row);
    const int32_t multiplier = (int32_t)of_row * by->a;
    const uint32_t shift = (uint32_t)(e - by->least);
    if (EDGEC_LIKELY(shift <= 31U)) { /* nothing can saturate */
        const int32_t scaled = edgec_signed((uint32_t)acc << by->headroom);
        return ((edgec_mulh(scaled, multiplier) >> shift) + 1) >> 1;
    }
    return edgec_requantize_any(acc, multiplier, e - by->e);
}

#endif

#endif
