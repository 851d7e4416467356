/* Rotation and quantization of one head, shared by the query and the key path. */
#ifndef EDGEC_ROTARY_BODY_H
#define EDGEC_ROTARY_BODY_H

#include "edgec_vector.h"

/* Rotates x[head_dim] at 15 bits into scratch, quantizes it, and returns the quantizer with
 * the exponent of the whole. Sums of two products of 2^15 and 2^14 fit in int32. */
static inline edgec_quantizer edgec_rotate_quantize(const int32_t *x, const int16_t *table,
                                                    uint32_t head_dim, int32_t *scratch,
                                                    int8_t *q) {
    const uint32_t half = head_dim / 2U;
    const int32_t shift = edgec_range_shift(edgec_range_of(x, head_dim), 15);
    const edgec_normalizer by = edgec_normalizer_of(shift);
    for (uint32_t i = 0U; i < half; i++) {
        const int32_t a = edgec_normalize(x[i], by);
        const int32_t b = edgec_normalize(x[i + half], by);
        const int32_t cosine = table[i];
        const int32_t sine = table[i + half];
        scratch[i] = edgec_round_shift(a * cosine - b * sine, 14U);
        scratch[i + half] = edgec_round_shift(a * sine + b * cosine, 14U);
    }
    edgec_quantizer quantizer = edgec_quantizer_s8(edgec_range_of(scratch, head_dim));
    edgec_quantize_s8(&quantizer, scratch, head_dim, q);
    quantizer.exponent += shift;
    return quantizer;
}

#endif
