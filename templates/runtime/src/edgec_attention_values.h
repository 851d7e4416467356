/* From logits to weighted sums of values: one head, consecutive positions.
 *
 * The sums of eight, four or two dimensions stay in registers while all positions pass by. Most
 * logits lie so far below the largest one that their weight is 0: these cost a comparison. */
#ifndef EDGEC_ATTENTION_VALUES_H
#define EDGEC_ATTENTION_VALUES_H

#include "edgec_attention_scores.h"

/* How logits of one head become weights of v. */
typedef struct edgec_softmax {
    const uint16_t *exp2; /* 256 entries of round(2^15 * 2^(-i/256)), or see edgec_softmax_e */
    int32_t top;          /* largest logit */
    int32_t v_exponent;   /* vm */
    uint32_t drop;        /* 15 - EB */
} edgec_softmax;

#define EDGEC_REACH (1U << 12) /* logits that are further below the largest one have e = 0 */

/* e of a logit, d below the largest one, at most EDGEC_REACH. */
static inline uint32_t edgec_softmax_e(const edgec_softmax *softmax, uint32_t d) {
#if EDGEC_ARITHMETIC_FAST
    return softmax->exp2[d >> 1]; /* one entry for two values, with EB fraction bits */
#else
    /* twice the table value, so that a shift by 0 is no special case */
    const uint32_t e = ((((uint32_t)softmax->exp2[d & 255U] << 1) >> (d >> 8)) + 1U) >> 1;
    return softmax->drop == 0U ? e : (((e << 1) >> softmax->drop) + 1U) >> 1;
#endif
}

/* e * va at the exponent vm; near: vm is not EDGEC_KV_SPREAD above the exponent of v. */
static inline int32_t edgec_softmax_weight(const edgec_softmax *softmax, uint32_t e,
                                           const edgec_kv_scale *v, int near) {
    const int32_t align = 14 + softmax->v_exponent;
    const int32_t product = (int32_t)e * v->amax;
    if (near || align - edgec_kv_exponent(*v) <= 30) {
        return ((product >> edgec_kv_shift(align, v->code)) + 1) >> 1;
    }
    return 0;
}

/* Turns the logits z into weights; returns the sum of the e. */
static inline uint32_t edgec_softmax_weights(const edgec_rows *rows, const edgec_softmax *softmax,
                                             int near, int32_t *z) {
    const edgec_softmax of = *softmax;
    const edgec_kv_scale *v = rows->scales;
    uint32_t sum = 0U;
    for (int32_t *const end = z + rows->count; z != end; z++) {
        const uint32_t d = (uint32_t)of.top - (uint32_t)*z;
        int32_t weight = 0;
        if (d <= EDGEC_REACH) {
            const uint32_t e = edgec_softmax_e(&of, d);
            sum += e;
            weight = edgec_softmax_weight(&of, e, v, near);
        }
        *z = weight;
        v += rows->step;
    }
    return sum;
}

#define EDGEC_LOAD_ACC(i) int32_t a##i = acc[i];
#define EDGEC_STORE_ACC(i) acc[i] = a##i;
#define EDGEC_WEIGH(i) a##i += v[i] * w;
#define EDGEC_WEIGH_IN_ORDER(i) EDGEC_WEIGH(i) EDGEC_IN_ORDER

#define EDGEC_DEFINE_WEIGH(n)                                                                      \
    /* acc[i] += sum of z[u] * v[u][i] over n dimensions; many weights are 0. */                   \
    static inline void edgec_weigh_##n(const int8_t *v, uint32_t stride, uint32_t count,           \
                                       const int32_t *z, int32_t *acc) {                           \
        EDGEC_OF_##n(EDGEC_LOAD_ACC) for (const int32_t *const end = z + count; z != end; z++) {   \
            const int32_t w = *z;                                                                  \
            if (w != 0) {                                                                          \
                EDGEC_OF_##n(EDGEC_WEIGH)                                                          \
            }                                                                                      \
            v += stride;                                                                           \
        }                                                                                          \
        EDGEC_OF_##n(EDGEC_STORE_ACC)                                                              \
    }                                                                                              \
    /* The same from logits on, for heads of n dimensions, near; returns the sum of the e. */      \
    static inline uint32_t edgec_attend_##n(const edgec_rows *rows, const edgec_softmax *softmax,  \
                                            const int32_t *z, int32_t *acc) {                      \
        const edgec_softmax of = *softmax;                                                         \
        const edgec_kv_scale *scale = rows->scales;                                                \
        const int8_t *v = rows->row;                                                               \
        uint32_t sum = 0U;                                                                         \
        EDGEC_OF_##n(EDGEC_LOAD_ACC) for (const int32_t *const end = z + rows->count; z != end;    \
                                          z++) {                                                   \
            const uint32_t d = (uint32_t)of.top - (uint32_t)*z;                                    \
            if (d <= EDGEC_REACH) {                                                                \
                EDGEC_IN_ORDER                                                                     \
                const uint32_t e = edgec_softmax_e(&of, d);                                        \
                sum += e;                                                                          \
                const int32_t w = edgec_softmax_weight(&of, e, scale, 1);                          \
                EDGEC_OF_##n(EDGEC_WEIGH_IN_ORDER)                                                 \
            }                                                                                      \
            scale += rows->step;                                                                   \
            v += rows->stride;                                                                     \
        }                                                                                          \
        EDGEC_OF_##n(EDGEC_STORE_ACC) return sum;                                                  \
    }

EDGEC_DEFINE_WEIGH(2)
EDGEC_DEFINE_WEIGH(4)
EDGEC_DEFINE_WEIGH(8)

/* acc[i] += sum of z[u] * v[u][i] */
EDGEC_INLINE void edgec_weigh_rows(const edgec_rows *rows, const int32_t *z, int32_t *acc) {
    uint32_t i = 0U;
    for (; i + 8U <= rows->head_dim; i += 8U) {
        edgec_weigh_8(rows->row + i, rows->stride, rows->count, z, acc + i);
    }
    if (i + 4U <= rows->head_dim) {
        edgec_weigh_4(rows->row + i, rows->stride, rows->count, z, acc + i);
        i += 4U;
    }
    if (i < rows->head_dim) {
        edgec_weigh_2(rows->row + i, rows->stride, rows->count, z, acc + i);
    }
}

/* Weighs the rows by the logits z, which it may replace; returns the sum of the e. */
EDGEC_INLINE uint32_t edgec_attend_rows(const edgec_rows *rows, const edgec_softmax *softmax,
                                        int near, int32_t *z, int32_t *acc) {
    uint32_t sum;
    if (near && rows->head_dim == 8U) {
        return edgec_attend_8(rows, softmax, z, acc);
    }
    if (near && rows->head_dim == 4U) {
        return edgec_attend_4(rows, softmax, z, acc);
    }
    if (near && rows->head_dim == 2U) {
        return edgec_attend_2(rows, softmax, z, acc);
    }
    sum = near ? edgec_softmax_weights(rows, softmax, 1, z)
               : edgec_softmax_weights(rows, softmax, 0, z);
    edgec_weigh_rows(rows, z, acc);
    return sum;
}

#endif
