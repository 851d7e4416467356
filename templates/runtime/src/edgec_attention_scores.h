/* Logits of attention: one or two heads that share a KV head, consecutive positions.
 *
 * Head dimensions are taken eight, four or two at a time, so that the queries of a block
 * stay in registers while all positions pass by; two heads share the loads of the cache.
 * Queries are lifted: the upper half of a product is then all that a logit needs. */
#ifndef EDGEC_ATTENTION_SCORES_H
#define EDGEC_ATTENTION_SCORES_H

#include "edgec_logit.h"

#define EDGEC_OF_2(M) M(0) M(1)
#define EDGEC_OF_4(M) EDGEC_OF_2(M) M(2) M(3)
#define EDGEC_OF_8(M) EDGEC_OF_4(M) M(4) M(5) M(6) M(7)

/* Cores of few registers keep more of them when every value is used as soon as it is loaded. */
#if defined(__riscv)
#define EDGEC_IN_ORDER __asm__ volatile("" ::: "memory");
#else
#define EDGEC_IN_ORDER
#endif

#define EDGEC_Q(i) const int32_t q##i = q[i] * lift;
#define EDGEC_Q_TWO(i) const int32_t q##i = q[i] * lift, p##i = second[i] * lift;
#define EDGEC_DOT(i) sum += k[i] * q##i;
#define EDGEC_DOT_TWO(i)                                                                           \
    {                                                                                              \
        const int32_t value = k[i];                                                                \
        sum += value * q##i;                                                                       \
        other += value * p##i;                                                                     \
        EDGEC_IN_ORDER                                                                             \
    }

/* z[u] = lift * q . k[u] over n dimensions, added to what is there with `add`. */
#define EDGEC_DEFINE_DOT(n)                                                                        \
    static inline void edgec_dot_##n(const int8_t *k, uint32_t stride, uint32_t count,             \
                                     const int8_t *q, int32_t lift, int32_t *z, int add) {         \
        EDGEC_OF_##n(EDGEC_Q) for (int32_t *const end = z + count; z != end; z++) {                \
            int32_t sum = add ? *z : 0;                                                            \
            EDGEC_OF_##n(EDGEC_DOT) *z = sum;                                                      \
            k += stride;                                                                           \
        }                                                                                          \
    }                                                                                              \
    /* The same for two heads, whose queries and results are `apart`. */                           \
    static inline void edgec_dot_##n##_two(const int8_t *k, uint32_t stride, uint32_t count,       \
                                           const int8_t *q, uint32_t head_dim, int32_t lift,       \
                                           int32_t *z, uint32_t apart, int add) {                  \
        const int8_t *const second = q + head_dim;                                                 \
        EDGEC_OF_##n(EDGEC_Q_TWO) for (int32_t *const end = z + count; z != end; z++) {            \
            int32_t sum = add ? *z : 0;                                                            \
            int32_t other = add ? z[apart] : 0;                                                    \
            EDGEC_OF_##n(EDGEC_DOT_TWO) *z = sum;                                                  \
            z[apart] = other;                                                                      \
            k += stride;                                                                           \
        }                                                                                          \
    }

EDGEC_DEFINE_DOT(2)
EDGEC_DEFINE_DOT(4)
EDGEC_DEFINE_DOT(8)

/* Rows of the cache: consecutive positions of one KV head. */
typedef struct edgec_rows {
    const int8_t *row;            /* of the first position */
    const edgec_kv_scale *scales; /* of the first position */
    uint32_t stride;              /* bytes from one row to the next */
    uint32_t step;                /* scales from one position to the next */
    uint32_t count;               /* positions */
    uint32_t head_dim;
    uint32_t apart; /* logits of a head: where those of the next one begin */
} edgec_rows;

#define EDGEC_DOT_BLOCK(n, add)                                                                    \
    (two ? edgec_dot_##n##_two(rows->row + i, rows->stride, rows->count, q + i, rows->head_dim,    \
                               lift, z, rows->apart, add)                                          \
         : edgec_dot_##n(rows->row + i, rows->stride, rows->count, q + i, lift, z, add))

/* z[u] = lift * q . k[u] of one head, or with `two` of two consecutive ones. */
EDGEC_INLINE void edgec_dot_rows(const edgec_rows *rows, const int8_t *q, int32_t lift, int two,
                                 int32_t *z) {
    uint32_t i = 0U;
    if (rows->head_dim >= 8U) {
        EDGEC_DOT_BLOCK(8, 0);
        for (i = 8U; i + 8U <= rows->head_dim; i += 8U) {
            EDGEC_DOT_BLOCK(8, 1);
        }
    } else if (rows->head_dim >= 4U) {
        EDGEC_DOT_BLOCK(4, 0);
        i = 4U;
    } else {
        EDGEC_DOT_BLOCK(2, 0);
        i = 2U;
    }
    if (i + 4U <= rows->head_dim) {
        EDGEC_DOT_BLOCK(4, 1);
        i += 4U;
    }
    if (i < rows->head_dim) {
        EDGEC_DOT_BLOCK(2, 1);
    }
}

/* Turns the lifted dot products z into logits; top: maximum so far, continued. */
static inline void edgec_logits_near(const edgec_rows *rows, const edgec_logit_scale *scale,
                                     int32_t *z, int32_t *top) {
    const edgec_logit_scale of = *scale;
    const edgec_kv_scale *k = rows->scales;
    int32_t most = *top;
    for (int32_t *const end = z + rows->count; z != end; z++) {
        const int32_t logit = edgec_logit_near(*z, &of, k->amax, k->code);
        *z = logit;
        most = logit > most ? logit : most;
        k += rows->step;
    }
    *top = most;
}

/* The same for two heads. */
static inline void edgec_logits_near_two(const edgec_rows *rows, const edgec_logit_scale *scale,
                                         int32_t *z, int32_t *top, int32_t *second_top) {
    const edgec_logit_scale of = scale[0];
    const edgec_logit_scale second = scale[1];
    const edgec_kv_scale *k = rows->scales;
    int32_t most = *top;
    int32_t other = *second_top;
    for (int32_t *const end = z + rows->count; z != end; z++) {
        const int32_t amax = k->amax;
        const uint32_t code = k->code;
        const int32_t logit = edgec_logit_near(*z, &of, amax, code);
        *z = logit;
        most = logit > most ? logit : most;
        const int32_t second_logit = edgec_logit_near(z[rows->apart], &second, amax, code);
        z[rows->apart] = second_logit;
        other = second_logit > other ? second_logit : other;
        k += rows->step;
    }
    *top = most;
    *second_top = other;
}

/* The same for one head and any exponents. */
static inline void edgec_logits_far(const edgec_rows *rows, const edgec_logit_scale *scale,
                                    int32_t *z, int32_t *top) {
    const edgec_kv_scale *k = rows->scales;
    for (int32_t *const end = z + rows->count; z != end; z++) {
        *z = edgec_logit_far(*z, scale, *k);
        *top = *z > *top ? *z : *top;
        k += rows->step;
    }
}

#endif
