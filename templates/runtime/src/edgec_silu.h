/* The activation of the gate. */
#ifndef EDGEC_SILU_H
#define EDGEC_SILU_H

#include "edgec_vector.h"

#if EDGEC_ARITHMETIC_FAST

/* max(gate, 0) less |gate| / (1 + exp |gate|), of which the table has 512 values from 0 on, up to
 * 16, each behind the difference to the next one. */
static inline int32_t edgec_silu(int32_t gate, const uint16_t *table) {
    const int32_t clamped = edgec_min32(edgec_abs32(gate), (16 << 16) - 1);
    const uint16_t *const entry = table + 2 * (clamped >> 11);
    const int32_t base = entry[1];
    const int32_t step = ((int16_t)entry[0] * (clamped & 2047) + (1 << 10)) >> 11;
    return edgec_max32(gate, 0) - (base + step);
}

#else

/* gate * sigmoid(gate) with 16 fraction bits; |gate| < 2^31, and the factor is at most 1. The
 * table has sigmoids of magnitudes; sigmoid(-x) = 1 - sigmoid(x), and a whole gate is no rounding
 * matter: rs(gate * (1 - f)) = gate + rs(|gate| * f) for negative ones. */
static inline int32_t edgec_silu(int32_t gate, const uint16_t *table) {
    const int32_t limit = (16 << 16) - 1;
    const int32_t magnitude = edgec_abs32(gate);
    const int32_t clamped = edgec_min32(magnitude, limit);
    const uint16_t *const entry = table + (clamped >> 12);
    const int32_t base = entry[0];
    const int32_t step = ((entry[1] - base) * (clamped & 4095) + (1 << 11)) >> 12;
    const int32_t factor = base + step;
    if (magnitude < 1 << 28) { /* the upper half of the product holds all of it but the last bits */
        return edgec_min32(gate, 0) + ((edgec_mulh(magnitude * 8, factor * (1 << 15)) + 1) >> 1);
    }
    return edgec_min32(gate, 0) + (int32_t)(((int64_t)magnitude * factor + (1 << 14)) >> 15);
}

#endif

#endif
