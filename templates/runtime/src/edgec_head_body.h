/* Queries, keys and values of single heads: rotation and quantization. */
#ifndef EDGEC_HEAD_BODY_H
#define EDGEC_HEAD_BODY_H

#include "edgec_fused.h"
#include "edgec_head_xpulp.h"

/* Rotates x[head_dim] at 15 bits into y; returns the shift. Sums of two products of 2^15 and 2^14
 * fit in int32. */
static inline int32_t edgec_rotate_head(const int32_t *x, const int16_t *table, uint32_t head_dim,
                                        int32_t *y, edgec_range *range) {
    const uint32_t half = head_dim / 2U;
    const int32_t shift = edgec_range_shift(edgec_range_of(x, head_dim), 15);
    const edgec_shifter by = edgec_shifter_of(shift);
    for (const int32_t *const end = x + half; x != end; x++) {
        const int32_t a = edgec_shifted(x[0], by);
        const int32_t b = edgec_shifted(x[half], by);
        const int32_t cosine = table[0];
        const int32_t sine = table[half];
        const int32_t first = edgec_round_shift(a * cosine - b * sine, 14U);
        const int32_t second = edgec_round_shift(a * sine + b * cosine, 14U);
        y[0] = first;
        y[half] = second;
        edgec_range_add(range, first);
        edgec_range_add(range, second);
        table++;
        y++;
    }
    return shift;
}

static inline edgec_scale edgec_quantize_any_head(const int32_t *x, const int16_t *table,
                                                  uint32_t head_dim, int32_t *scratch, int8_t *q) {
    edgec_range range = {0, 0};
    int32_t exponent = 0;
    if (table != NULL) {
        exponent = edgec_rotate_head(x, table, head_dim, scratch, &range);
        x = scratch;
    } else {
        range = edgec_range_of(x, head_dim);
    }
    const int32_t shift = edgec_range_shift(range, 15);
    const edgec_shifter by = edgec_shifter_of(shift);
    /* rs is monotonic, hence the extremes of the normalised vector */
    const int32_t amax = edgec_max32(edgec_shifted(range.max, by), -edgec_shifted(range.min, by));
    const int32_t reciprocal = amax != 0 ? (int32_t)((127U << 23) / (uint32_t)amax) : 0;
    for (const int32_t *const end = x + head_dim; x != end; x++) {
        const int32_t scaled = edgec_shifted(*x, by) * reciprocal;
        *q++ = (int8_t)edgec_round_shift(scaled, 23U); /* below 2^30 */
    }
    const edgec_scale scale = {amax, exponent + shift};
    return scale;
}

#if EDGEC_XPULP

EDGEC_RARE static edgec_scale edgec_quantize_large_head(const int32_t *x, const int16_t *table,
                                                        uint32_t head_dim, int32_t *scratch,
                                                        int8_t *q) {
    return edgec_quantize_any_head(x, table, head_dim, scratch, q);
}

/* Zeros and elements near the limits of int32 are for the function above. */
EDGEC_INLINE edgec_scale edgec_quantize_four(const int32_t *x, const int16_t *table,
                                             int32_t *scratch, int8_t *q) {
    int32_t a = x[0], b = x[1], c = x[2], d = x[3];
    int32_t u, v, shift, left, right;
    uint32_t most;
    const int16_t *angles = table;
    edgec_scale scale = {0, 0};
    for (;;) {
        __asm__(EDGEC_X_NORMAL
                : EDGEC_X_ELEMENTS("+&r"), [most] "=&r"(most), [u] "=&r"(u), [shift] "=&r"(shift),
                  [left] "=&r"(left), [right] "=&r"(right));
        if (most >= EDGEC_X_BITS) {
            return edgec_quantize_large_head(x, table, 4U, scratch, q);
        }
        scale.e += shift;
        if (!EDGEC_LIKELY(angles != NULL)) {
            break;
        }
        __asm__(EDGEC_X_TURN
                : EDGEC_X_ELEMENTS("+&r"), [u] "=&r"(u), [v] "=&r"(v)
                : [c0] "r"((int32_t)angles[0]), [c1] "r"((int32_t)angles[1]),
                  [s0] "r"((int32_t)angles[2]), [s1] "r"((int32_t)angles[3]));
        angles = NULL;
    }
    __asm__(EDGEC_X_MOST : [most] "=&r"(most), [u] "=&r"(u) : EDGEC_X_ELEMENTS("r"));
    scale.a = (int32_t)most;
    __asm__(EDGEC_X_FOUR(EDGEC_X_TIMES) EDGEC_X_FOUR(EDGEC_X_TO_BYTE)
            : EDGEC_X_ELEMENTS("+&r")
            : [less] "r"((127U << 23) / most - 1U));
    void *const word = q;
    *(edgec_word *)word = edgec_pack4(a, b, c, d);
    return scale;
}

EDGEC_INLINE edgec_scale edgec_quantize_one_head(const int32_t *x, const int16_t *table,
                                                 uint32_t head_dim, int32_t *scratch, int8_t *q) {
    edgec_scale scale = {0, 0};
    const int32_t *from = x;
    if (head_dim == 4U) {
        return edgec_quantize_four(x, table, scratch, q);
    }
    if (table != NULL) {
        const uint32_t top_bit = edgec_top_bit(edgec_x_magnitude(x, head_dim));
        if (top_bit >= EDGEC_X_BITS) {
            return edgec_quantize_large_head(x, table, head_dim, scratch, q);
        }
        scale.e = (int32_t)top_bit - 14;
        edgec_x_rotate(x, edgec_rounder_of(scale.e), table, head_dim, scratch);
        from = scratch;
    }
    const edgec_range range = edgec_x_range(from, head_dim);
    const uint32_t top_bit =
        edgec_top_bit(edgec_maxu32((uint32_t)range.max, 0U - (uint32_t)range.min));
    if (top_bit >= EDGEC_X_BITS) {
        return edgec_quantize_large_head(x, table, head_dim, scratch, q);
    }
    const int32_t shift = (int32_t)top_bit - 14;
    const edgec_shifter by = edgec_rounder_of(shift);
    scale.e += shift;
    scale.a = edgec_max32(edgec_rounded(range.max, by), -edgec_rounded(range.min, by));
    edgec_x_quantize(from, by, (int32_t)((127U << 23) / (uint32_t)scale.a), head_dim, q);
    return scale;
}

#else

EDGEC_INLINE edgec_scale edgec_quantize_one_head(const int32_t *x, const int16_t *table,
                                                 uint32_t head_dim, int32_t *scratch, int8_t *q) {
    return edgec_quantize_any_head(x, table, head_dim, scratch, q);
}

#endif

/* Quantizes x[head_dim], rotated where there is a table; scratch[head_dim] is then used. */
EDGEC_SHARED edgec_scale edgec_quantize_head(const int32_t *x, const int16_t *table,
                                             uint32_t head_dim, int32_t *scratch, int8_t *q) {
    return edgec_quantize_one_head(x, table, head_dim, scratch, q);
}

#endif
