/* Weights of v from logits as a hardware loop of XpulpV2: those of one head, as
 * edgec_softmax_weights, but uint16. */
#ifndef EDGEC_ATTENTION_SOFTMAX_XPULP_H
#define EDGEC_ATTENTION_SOFTMAX_XPULP_H

#include "edgec_attention_values.h"

#if EDGEC_XPULP

#include "edgec_xpulp_asm.h"

#if EDGEC_ARITHMETIC_FAST

/* clang-format off */
#define EDGEC_X_WEIGHT                                                                             \
    EDGEC_X_LWP(d, z, 4)                                                                           \
    EDGEC_X_LWS(w, scales, step)                                                                   \
    EDGEC_X_OP("sub", d, top, d)                                                                   \
    EDGEC_X_MINU(d, d, most)                                                                       \
    EDGEC_X_OPI("andi", d, d, -2)                                                                  \
    EDGEC_X_LHUX(e, d, exp2)                                                                       \
    EDGEC_X_SUB_SRA16(shift, align, w)                                                             \
    EDGEC_X_MULU(w, w, e)                                                                          \
    EDGEC_X_OP("add", sum, sum, e)                                                                 \
    EDGEC_X_RSU(w, shift)                                                                          \
    EDGEC_X_SHP(w, weights, 2)
/* clang-format on */

#else

/* clang-format off */
#define EDGEC_X_WEIGHT(drop_e)                                                                     \
    EDGEC_X_LWP(d, z, 4)                                                                           \
    EDGEC_X_LWS(w, scales, step)                                                                   \
    EDGEC_X_OP("sub", d, top, d)                                                                   \
    EDGEC_X_MINU(d, d, most)                                                                       \
    EDGEC_X_INSERT8(i, d, x1)                                                                      \
    EDGEC_X_OPI("srli", d, d, 8)                                                                   \
    EDGEC_X_LHUX(e, i, exp2)                                                                       \
    EDGEC_X_SUB_SRA16(shift, align, w)                                                             \
    EDGEC_X_RSU(e, d)                                                                              \
    drop_e                                                                                         \
    EDGEC_X_MULU(w, w, e)                                                                          \
    EDGEC_X_OP("add", sum, sum, e)                                                                 \
    EDGEC_X_RSU(w, shift)                                                                          \
    EDGEC_X_SHP(w, weights, 2)
/* clang-format on */

#define EDGEC_X_SOFTMAX(size, drop_e)                                                              \
    __asm__ volatile(                                                                              \
        EDGEC_X_LOOP(size, EDGEC_X_WEIGHT(drop_e))                                                 \
        : [z] "+&r"(z), [scales] "+&r"(scales), [weights] "+&r"(weights), [i] "+&r"(i),            \
          [sum] "+&r"(sum), [d] "=&r"(d), [w] "=&r"(w), [e] "=&r"(e), [shift] "=&r"(shift)         \
        : [n] "r"(rows->count), [step] "r"(4U * rows->step), [top] "r"(softmax->top),              \
          [most] "r"(17 << 8), [exp2] "r"(softmax->exp2), [align] "r"(align),                      \
          [drop] "r"(softmax->drop)                                                                \
        : "memory")

#endif

/* Weights of near scales, as edgec_softmax_weights, but uint16 from z on; `end` is behind them. */
EDGEC_INLINE uint32_t edgec_x_softmax(const edgec_rows *rows, const edgec_softmax *softmax,
                                      int32_t *z, uint16_t **end) {
    const edgec_kv_scale *scales = rows->scales;
    uint16_t *weights = (uint16_t *)(void *)z;
    /* as above: one down where amax is not 0 */
    const int32_t align = (16 + softmax->v_exponent) * 65536;
    uint32_t sum = 0U, d, w, e, shift;
#if EDGEC_ARITHMETIC_FAST
    __asm__ volatile(
        EDGEC_X_LOOP(11, EDGEC_X_WEIGHT)
        : [z] "+&r"(z), [scales] "+&r"(scales), [weights] "+&r"(weights), [sum] "+&r"(sum),
          [d] "=&r"(d), [w] "=&r"(w), [e] "=&r"(e), [shift] "=&r"(shift)
        : [n] "r"(rows->count), [step] "r"(4U * rows->step), [top] "r"(softmax->top),
          [most] "r"(EDGEC_REACH), [exp2] "r"(softmax->exp2), [align] "r"(align)
        : "memory");
#else
    uint32_t i = 0U;
    if (softmax->drop == 0U) {
        EDGEC_X_SOFTMAX(13, "");
    } else {
        EDGEC_X_SOFTMAX(14, EDGEC_X_RSU(e, drop));
    }
#endif
    *end = weights;
    return sum;
}

#endif

#endif
