/* The inner loops of attention as hardware loops of XpulpV2: one head, consecutive positions, heads
 * of a multiple of four dimensions. Same integers as edgec_attention_values.h; weights of v are
 * uint16 here, in the front half of the logits that they replace. */
#ifndef EDGEC_ATTENTION_XPULP_H
#define EDGEC_ATTENTION_XPULP_H

#include "edgec_attention_values.h"

#if EDGEC_XPULP

#include "edgec_attention_softmax_xpulp.h"
#include "edgec_attention_sums_xpulp.h"
#include "edgec_xpulp_asm.h"

/* clang-format off */
#define EDGEC_X_DOTS_4 \
    EDGEC_X_LW(k1, k, 4) EDGEC_X_LW(k2, k, 8) EDGEC_X_LW(k3, k, 12) EDGEC_X_LWS(k0, k, stride) \
    EDGEC_X_MAC4_SS(s, k1, q1) EDGEC_X_MAC4_SS(s, k2, q2) EDGEC_X_MAC4_SS(s, k3, q3)           \
    EDGEC_X_MAC4_SS(s, k0, q0)
#define EDGEC_X_DOTS_3 \
    EDGEC_X_LW(k1, k, 4) EDGEC_X_LW(k2, k, 8) EDGEC_X_LWS(k0, k, stride)                       \
    EDGEC_X_MAC4_SS(s, k1, q1) EDGEC_X_MAC4_SS(s, k2, q2) EDGEC_X_MAC4_SS(s, k0, q0)
#define EDGEC_X_DOTS_2 \
    EDGEC_X_LW(k1, k, 4) EDGEC_X_LWS(k0, k, stride)                                            \
    EDGEC_X_MAC4_SS(s, k1, q1) EDGEC_X_MAC4_SS(s, k0, q0)
/* clang-format on */

/* z[u] += q . k[u] over 16 dimensions; `start` is how s begins: "lw" of z, or 0. */
#define EDGEC_X_DOT_16(start)                                                                      \
    __asm__ volatile(EDGEC_X_LOOP(10, start EDGEC_X_DOTS_4 EDGEC_X_SWP(s, z, 4))                   \
                     : [k] "+&r"(k), [z] "+&r"(z), [k0] "=&r"(k0), [k1] "=&r"(k1), [k2] "=&r"(k2), \
                       [k3] "=&r"(k3), [s] "=&r"(s)                                                \
                     : [n] "r"(rows->count), [stride] "r"(rows->stride), [q0] "r"(q[0]),           \
                       [q1] "r"(q[1]), [q2] "r"(q[2]), [q3] "r"(q[3])                              \
                     : "memory")

EDGEC_INLINE void edgec_x_dot_16(const edgec_rows *rows, uint32_t done, const edgec_word *q,
                                 int32_t *z) {
    const int8_t *k = rows->row + done;
    uint32_t k0, k1, k2, k3;
    int32_t s;
    if (done == 0U) {
        EDGEC_X_DOT_16(EDGEC_X_CLEAR(s));
    } else {
        EDGEC_X_DOT_16(EDGEC_X_LW(s, z, 0));
    }
}

/* clang-format off */
#define EDGEC_X_DOTS_8 \
    EDGEC_X_LW(k2, k, 8) EDGEC_X_MAC4_SS(s, k0, q0) EDGEC_X_LW(k0, k, 12)                      \
    EDGEC_X_MAC4_SS(s, k1, q1) EDGEC_X_LW(k1, k, 16) EDGEC_X_MAC4_SS(s, k2, q2)                \
    EDGEC_X_LW(k2, k, 20) EDGEC_X_MAC4_SS(s, k0, q3) EDGEC_X_LW(k0, k, 24)                     \
    EDGEC_X_MAC4_SS(s, k1, q4) EDGEC_X_LW(k1, k, 28) EDGEC_X_MAC4_SS(s, k2, q5)                \
    EDGEC_X_MAC4_SS(s, k0, q6) EDGEC_X_MAC4_SS(s, k1, q7)
/* clang-format on */

/* Keeps the rounded logit of the dot product s, and the maximum. w is the scale of k, p the rounded
 * product of its amax with the factor of q. The shift counts one down where amax is not 0; where it
 * is 0, all is 0. */
/* clang-format off */
#if EDGEC_ARITHMETIC_FAST
#define EDGEC_X_LOGIT_SIZE 6
#define EDGEC_X_SCALES(p, w, q) EDGEC_X_MULU_16(p, w, q)
#define EDGEC_X_LOGIT_OF(s)                                                                        \
    EDGEC_X_SUB_SRA16(w, cq, w)                                                                    \
    EDGEC_X_MAC(s, s, p)                                                                           \
    EDGEC_X_RS(s, w)                                                                               \
    EDGEC_X_MAX(top, top, s)                                                                       \
    EDGEC_X_SWP(s, z, 4)
#define EDGEC_X_LOGIT EDGEC_X_RS(s, drop) EDGEC_X_LOGIT_OF(s)
#define EDGEC_X_LOGIT_OPERANDS(scale) [drop] "r"((scale)->drop)
#else
#define EDGEC_X_LOGIT_SIZE 7
#define EDGEC_X_SCALES(p, w, q) EDGEC_X_MULU_RS15(p, w, q)
#define EDGEC_X_LOGIT                                                                              \
    EDGEC_X_MULU(p, p, mc)                                                                         \
    EDGEC_X_OP("sll", s, s, lift)                                                                  \
    EDGEC_X_OP("mulh", s, s, p)                                                                    \
    EDGEC_X_SUB_SRA16(w, cq, w)                                                                    \
    EDGEC_X_RS(s, w)                                                                               \
    EDGEC_X_MAX(top, top, s)                                                                       \
    EDGEC_X_SWP(s, z, 4)
#define EDGEC_X_LOGIT_OPERANDS(scale) [mc] "r"((scale)->multiplier), [lift] "r"((scale)->lift)
#endif
/* clang-format on */

/* `start`: what stands between a load and its use. */
#define EDGEC_X_SCORE(size, start, dots)                                                           \
    EDGEC_X_SCORE_BY((size + EDGEC_X_LOGIT_SIZE), start, dots EDGEC_X_LOGIT)
#define EDGEC_X_SCORE_BY(size, start, dots)                                                        \
    __asm__ volatile(                                                                              \
        EDGEC_X_LOOP(size, EDGEC_X_LWS(w, scales, step) start EDGEC_X_SCALES(p, w, qa) dots)       \
        : [k] "+&r"(k), [z] "+&r"(z), [scales] "+&r"(scales), [top] "+&r"(top), [k0] "=&r"(k0),    \
          [k1] "=&r"(k1), [k2] "=&r"(k2), [k3] "=&r"(k3), [s] "=&r"(s), [w] "=&r"(w), [p] "=&r"(p) \
        : [n] "r"(rows->count), [stride] "r"(rows->stride), [step] "r"(4U * rows->step),           \
          [q0] "r"(q0), [q1] "ri"(q1), [q2] "ri"(q2), [q3] "ri"(q3), [qa] "r"(scale->factor),      \
          [cq] "r"(cq), EDGEC_X_LOGIT_OPERANDS(scale)                                              \
        : "memory")

#if !EDGEC_ARITHMETIC_FAST

/* The logits of heads of four dimensions, whose dot products times the scale of q and k keep within
 * 31 bits: 4 * 127^2 * 2^15. Raised by 2^31 such a product is a uint32 u, and the upper bits of
 * u * Mc come from products of halves: mulh takes five cycles. */
/* clang-format off */
#define EDGEC_X_SCORE_4                                                                            \
    EDGEC_X_LWS(w, scales, step) EDGEC_X_LWS(k0, k, stride)                                        \
    EDGEC_X_MULU_RS15(p, w, qa) EDGEC_X_DOT4_SS(s, k0, q0)                                         \
    EDGEC_X_LUI(u, 0x80000) EDGEC_X_SUB_SRA16(w, cq, w)                                            \
    EDGEC_X_MAC(u, s, p)                                                                           \
    EDGEC_X_MULU_16(s, u, mc) EDGEC_X_MACHHU_1(s, u, mc)                                           \
    EDGEC_X_ADD_RS(s, lowered, w)                                                                  \
    EDGEC_X_MAX(top, top, s)                                                                       \
    EDGEC_X_SWP(s, z, 4)
/* clang-format on */

EDGEC_INLINE int32_t edgec_x_scores_4(const edgec_rows *rows, const edgec_word *q,
                                      const edgec_logit_scale *scale, int32_t *z, int32_t top) {
    const edgec_kv_scale *scales = rows->scales;
    const int8_t *k = rows->row;
    const int32_t cq = (scale->exponent + 1) * 65536;
    uint32_t k0, u, w, p;
    int32_t s;
    __asm__ volatile(
        EDGEC_X_LOOP(12, EDGEC_X_SCORE_4)
        : [k] "+&r"(k), [z] "+&r"(z), [scales] "+&r"(scales), [top] "+&r"(top), [k0] "=&r"(k0),
          [u] "=&r"(u), [s] "=&r"(s), [w] "=&r"(w), [p] "=&r"(p)
        : [n] "r"(rows->count), [stride] "r"(rows->stride), [step] "r"(4U * rows->step),
          [q0] "r"(q[0]), [qa] "r"(scale->factor), [mc] "r"((uint32_t)scale->multiplier * 0x10001U),
          [lowered] "r"(scale->multiplier * -(1 << 14)), [cq] "r"(cq)
        : "memory");
    return top;
}

#endif

/* The logits of heads of 32 dimensions. */
EDGEC_INLINE int32_t edgec_x_scores_32(const edgec_rows *rows, const edgec_word *q,
                                       const edgec_logit_scale *scale, int32_t *z, int32_t top) {
    const edgec_kv_scale *scales = rows->scales;
    const int8_t *k = rows->row;
    const int32_t cq = (scale->exponent + 1) * 65536;
    uint32_t k0, k1, k2, w, p;
    int32_t s;
    __asm__ volatile(
        EDGEC_X_LOOP((20 + EDGEC_X_LOGIT_SIZE),
                     EDGEC_X_LWS(w, scales, step) EDGEC_X_LW(k0, k, 0) EDGEC_X_LW(k1, k, 4)
                         EDGEC_X_SCALES(p, w, qa) EDGEC_X_CLEAR(s)
                             EDGEC_X_DOTS_8 EDGEC_X_OP("add", k, k, stride) EDGEC_X_LOGIT)
        : [k] "+&r"(k), [z] "+&r"(z), [scales] "+&r"(scales), [top] "+&r"(top), [k0] "=&r"(k0),
          [k1] "=&r"(k1), [k2] "=&r"(k2), [s] "=&r"(s), [w] "=&r"(w), [p] "=&r"(p)
        : [n] "r"(rows->count), [stride] "r"(rows->stride), [step] "r"(4U * rows->step),
          [q0] "r"(q[0]), [q1] "r"(q[1]), [q2] "r"(q[2]), [q3] "r"(q[3]), [q4] "r"(q[4]),
          [q5] "r"(q[5]), [q6] "r"(q[6]), [q7] "r"(q[7]), [qa] "r"(scale->factor), [cq] "r"(cq),
          EDGEC_X_LOGIT_OPERANDS(scale)
        : "memory");
    return top;
}

/* Logits of near scales, as edgec_logits_near, of aligned rows and queries. */
EDGEC_INLINE int32_t edgec_x_scores(const edgec_rows *rows, const int8_t *query,
                                    const edgec_logit_scale *scale, int32_t *z, int32_t top) {
    const edgec_kv_scale *scales = rows->scales;
    const edgec_word *const q = (const edgec_word *)(const void *)query;
    const uint32_t words = rows->head_dim / 4U;
    uint32_t done = 0U;
#if !EDGEC_ARITHMETIC_FAST
    if (words == 1U) {
        return edgec_x_scores_4(rows, q, scale, z, top);
    }
#endif
    if (words == 8U) {
        return edgec_x_scores_32(rows, q, scale, z, top);
    }
    for (; done + 4U < words; done += 4U) {
        edgec_x_dot_16(rows, 4U * done, q + done, z);
    }
    const int8_t *k = rows->row + 4U * done;
    const uint32_t left = words - done;
    const uint32_t q0 = q[done];
    const uint32_t q1 = left > 1U ? q[done + 1U] : 0U;
    const uint32_t q2 = left > 2U ? q[done + 2U] : 0U;
    const uint32_t q3 = left > 3U ? q[done + 3U] : 0U;
    const int32_t cq = (scale->exponent + 1) * 65536;
    uint32_t k0, k1, k2, k3, w, p;
    int32_t s;
#if EDGEC_ARITHMETIC_FAST
    if (words == 1U) {
        EDGEC_X_SCORE_BY(9, EDGEC_X_LWS(k0, k, stride),
                         EDGEC_X_DOT4_SS(s, k0, q0) EDGEC_X_LOGIT_OF(s));
        return top;
    }
#endif
    if (words == 2U) {
        EDGEC_X_SCORE(7, EDGEC_X_CLEAR(s), EDGEC_X_DOTS_2);
    } else if (words == 3U) {
        EDGEC_X_SCORE(9, EDGEC_X_CLEAR(s), EDGEC_X_DOTS_3);
    } else if (words == 4U) {
        EDGEC_X_SCORE(11, EDGEC_X_CLEAR(s), EDGEC_X_DOTS_4);
    } else if (left == 1U) {
        EDGEC_X_SCORE(5, EDGEC_X_LW(s, z, 0) EDGEC_X_LWS(k0, k, stride),
                      EDGEC_X_MAC4_SS(s, k0, q0));
    } else if (left == 2U) {
        EDGEC_X_SCORE(7, EDGEC_X_LW(s, z, 0), EDGEC_X_DOTS_2);
    } else if (left == 3U) {
        EDGEC_X_SCORE(9, EDGEC_X_LW(s, z, 0), EDGEC_X_DOTS_3);
    } else {
        EDGEC_X_SCORE(11, EDGEC_X_LW(s, z, 0), EDGEC_X_DOTS_4);
    }
    return top;
}

/* acc[i] += sum of weights[u] * v[u][i], of aligned rows. */
EDGEC_INLINE void edgec_x_weigh_rows(const edgec_rows *rows, const uint16_t *weights,
                                     int32_t *acc) {
    const edgec_x_choices choices = EDGEC_X_CHOICES;
    const uint32_t whole = rows->count & ~3U;
    if (whole != 0U) {
        edgec_x_add_sums(acc, rows->head_dim, rows->row, rows->stride, whole / 4U, weights,
                         &choices, 0);
    }
    for (uint32_t u = whole; u < rows->count; u++) {
        const int8_t *const v = rows->row + u * rows->stride;
        const int32_t w = weights[u];
        for (uint32_t i = 0U; i < rows->head_dim; i++) {
            acc[i] += v[i] * w;
        }
    }
}

#endif

#endif
