/* RMSNorm, quantization and staging in one pass; the scale is computed beside the engine. */
#ifndef EDGEC_FUSED_NORM_H
#define EDGEC_FUSED_NORM_H

#include "edgec_fused_stage.h"
#include "edgec_rmsnorm_body.h"

/* What the scale is still to be computed from. */
typedef struct edgec_norm_left {
    int32_t shift; /* of the residual */
    int32_t quantizer_shift;
    int32_t amax;
} edgec_norm_left;

/* The amplitude of r is in the exchange, and a barrier has passed. Leaves a staged vector: the
 * barrier in front of the engine's job is the caller's. */
EDGEC_SHARED edgec_norm_left edgec_fused_norm(const edgec_worker *worker, const int32_t *r,
                                              const int16_t *gamma, int32_t *scratch,
                                              const edgec_stage_part *part, uint32_t halves) {
    const edgec_slice share = part->share;
    edgec_exchange *const exchange = edgec_exchange_of(worker);
    const uint32_t residual = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_RESIDUAL);
    edgec_norm_left left;
    left.shift = edgec_amplitude_shift(residual, 15);
    const edgec_shifter by = edgec_shifter_of(left.shift);
    edgec_range range = {0, 0};
    uint32_t low = 0U;
    uint32_t high = 0U;
    uint32_t i = share.first;
#if EDGEC_XPULP
    if (i < share.last && residual >> 31 == 0U) { /* rounding by an addition cannot overflow */
        const edgec_shifter round = edgec_rounder_of(left.shift);
        const int32_t *from = r + i;
        const int16_t *g = gamma + i;
        int32_t *to = scratch + i;
        int32_t x;
        int32_t y;
        __asm__ volatile(
            EDGEC_X_LOOP(
                13, EDGEC_X_LWP(x, from, 4) EDGEC_X_LHP(y, g, 2) EDGEC_X_OP("sll", x, x, left)
                        EDGEC_X_RS(x, right) EDGEC_X_OP("mul", y, x, y) EDGEC_X_OP("mul", x, x, x)
                            EDGEC_X_SWP(y, to, 4) EDGEC_X_MAX(max, max, y) EDGEC_X_MIN(min, min, y)
                                EDGEC_X_OP("add", low, low, x) EDGEC_X_OP("sltu", x, low, x)
                                    EDGEC_X_OP("add", high, high, x) "nop\n")
            : [x] "=&r"(x), [y] "=&r"(y), [from] "+&r"(from), [g] "+&r"(g), [to] "+&r"(to),
              [low] "+&r"(low), [high] "+&r"(high), [max] "+&r"(range.max), [min] "+&r"(range.min)
            : [n] "r"(share.last - i), [left] "r"(round.left), [right] "r"(round.right)
            : "memory");
        i = share.last;
    }
#endif
    for (; i < share.last; i++) {
        const int32_t x = edgec_shifted(r[i], by);
        const int32_t scaled = x * gamma[i];
        const uint32_t square = (uint32_t)(x * x);
        low += square;
        high += low < square ? 1U : 0U;
        scratch[i] = scaled;
        edgec_range_add(&range, scaled);
    }
    exchange->amplitude[EDGEC_AMPLITUDE_VECTOR][worker->id] = edgec_amplitude_of(range);
    exchange->sum_low[worker->id] = low;
    exchange->sum_high[worker->id] = high;
    edgec_barrier(worker);
    const uint32_t amplitude = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_VECTOR);
    const edgec_vector_quantizer quantizer = edgec_vector_quantizer_of(amplitude, halves);
    left.quantizer_shift = quantizer.shift;
    left.amax = quantizer.amax;
    edgec_fused_stage(part, halves, &quantizer, scratch);
    return left;
}

/* A and E, by every core for itself. */
EDGEC_SHARED edgec_scale edgec_fused_norm_scale(const edgec_worker *worker, edgec_norm_left left,
                                                uint64_t eps, uint32_t halves) {
    const edgec_exchange *const exchange = edgec_exchange_of(worker);
    const uint64_t start = edgec_rmsnorm_eps(eps, left.shift);
    uint32_t low = (uint32_t)start;
    uint32_t high = (uint32_t)(start >> 32);
    for (uint32_t core = 0U; core < worker->count; core++) {
        const uint32_t part = exchange->sum_low[core];
        low += part;
        high += exchange->sum_high[core] + (low < part ? 1U : 0U);
    }
    low = (low | high) != 0U ? low : 1U;
    const int32_t bits = high != 0U ? 32 + edgec_bits32(high) : edgec_bits32(low);
    const int32_t root_shift = (bits - 31) >> 1;
    uint32_t square = low; /* the sum in [2^30, 2^32) */
    if (high != 0U) {
        const uint32_t by = 2U * (uint32_t)root_shift; /* 2 .. 32 */
        square = by < 32U ? high << (32U - by) | low >> by : high;
    } else if (root_shift >= 0) {
        square = low >> (2U * (uint32_t)root_shift);
    } else {
        square = low << (uint32_t)(-2 * root_shift);
    }
    const uint32_t root = edgec_isqrt32(square);
    edgec_scale scale;
    if (halves == 2U) {
        scale.a = (int32_t)((1U << 30) / root);
        scale.e = left.quantizer_shift - 30 - root_shift;
    } else {
        const uint32_t a = ((uint32_t)left.amax << 16) / root;
        const int over = a > 1U << 15;
        scale.a = (int32_t)(over != 0 ? (a + 1U) >> 1 : a);
        scale.e = left.quantizer_shift - 16 - root_shift + over;
    }
    return scale;
}

#endif
