/* Weighted sums of values as hardware loops of XpulpV2: four dimensions and as many positions at a
 * time, weights of uint16. */
#ifndef EDGEC_ATTENTION_SUMS_XPULP_H
#define EDGEC_ATTENTION_SUMS_XPULP_H

#include "edgec_vector.h"

#if EDGEC_XPULP

#include "edgec_xpulp_asm.h"

/* clang-format off */
#define EDGEC_X_CLEAR_UPPER                                                                        \
    EDGEC_X_CLEAR(h0) EDGEC_X_CLEAR(h1) EDGEC_X_CLEAR(h2) EDGEC_X_CLEAR(h3)
/* Lower bytes of four weights in low, upper bytes in a; one dimension of four rows each in x, v1,
 * v0, v3. */
#define EDGEC_X_WEIGHTS                                                                            \
    EDGEC_X_LWP(a, weights, 4) EDGEC_X_LWP(b, weights, 4)
#define EDGEC_X_APART                                                                              \
    EDGEC_X_OPI("addi", low, a, 0)                                                                 \
    EDGEC_X_SHUFFLE4(low, b, even)                                                                 \
    EDGEC_X_SHUFFLE4(a, b, odd)
#define EDGEC_X_WEIGHTS_APART                                                                      \
    EDGEC_X_LWP(low, weights, 4) EDGEC_X_LWP(a, weights, 4)
#define EDGEC_X_WEIGH(first, second)                                                               \
    first                                                                                          \
    EDGEC_X_LWS(v0, v, stride) EDGEC_X_LWS(v1, v, stride)                                          \
    EDGEC_X_LWS(v2, v, stride) EDGEC_X_LWS(v3, v, stride)                                          \
    second                                                                                         \
    EDGEC_X_PACK2(x, v1, v0) EDGEC_X_PACK2(y, v3, v2)                                              \
    EDGEC_X_SHUFFLE4(v0, v1, upper) EDGEC_X_SHUFFLE4(v2, v3, upper)                                \
    EDGEC_X_OPI("addi", v1, x, 0) EDGEC_X_OPI("addi", v3, v0, 0)                                   \
    EDGEC_X_SHUFFLE4(x, y, even) EDGEC_X_SHUFFLE4(v1, y, odd)                                      \
    EDGEC_X_SHUFFLE4(v0, v2, even) EDGEC_X_SHUFFLE4(v3, v2, odd)                                   \
    EDGEC_X_MAC4_US(h0, a, x) EDGEC_X_MAC4_US(l0, low, x)                                          \
    EDGEC_X_MAC4_US(h1, a, v1) EDGEC_X_MAC4_US(l1, low, v1)                                        \
    EDGEC_X_MAC4_US(h2, a, v0) EDGEC_X_MAC4_US(l2, low, v0)                                        \
    EDGEC_X_MAC4_US(h3, a, v3) EDGEC_X_MAC4_US(l3, low, v3)
/* clang-format on */

/* Choices of bytes out of two words. */
typedef struct edgec_x_choices {
    uint32_t even;
    uint32_t odd;
    uint32_t upper;
} edgec_x_choices;

#define EDGEC_X_CHOICES {0x06040200U, 0x07050301U, 0x07060302U}

#define EDGEC_X_UPPER_SUMS(how, sums)                                                              \
    [h0] how(sums.h0), [h1] how(sums.h1), [h2] how(sums.h2), [h3] how(sums.h3)
#define EDGEC_X_LOWER_SUMS(how, sums)                                                              \
    [l0] how(sums.l0), [l1] how(sums.l1), [l2] how(sums.l2), [l3] how(sums.l3)

/* Weighted sums of four dimensions, upper and lower bytes of the weights apart. */
typedef struct edgec_x_sums {
    int32_t h0, h1, h2, h3;
    int32_t l0, l1, l2, l3;
} edgec_x_sums;

#define EDGEC_X_SUM(size, first, second)                                                           \
    __asm__ volatile(EDGEC_X_CLEAR_UPPER EDGEC_X_LOOP(size, EDGEC_X_WEIGH(first, second))          \
                     : [v] "+&r"(v), [weights] "+&r"(weights), EDGEC_X_UPPER_SUMS("=&r", sums),    \
                       EDGEC_X_LOWER_SUMS("+&r", sums), [a] "=&r"(a), [b] "=&r"(b),                \
                       [low] "=&r"(low), [v0] "=&r"(v0), [v1] "=&r"(v1), [v2] "=&r"(v2),           \
                       [v3] "=&r"(v3), [x] "=&r"(x), [y] "=&r"(y)                                  \
                     : [n] "r"(fours), [stride] "r"(stride), [even] "r"(choices->even),            \
                       [odd] "r"(choices->odd), [upper] "r"(choices->upper)                        \
                     : "memory")

/* 4 * fours positions beside `before`; the bytes of the weights may already be `apart`. */
EDGEC_INLINE edgec_x_sums edgec_x_sums_4(const int32_t before[4], const int8_t *v, uint32_t stride,
                                         uint32_t fours, const uint16_t *weights,
                                         const edgec_x_choices *choices, int apart) {
    edgec_x_sums sums;
    uint32_t a, b, low, v0, v1, v2, v3, x, y;
    sums.l0 = before[0];
    sums.l1 = before[1];
    sums.l2 = before[2];
    sums.l3 = before[3];
    if (apart) {
        EDGEC_X_SUM(24, EDGEC_X_WEIGHTS_APART, "");
    } else {
        EDGEC_X_SUM(27, EDGEC_X_WEIGHTS, EDGEC_X_APART);
    }
    return sums;
}

/* Of each four weights, the lower bytes first and then the upper ones. */
EDGEC_INLINE void edgec_x_take_apart(uint16_t *weights, uint32_t fours,
                                     const edgec_x_choices *choices) {
    uint32_t a, b, low;
    __asm__ volatile(EDGEC_X_LOOP(7, EDGEC_X_LW(a, weights, 0) EDGEC_X_LW(b, weights, 4)
                                         EDGEC_X_APART EDGEC_X_SWP(low, weights, 4)
                                             EDGEC_X_SWP(a, weights, 4))
                     : [weights] "+&r"(weights), [a] "=&r"(a), [b] "=&r"(b), [low] "=&r"(low)
                     : [n] "r"(fours), [even] "r"(choices->even), [odd] "r"(choices->odd)
                     : "memory");
}

/* acc[i] += sum of weights[u] * v[u][i] over 4 * fours positions. */
EDGEC_INLINE void edgec_x_add_sums(int32_t *acc, uint32_t head_dim, const int8_t *v,
                                   uint32_t stride, uint32_t fours, const uint16_t *weights,
                                   const edgec_x_choices *choices, int apart) {
    for (const int8_t *const end = v + head_dim; v != end; v += 4) {
        const edgec_x_sums sums = edgec_x_sums_4(acc, v, stride, fours, weights, choices, apart);
        acc[0] = sums.h0 * 256 + sums.l0;
        acc[1] = sums.h1 * 256 + sums.l1;
        acc[2] = sums.h2 * 256 + sums.l2;
        acc[3] = sums.h3 * 256 + sums.l3;
        acc += 4;
    }
}

#define EDGEC_X_EACH(of) of(h0, l0) of(h1, l1) of(h2, l2) of(h3, l3)
#define EDGEC_X_UPPER(h, l) EDGEC_X_OPI("slli", h, h, 8)
#define EDGEC_X_JOIN(h, l) EDGEC_X_OP("add", h, h, l)
#define EDGEC_X_SCALE(h, l) EDGEC_X_OP("mulh", h, h, factor)
#define EDGEC_X_ROUND(h, l) EDGEC_X_RS(h, right)
#define EDGEC_X_PUT(h, l) EDGEC_X_SWP(h, to, 4) EDGEC_X_MAX(max, max, h) EDGEC_X_MIN(min, min, h)

/* rs(sums * factor, 32 + right) from `to` on; returns what is behind. */
EDGEC_INLINE int32_t *edgec_x_merge_4(edgec_x_sums sums, int32_t factor, uint32_t right,
                                      int32_t *to, edgec_range *range) {
    __asm__ volatile(EDGEC_X_EACH(EDGEC_X_UPPER) EDGEC_X_EACH(EDGEC_X_JOIN)
                         EDGEC_X_EACH(EDGEC_X_SCALE) EDGEC_X_EACH(EDGEC_X_ROUND)
                             EDGEC_X_EACH(EDGEC_X_PUT)
                     : EDGEC_X_UPPER_SUMS("+&r", sums), EDGEC_X_LOWER_SUMS("+&r", sums),
                       [to] "+&r"(to), [max] "+&r"(range->max), [min] "+&r"(range->min)
                     : [factor] "r"(factor), [right] "r"(right)
                     : "memory");
    return to;
}

/* x[i] = rs(x[i] * factor, 32 + right), i < n */
EDGEC_INLINE void edgec_x_merge(int32_t *x, uint32_t n, int32_t factor, uint32_t right,
                                edgec_range *range) {
    int32_t h;
    __asm__ volatile(
        EDGEC_X_LOOP(6, EDGEC_X_LW(h, to, 0) EDGEC_X_SCALE(h, ) EDGEC_X_ROUND(h, ) EDGEC_X_PUT(h, ))
        : [h] "=&r"(h), [to] "+&r"(x), [max] "+&r"(range->max), [min] "+&r"(range->min)
        : [n] "r"(n), [factor] "r"(factor), [right] "r"(right)
        : "memory");
}

#endif

#endif
