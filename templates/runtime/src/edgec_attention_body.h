/* The inner loops of attention: one head, consecutive positions.
 *
 * Head dimensions are taken eight at a time, so that the query, or the sums, of a block stay in
 * registers while all positions pass by; what is left goes in pairs (head_dim is even). */
#ifndef EDGEC_ATTENTION_BODY_H
#define EDGEC_ATTENTION_BODY_H

#include "edgec_vector.h"

/* z[u] = or += sum of q[i] * k[u][i] over eight dimensions. */
static inline void edgec_dot_eight(const int8_t *k, uint32_t stride, uint32_t count,
                                   const int8_t *q, int32_t *z, int accumulate) {
    const int32_t q0 = q[0], q1 = q[1], q2 = q[2], q3 = q[3];
    const int32_t q4 = q[4], q5 = q[5], q6 = q[6], q7 = q[7];
    for (int32_t *const end = z + count; z != end; z++) {
        int32_t sum = accumulate ? *z : 0;
        sum += k[0] * q0;
        sum += k[1] * q1;
        sum += k[2] * q2;
        sum += k[3] * q3;
        sum += k[4] * q4;
        sum += k[5] * q5;
        sum += k[6] * q6;
        sum += k[7] * q7;
        *z = sum;
        k += stride;
    }
}

static inline void edgec_dot_two(const int8_t *k, uint32_t stride, uint32_t count, const int8_t *q,
                                 int32_t *z, int accumulate) {
    const int32_t q0 = q[0], q1 = q[1];
    for (int32_t *const end = z + count; z != end; z++) {
        *z = (accumulate ? *z : 0) + k[0] * q0 + k[1] * q1;
        k += stride;
    }
}

/* z[u] = q . k[u], four dimensions at a time: all rows and q are aligned. */
static inline void edgec_dot_words(const void *k, uint32_t stride, uint32_t count, const void *q,
                                   uint32_t words, int32_t *z) {
    const edgec_word *const own = (const edgec_word *)q;
    const edgec_word *row = (const edgec_word *)k;
    for (int32_t *const end = z + count; z != end; z++) {
        int32_t sum = 0;
        for (uint32_t i = 0U; i < words; i++) {
            sum = edgec_dot4_ss(sum, row[i], own[i]);
        }
        *z = sum;
        row += stride / 4U;
    }
}

/* z[u] = q . k[u] */
static inline void edgec_dot_rows(const int8_t *k, uint32_t stride, uint32_t count, const int8_t *q,
                                  uint32_t head_dim, int32_t *z) {
    uint32_t done = 0U;
    if (EDGEC_XPULP &&
        (head_dim | stride | (uint32_t)(uintptr_t)k | (uint32_t)(uintptr_t)q) % 4U == 0U) {
        edgec_dot_words(k, stride, count, q, head_dim / 4U, z);
        return;
    }
    if (head_dim >= 8U) {
        edgec_dot_eight(k, stride, count, q, z, 0);
        for (done = 8U; done + 8U <= head_dim; done += 8U) {
            edgec_dot_eight(k + done, stride, count, q + done, z, 1);
        }
    } else {
        edgec_dot_two(k, stride, count, q, z, 0);
        done = 2U;
    }
    for (; done < head_dim; done += 2U) {
        edgec_dot_two(k + done, stride, count, q + done, z, 1);
    }
}

/* How dot products of one head become logits. */
typedef struct edgec_logit_scale {
    int32_t amax;       /* of the query */
    int32_t multiplier; /* Mc */
    int32_t exponent;   /* ec - 15 - qs */
    uint32_t lift;      /* |dot product| < 2^(31 - lift) */
} edgec_logit_scale;

/* Turns the dot products z into log2-domain logits in Q8; returns the larger of `top` and their
 * maximum. Lifted dot products need the upper half of the product alone, unless n is small. */
static inline int32_t edgec_logits(const edgec_logit_scale *scale, const int32_t *k_scale,
                                   uint32_t stride, uint32_t count, int32_t *z, int32_t top) {
    const int32_t amax = scale->amax;
    const int32_t multiplier = scale->multiplier;
    const uint32_t lift = scale->lift;
    const int32_t upper_exponent = scale->exponent - (33 - (int32_t)lift);
    for (int32_t *const end = z + count; z != end; z++) {
        const int32_t word = *k_scale;
        const int32_t product = ((amax * (word & 0xFFFF) + (1 << 14)) >> 15) * multiplier;
        const int32_t shift = upper_exponent - (word >> 16);
        int32_t logit = *z;
        if ((uint32_t)shift <= 29U) {
            logit = edgec_mulh(logit * (1 << lift), product);
            logit = ((logit >> shift) + 1) >> 1;
        } else {
            const int32_t n = shift + (33 - (int32_t)lift);
            logit = edgec_requantize(logit, product, n < 1 ? 1 : n);
        }
        *z = logit;
        top = logit > top ? logit : top;
        k_scale += stride;
    }
    return top;
}

/* How logits of one head become weights of v. */
typedef struct edgec_softmax {
    const uint16_t *exp2; /* 256 entries of round(2^15 * 2^(-i/256)) */
    int32_t top;          /* largest logit */
    int32_t v_exponent;   /* vm */
    uint32_t drop;        /* 15 - EB */
} edgec_softmax;

/* Turns the logits z into weights e * va at the exponent vm; returns the sum of the e. */
static inline uint32_t edgec_softmax_weights(const edgec_softmax *softmax, const int32_t *v_scale,
                                             uint32_t stride, uint32_t count, int32_t *z) {
    const uint16_t *const exp2 = softmax->exp2;
    const uint32_t top = (uint32_t)softmax->top;
    const uint32_t drop = softmax->drop;
    const int32_t align = 14 + softmax->v_exponent;
    uint32_t sum = 0U;
    for (int32_t *const end = z + count; z != end; z++) {
        const uint32_t d = top - (uint32_t)*z;
        int32_t weight = 0;
        if (d < 17U << 8) {
            /* twice the table value, so that a shift by 0 is no special case */
            uint32_t e = ((((uint32_t)exp2[d & 255U] << 1) >> (d >> 8)) + 1U) >> 1;
            if (drop != 0U) {
                e = (((e << 1) >> drop) + 1U) >> 1;
            }
            const int32_t word = *v_scale;
            const int32_t shift = align - (word >> 16);
            sum += e;
            weight = (int32_t)e * (word & 0xFFFF);
            weight = shift > 30 ? 0 : ((weight >> shift) + 1) >> 1;
        }
        *z = weight;
        v_scale += stride;
    }
    return sum;
}

/* acc[i] += sum of weights[u] * v[u][i] over eight dimensions; most weights are often 0. */
static inline void edgec_weigh_eight(const int8_t *v, uint32_t stride, uint32_t count,
                                     const int32_t *weights, int32_t *acc) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    int32_t a4 = acc[4], a5 = acc[5], a6 = acc[6], a7 = acc[7];
    for (const int32_t *const end = weights + count; weights != end; weights++) {
        const int32_t w = *weights;
        if (w != 0) {
            a0 += v[0] * w;
            a1 += v[1] * w;
            a2 += v[2] * w;
            a3 += v[3] * w;
            a4 += v[4] * w;
            a5 += v[5] * w;
            a6 += v[6] * w;
            a7 += v[7] * w;
        }
        v += stride;
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
    acc[4] = a4;
    acc[5] = a5;
    acc[6] = a6;
    acc[7] = a7;
}

static inline void edgec_weigh_two(const int8_t *v, uint32_t stride, uint32_t count,
                                   const int32_t *weights, int32_t *acc) {
    int32_t a0 = acc[0], a1 = acc[1];
    for (const int32_t *const end = weights + count; weights != end; weights++) {
        a0 += v[0] * *weights;
        a1 += v[1] * *weights;
        v += stride;
    }
    acc[0] = a0;
    acc[1] = a1;
}

/* acc[i] += sum of weights[u] * v[u][i] */
static inline void edgec_weigh_rows(const int8_t *v, uint32_t stride, uint32_t count,
                                    const int32_t *weights, uint32_t head_dim, int32_t *acc) {
    uint32_t done = 0U;
    for (; done + 8U <= head_dim; done += 8U) {
        edgec_weigh_eight(v + done, stride, count, weights, acc + done);
    }
    for (; done < head_dim; done += 2U) {
        edgec_weigh_two(v + done, stride, count, weights, acc + done);
    }
}

#endif
