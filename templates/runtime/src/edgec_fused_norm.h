/* RMSNorm, quantization and staging in one pass; the scale is computed beside the engine. */
#ifndef EDGEC_FUSED_NORM_H
#define EDGEC_FUSED_NORM_H

#include "edgec_fused_stage.h"
#include "edgec_rmsnorm_body.h"

/* What the scale is still to be computed from. */
typedef struct edgec_norm_left {
    uint32_t residual; /* the team's amplitude */
    int32_t shift;     /* of the residual */
    int32_t quantizer_shift;
    int32_t amax;
} edgec_norm_left;

/* r >> shift, squared into the sum, and times gamma into scratch. */
typedef struct edgec_norm_sums {
    uint32_t low;
    uint32_t high;
    uint32_t amplitude;
} edgec_norm_sums;

EDGEC_RARE static edgec_norm_sums edgec_norm_rows(const int32_t *r, const int16_t *gamma,
                                                  int32_t *scratch, edgec_slice share,
                                                  int32_t shift) {
    const edgec_shifter by = edgec_shifter_of(shift);
    edgec_range range = {0, 0};
    edgec_norm_sums sums = {0U, 0U, 0U};
    for (uint32_t i = share.first; i < share.last; i++) {
        const int32_t x = edgec_shifted(r[i], by);
        const int32_t scaled = x * gamma[i];
        const uint32_t square = (uint32_t)(x * x);
        sums.low += square;
        sums.high += sums.low < square ? 1U : 0U;
        scratch[i] = scaled;
        edgec_range_add(&range, scaled);
    }
    sums.amplitude = edgec_amplitude_of(range);
    return sums;
}

/* The amplitude of r is in the exchange, and a barrier has passed. Leaves a staged vector: the
 * barrier in front of the engine's job is the caller's. */
EDGEC_FOLDED edgec_norm_left edgec_fused_norm(const edgec_worker *worker, const int32_t *r,
                                              const int16_t *gamma, int32_t *scratch,
                                              const edgec_stage_part *part, uint32_t halves) {
    const edgec_slice share = part->share;
    edgec_exchange *const exchange = edgec_exchange_of(worker);
    const uint32_t residual = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_RESIDUAL);
    edgec_norm_left left;
    left.residual = residual;
    left.shift = edgec_amplitude_shift(residual, 15);
    edgec_norm_sums sums = {0U, 0U, 0U};
#if EDGEC_XPULP
    if (share.first < share.last && residual >> 31 == 0U) { /* rounding cannot overflow */
        const edgec_shifter round = edgec_rounder_of(left.shift);
        const int32_t *from = r + share.first;
        const int16_t *g = gamma + share.first;
        int32_t *to = scratch + share.first;
        edgec_range range = {0, 0};
        int32_t x;
        int32_t y;
        uint32_t before;
        __asm__ volatile(
            EDGEC_X_LOOP(12, EDGEC_X_LWP(x, from, 4) EDGEC_X_LHP(y, g, 2) EDGEC_X_OP(
                                 "sll", x, x, left) EDGEC_X_RS(x, right) EDGEC_X_OP("mul", y, x, y)
                                 EDGEC_X_OPI("addi", before, low, 0) EDGEC_X_MAC(low, x, x)
                                     EDGEC_X_SWP(y, to, 4) EDGEC_X_MAX(max, max, y)
                                         EDGEC_X_MIN(min, min, y) EDGEC_X_OP("sltu", x, low, before)
                                             EDGEC_X_OP("add", high, high, x))
            : [x] "=&r"(x), [y] "=&r"(y), [before] "=&r"(before), [from] "+&r"(from), [g] "+&r"(g),
              [to] "+&r"(to), [low] "+&r"(sums.low), [high] "+&r"(sums.high),
              [max] "+&r"(range.max), [min] "+&r"(range.min)
            : [n] "r"(share.last - share.first), [left] "r"(round.left), [right] "r"(round.right)
            : "memory");
        sums.amplitude = edgec_amplitude_of(range);
    } else
#endif
    {
        sums = edgec_norm_rows(r, gamma, scratch, share, left.shift);
    }
    exchange->sum_low[worker->id] = sums.low;
    exchange->sum_high[worker->id] = sums.high;
    const edgec_quantized found = edgec_fused_put(worker, sums.amplitude, part, halves, scratch);
    left.quantizer_shift = found.shift;
    left.amax = found.amax;
    return left;
}

EDGEC_RARE static uint64_t edgec_long_eps(uint64_t eps, int32_t shift) {
    return edgec_rmsnorm_eps(eps, shift);
}

/* Adds what the workers have left. */
EDGEC_FOLDED void edgec_add_sums(const edgec_exchange *exchange, uint32_t workers, uint32_t *low,
                                 uint32_t *high) {
#if EDGEC_XPULP
    const uint32_t *lower = exchange->sum_low;
    const uint32_t *upper = exchange->sum_high;
    uint32_t a;
    uint32_t b;
    __asm__ volatile(
        EDGEC_X_LOOP(6, EDGEC_X_LWP(a, lower, 4) EDGEC_X_LWP(b, upper, 4)
                            EDGEC_X_OP("add", low, low, a) EDGEC_X_OP("sltu", a, low, a)
                                EDGEC_X_OP("add", high, high, b) EDGEC_X_OP("add", high, high, a))
        : [a] "=&r"(a), [b] "=&r"(b), [lower] "+&r"(lower), [upper] "+&r"(upper), [low] "+&r"(*low),
          [high] "+&r"(*high)
        : [n] "r"(workers)
        : "memory");
#else
    for (uint32_t core = 0U; core < workers; core++) {
        const uint32_t part = exchange->sum_low[core];
        *low += part;
        *high += exchange->sum_high[core] + (*low < part ? 1U : 0U);
    }
#endif
}

/* A and E, by every core for itself. */
EDGEC_FOLDED edgec_scale edgec_fused_norm_scale(const edgec_worker *worker, edgec_norm_left left,
                                                uint64_t eps, uint32_t halves) {
    const edgec_exchange *const exchange = edgec_exchange_of(worker);
    const uint32_t right = 2U * (uint32_t)left.shift & 31U;
    uint32_t low = (uint32_t)eps >> right;
    uint32_t high = 0U;
    if (eps >> 32 != 0U || left.shift >= 16) {
        const uint64_t start = edgec_long_eps(eps, left.shift);
        low = (uint32_t)start;
        high = (uint32_t)(start >> 32);
    } else if (left.shift < 0) { /* in the first blocks: the shift is to the left */
        high = low;
        low = (uint32_t)eps << ((0U - right) & 31U);
    }
    edgec_add_sums(exchange, worker->count, &low, &high);
    int32_t root_shift = 16;
    if (high == 0U) {
        high = edgec_maxu32(low, 1U);
        low = 0U;
        root_shift = 0;
    }
    const uint32_t by = (31U - edgec_top_bit(high)) & ~1U;
    root_shift -= (int32_t)(by >> 1);
    uint32_t square = high << by | low >> 1 >> (31U - by); /* the sum in [2^30, 2^32) */
    EDGEC_KEEP(square);
    const uint32_t root = edgec_isqrt32(square);
    edgec_scale scale;
    if (halves == 2U) {
        scale.a = (int32_t)((1U << 30) / root);
        scale.e = left.quantizer_shift - 30 - root_shift;
    } else {
        const uint32_t a = ((uint32_t)left.amax << 16) / root;
        const uint32_t over = a > 1U << 15 ? 1U : 0U;
        scale.a = (int32_t)edgec_round_shift_u(a, over);
        scale.e = left.quantizer_shift - 16 - root_shift + (int32_t)over;
    }
    return scale;
}

#endif
