/* The sum with the residual stream inside fused ops, and its amplitude in the same pass. */
#ifndef EDGEC_FUSED_RESIDUAL_H
#define EDGEC_FUSED_RESIDUAL_H

#include "edgec_fused.h"
#include "edgec_xpulp_asm.h"

static inline int32_t edgec_add_saturated(int32_t a, int32_t b) {
    const uint32_t sum = (uint32_t)a + (uint32_t)b;
    const uint32_t carried = ((uint32_t)a ^ sum) & ((uint32_t)b ^ sum);
    return carried >> 31 != 0U || sum == 1U << 31 ? edgec_sat32((int64_t)a + b) : edgec_signed(sum);
}

/* As edgec_residual_rows, without its hardware loop. */
EDGEC_RARE static uint32_t edgec_add_rows(const int32_t *y, edgec_slice share, int fits,
                                          int32_t *r) {
    uint32_t most = 0U;
    for (uint32_t i = share.first; i < share.last; i++) {
        const int32_t sum = fits ? r[i] + y[i] : edgec_add_saturated(r[i], y[i]);
        r[i] = sum;
        most = edgec_maxu32(most, (uint32_t)edgec_abs32(sum));
    }
    return most;
}

/* r += y for some rows; returns the largest magnitude. `fits`: no sum exceeds 2^31 - 1. */
EDGEC_FOLDED uint32_t edgec_residual_rows(const int32_t *y, edgec_slice share, int fits,
                                          int32_t *r) {
#if EDGEC_XPULP
    if (fits && share.first < share.last) {
        uint32_t most = 0U;
        int32_t *x = r + share.first;
        y += share.first;
        int32_t v;
        int32_t sum;
        __asm__ volatile(
            EDGEC_X_LOOP(6, EDGEC_X_LWP(v, y, 4) EDGEC_X_LW(sum, x, 0)
                                EDGEC_X_OP("add", sum, sum, v) EDGEC_X_SWP(sum, x, 4)
                                    EDGEC_X_ABS(sum, sum) EDGEC_X_MAXU(most, most, sum))
            : [v] "=&r"(v), [sum] "=&r"(sum), [x] "+&r"(x), [y] "+&r"(y), [most] "+&r"(most)
            : [n] "r"(share.last - share.first)
            : "memory");
        return most;
    }
#endif
    return edgec_add_rows(y, share, fits, r);
}

/* r += y for the worker's share; leaves its amplitude. */
EDGEC_FOLDED void edgec_fused_residual(const edgec_worker *worker, const int32_t *y,
                                       uint32_t amplitude, edgec_slice share, int32_t *r) {
    uint32_t *const residual = edgec_amplitude_at(worker, EDGEC_AMPLITUDE_RESIDUAL);
    const int fits = (amplitude >> 1) + (*residual >> 1) < 1U << 31;
    *residual = edgec_residual_rows(y, share, fits, r) << 1;
}

#endif
