/* Integer arithmetic that every kernel shares.
 *
 * There is one rounding: rs(x, n) = floor((x + 2^(n-1)) / 2^n), half towards plus infinity. The
 * carry is added after a shift, so that the sum cannot overflow. */
#ifndef EDGEC_MATH_H
#define EDGEC_MATH_H

#include <stdint.h>

#include "edgec_arithmetic.h"

/* What every block of a token runs: ports with a small instruction cache want it side by side, from
 * lines of the cache on; functions of few lines behind them, without gaps. */
#ifdef EDGEC_SECTION_HOT
#define EDGEC_HOT __attribute__((__section__(EDGEC_SECTION_HOT), __aligned__(16)))
#define EDGEC_HOT_SMALL __attribute__((__section__(EDGEC_SECTION_HOT "_small")))
#else
#define EDGEC_HOT
#define EDGEC_HOT_SMALL
#endif

/* Functions that are worth a copy in every caller: constant arguments leave little of them. */
#if defined(__GNUC__)
#define EDGEC_INLINE static inline __attribute__((__always_inline__))
#define EDGEC_OUTLINE static __attribute__((__noinline__))
#else
#define EDGEC_INLINE static inline
#define EDGEC_OUTLINE static
#endif

/* Keeps the compiler from deriving other values from this one: it stays in one register. */
#if defined(__GNUC__)
#define EDGEC_KEEP(x) __asm__("" : "+r"(x))
#else
#define EDGEC_KEEP(x)
#endif

#ifdef __cplusplus
extern "C" {
#else
_Static_assert((-1 >> 1) == -1, "the kernels need an arithmetic right shift");
#endif

/* The signed number of the same 32 bits (two's complement). */
static inline int32_t edgec_signed(uint32_t bits) {
    return bits <= (uint32_t)INT32_MAX ? (int32_t)bits : (int32_t)(bits - 0x80000000U) + INT32_MIN;
}

/* Clamps to [-(2^31-1), 2^31-1]. */
static inline int32_t edgec_sat32(int64_t v) {
    if (v > INT32_MAX) {
        return INT32_MAX;
    }
    return v < -INT32_MAX ? -INT32_MAX : (int32_t)v;
}

/* rs(x, n) for 1 <= n; 0 when n > 31. */
static inline int32_t edgec_rs32(int32_t x, uint32_t n) {
    return n > 31U ? 0 : (x >> n) + ((x >> (n - 1U)) & 1);
}

/* rs(x, n) for n >= 0; n counts as at most 62. */
static inline int64_t edgec_rs64(int64_t x, uint32_t n) {
    const uint32_t shift = n > 62U ? 62U : n;
    return shift == 0U ? x : (x >> shift) + ((x >> (shift - 1U)) & 1);
}

/* The upper 32 bits of a * b. */
static inline int32_t edgec_mulh(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b) >> 32);
}

/* Position of the highest set bit, counted from 1; 0 for 0. Written out because the builtin is a
 * library call on cores without a count-leading-zeros instruction. */
static inline int32_t edgec_bit_length(uint32_t a) {
    int32_t n = 0;
    for (int32_t step = 16; step != 0; step >>= 1) {
        if ((a >> step) != 0U) {
            n += step;
            a >>= step;
        }
    }
    return n + (int32_t)a;
}

/* sat32(v * 2^left) for left >= 0. Beyond 2^31 any value saturates, and so does any shift of a
 * value that is not 0. */
static inline int32_t edgec_shift_left_sat(int64_t v, uint32_t left) {
    const int64_t limit = (int64_t)1 << 31;
    const int64_t clamped = v > limit ? limit : (v < -limit ? -limit : v);
    return edgec_sat32(clamped * ((int64_t)1 << (left > 31U ? 31U : left)));
}

/* sat32(acc * multiplier * 2^-n), rounded once; multiplier >= 0. */
static inline int32_t edgec_requantize(int32_t acc, int32_t multiplier, int32_t n) {
    if (n >= 33) { /* only the upper half of the product counts, and it cannot saturate */
        const uint32_t shift = n > 62 ? 29U : (uint32_t)(n - 33);
        return ((edgec_mulh(acc, multiplier) >> shift) + 1) >> 1;
    }
    const int64_t product = (int64_t)acc * multiplier;
    if (n >= 1) {
        /* product >> (n - 1) in two words; of one word are all but results at the limits */
        const uint32_t shift = (uint32_t)n - 1U;
        const int32_t high = (int32_t)(product >> 32);
        const uint32_t low = (uint32_t)(uint64_t)product;
        const int32_t shifted = edgec_signed(((uint32_t)high << 1 << (31U - shift)) | low >> shift);
        if (high >> shift == shifted >> 31) {
            return (shifted >> 1) + (shifted & 1);
        }
        return edgec_sat32(((product >> (n - 1)) + 1) >> 1);
    }
    return edgec_shift_left_sat(product, 0U - (uint32_t)n);
}

/* A requantization word: multiplier << 16 | exponent. */
static inline int32_t edgec_word_multiplier(uint32_t word) {
    return (int32_t)(word >> 16);
}

static inline int32_t edgec_word_exponent(uint32_t word) {
    return edgec_signed(word << 16) >> 16;
}

#ifdef __cplusplus
}
#endif

#endif
