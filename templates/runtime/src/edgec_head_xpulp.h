/* Rotation and quantization of one head with XpulpV2: four elements in registers, more of them in
 * hardware loops by twos. Same integers as edgec_head_body.h. */
#ifndef EDGEC_HEAD_XPULP_H
#define EDGEC_HEAD_XPULP_H

#include "edgec_fused.h"

#if EDGEC_XPULP

#include "edgec_xpulp_asm.h"

/* Elements have fewer bits than 31, so that rounding to 15 cannot overflow. */
#define EDGEC_X_BITS 30U

/* clang-format off */
#define EDGEC_X_FOUR(of) of(a) of(b) of(c) of(d)
#define EDGEC_X_TO_LEFT(x) EDGEC_X_OP("sll", x, x, left)
#define EDGEC_X_TO_RIGHT(x) EDGEC_X_RS(x, right)
#define EDGEC_X_TIMES(x) EDGEC_X_MAC(x, x, less) /* times less + 1; mul takes two cycles */
#define EDGEC_X_TO_BYTE(x) EDGEC_X_RS23(x, x)
#define EDGEC_X_MOST                                                                               \
    EDGEC_X_ABS(most, a) EDGEC_X_ABS(u, b) EDGEC_X_MAXU(most, most, u)                             \
    EDGEC_X_ABS(u, c) EDGEC_X_MAXU(most, most, u) EDGEC_X_ABS(u, d) EDGEC_X_MAXU(most, most, u)
#define EDGEC_X_NORMAL                                                                             \
    EDGEC_X_MOST EDGEC_X_FL1(most, most) EDGEC_X_OPI("addi", shift, most, -14)                     \
    EDGEC_X_MAX0(right, shift) EDGEC_X_NEG(left, shift) EDGEC_X_MAX0(left, left)                   \
    EDGEC_X_FOUR(EDGEC_X_TO_LEFT) EDGEC_X_FOUR(EDGEC_X_TO_RIGHT)
#define EDGEC_X_TURN                                                                               \
    EDGEC_X_OP("mul", u, a, c0) EDGEC_X_OP("mul", v, b, c1)                                        \
    EDGEC_X_OP("mul", a, a, s0) EDGEC_X_OP("mul", b, b, s1)                                        \
    EDGEC_X_MSU(u, c, s0) EDGEC_X_MSU(v, d, s1) EDGEC_X_MAC(a, c, c0) EDGEC_X_MAC(b, d, c1)        \
    EDGEC_X_RS14(c, a) EDGEC_X_RS14(d, b) EDGEC_X_RS14(a, u) EDGEC_X_RS14(b, v)
/* clang-format on */

#define EDGEC_X_ELEMENTS(how) [a] how(a), [b] how(b), [c] how(c), [d] how(d)

/* max |x| of n elements; n is even. */
EDGEC_INLINE uint32_t edgec_x_magnitude(const int32_t *x, uint32_t n) {
    uint32_t most = 0U, a, b;
    __asm__ volatile(EDGEC_X_LOOP(6, EDGEC_X_LWP(a, x, 4) EDGEC_X_LWP(b, x, 4) EDGEC_X_ABS(a, a)
                                         EDGEC_X_ABS(b, b) EDGEC_X_MAXU(most, most, a)
                                             EDGEC_X_MAXU(most, most, b))
                     : [x] "+&r"(x), [most] "+&r"(most), [a] "=&r"(a), [b] "=&r"(b)
                     : [n] "r"(n / 2U)
                     : "memory");
    return most;
}

EDGEC_INLINE edgec_range edgec_x_range(const int32_t *x, uint32_t n) {
    edgec_range range = {0, 0};
    int32_t a, b;
    __asm__ volatile(
        EDGEC_X_LOOP(6,
                     EDGEC_X_LWP(a, x, 4) EDGEC_X_LWP(b, x, 4) EDGEC_X_MAX(max, max, a)
                         EDGEC_X_MIN(min, min, a) EDGEC_X_MAX(max, max, b) EDGEC_X_MIN(min, min, b))
        : [x] "+&r"(x), [max] "+&r"(range.max), [min] "+&r"(range.min), [a] "=&r"(a), [b] "=&r"(b)
        : [n] "r"(n / 2U)
        : "memory");
    return range;
}

/* clang-format off */
#define EDGEC_X_ROTATE                                                                             \
    EDGEC_X_LWP(a, x, 4) EDGEC_X_LWP(b, upper, 4)                                                  \
    EDGEC_X_LHP(c, table, 2) EDGEC_X_LHP(d, sines, 2)                                              \
    EDGEC_X_OP("sll", a, a, left) EDGEC_X_OP("sll", b, b, left)                                    \
    EDGEC_X_RS(a, right) EDGEC_X_RS(b, right)                                                      \
    EDGEC_X_OP("mul", u, a, c) EDGEC_X_OP("mul", v, a, d)                                          \
    EDGEC_X_MSU(u, b, d) EDGEC_X_MAC(v, b, c)                                                      \
    EDGEC_X_RS14(u, u) EDGEC_X_RS14(v, v)                                                          \
    EDGEC_X_SWP(u, y, 4) EDGEC_X_SWP(v, second, 4)
/* clang-format on */

/* Rotates x at the scale of `by` into y. */
EDGEC_INLINE void edgec_x_rotate(const int32_t *x, edgec_shifter by, const int16_t *table,
                                 uint32_t head_dim, int32_t *y) {
    const uint32_t half = head_dim / 2U;
    const int32_t *upper = x + half;
    const int16_t *sines = table + half;
    int32_t *second = y + half;
    int32_t a, b, c, d, u, v;
    __asm__ volatile(EDGEC_X_LOOP(16, EDGEC_X_ROTATE)
                     : [x] "+&r"(x), [upper] "+&r"(upper), [table] "+&r"(table),
                       [sines] "+&r"(sines), [y] "+&r"(y), [second] "+&r"(second), [a] "=&r"(a),
                       [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [u] "=&r"(u), [v] "=&r"(v)
                     : [n] "r"(half), [left] "r"(by.left), [right] "r"(by.right)
                     : "memory");
}

/* q = rs(rs(x) * reciprocal, 23); n is even. */
EDGEC_INLINE void edgec_x_quantize(const int32_t *x, edgec_shifter by, int32_t reciprocal,
                                   uint32_t n, int8_t *q) {
    int32_t a, b;
    __asm__ volatile(
        EDGEC_X_LOOP(12, EDGEC_X_LWP(a, x, 4) EDGEC_X_LWP(b, x, 4) EDGEC_X_OP("sll", a, a, left)
                             EDGEC_X_OP("sll", b, b, left) EDGEC_X_RS(a, right) EDGEC_X_RS(b, right)
                                 EDGEC_X_OP("mul", a, a, factor) EDGEC_X_OP("mul", b, b, factor)
                                     EDGEC_X_RS23(a, a) EDGEC_X_RS23(b, b) EDGEC_X_SBP(a, q, 1)
                                         EDGEC_X_SBP(b, q, 1))
        : [x] "+&r"(x), [q] "+&r"(q), [a] "=&r"(a), [b] "=&r"(b)
        : [n] "r"(n / 2U), [left] "r"(by.left), [right] "r"(by.right), [factor] "r"(reciprocal)
        : "memory");
}

#endif

#endif
