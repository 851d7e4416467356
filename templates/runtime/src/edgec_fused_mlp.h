/* Gate and up to the staged input of the down projection. */
#ifndef EDGEC_FUSED_MLP_H
#define EDGEC_FUSED_MLP_H

#include "edgec_fused_stage.h"
#include "edgec_silu.h"

/* As edgec_fused_silu, without its hardware loop. */
EDGEC_RARE static uint32_t edgec_silu_rows(int32_t *gate, uint32_t n, const uint16_t *table) {
    uint32_t most = 0U;
    for (const int32_t *const end = gate + n; gate != end; gate++) {
        const int32_t l = edgec_silu(*gate, table);
        *gate = l;
        most = edgec_maxu32(most, (uint32_t)edgec_abs32(l));
    }
    return most << 1;
}

/* l = silu(gate) of n > 0 rows, in place; returns their amplitude, as `amplitude` is the gates'. */
EDGEC_FOLDED uint32_t edgec_fused_silu(int32_t *gate, uint32_t n, uint32_t amplitude,
                                       const uint16_t *table) {
#if EDGEC_XPULP && EDGEC_ARITHMETIC_FAST
    uint32_t most = 0U;
    const uint16_t *const behind = table + 1;
    int32_t g, m, i, base, next;
    (void)amplitude;
    __asm__ volatile(
        EDGEC_X_LOOP(17, EDGEC_X_LW(g, gate, 0) "nop\n" EDGEC_X_ABS(m, g) EDGEC_X_MIN(m, m, limit)
                             EDGEC_X_OPI("srli", i, m, 11) EDGEC_X_OPI("slli", i, i, 1)
                                 EDGEC_X_LHUX(base, i, table) EDGEC_X_LHUX(next, i, behind)
                                     EDGEC_X_OP("and", m, m, fraction) EDGEC_X_MAX(g, g, zero)
                                         EDGEC_X_OP("sub", next, next, base) EDGEC_X_MULS_RS11(
                                             next, next, m) EDGEC_X_OP("sub", g, g, base)
                                             EDGEC_X_OP("sub", g, g, next) EDGEC_X_SWP(g, gate, 4)
                                                 EDGEC_X_ABS(g, g) EDGEC_X_MAXU(most, most, g))
        : [g] "=&r"(g), [m] "=&r"(m), [i] "=&r"(i), [base] "=&r"(base), [next] "=&r"(next),
          [gate] "+&r"(gate), [most] "+&r"(most)
        : [n] "r"(n), [limit] "r"((16 << 16) - 1), [fraction] "r"(2047), [zero] "r"(0),
          [table] "r"(table), [behind] "r"(behind)
        : "memory");
    return most << 1;
#else
#if EDGEC_XPULP
    if (amplitude < 1U << 29) { /* the upper word of 8 |gate| * 2^15 factor has all bits */
        uint32_t most = 0U;
        const uint16_t *const behind = table + 1;
        int32_t g;
        int32_t m;
        int32_t i;
        int32_t base;
        int32_t next;
        __asm__ volatile(
            EDGEC_X_LOOP(
                22, EDGEC_X_LW(g, gate, 0) "nop\n" EDGEC_X_ABS(m, g) EDGEC_X_MIN(next, m, limit)
                        EDGEC_X_OPI("srli", i, next, 12) EDGEC_X_OPI("slli", i, i, 1)
                            EDGEC_X_LHUX(base, i, table) EDGEC_X_LHUX(i, i, behind) EDGEC_X_OP(
                                "and", next, next, fraction) EDGEC_X_OP("sub", i, i, base)
                                EDGEC_X_OP("mul", i, i, next) EDGEC_X_OPI("slli", m, m, 3)
                                    EDGEC_X_RS(i, twelve) EDGEC_X_OP("add", base, base, i)
                                        EDGEC_X_OPI("slli", base, base, 15)
                                            EDGEC_X_OP("mulh", m, m, base) EDGEC_X_MIN(g, g, zero)
                                                EDGEC_X_RS(m, one) EDGEC_X_OP("add", g, g, m)
                                                    EDGEC_X_SWP(g, gate, 4) EDGEC_X_ABS(g, g)
                                                        EDGEC_X_MAXU(most, most, g))
            : [g] "=&r"(g), [m] "=&r"(m), [i] "=&r"(i), [base] "=&r"(base), [next] "=&r"(next),
              [gate] "+&r"(gate), [most] "+&r"(most)
            : [n] "r"(n), [limit] "r"((16 << 16) - 1), [fraction] "r"(4095), [twelve] "r"(12),
              [one] "r"(1), [zero] "r"(0), [table] "r"(table), [behind] "r"(behind)
            : "memory");
        return most << 1;
    }
#endif
    (void)amplitude;
    return edgec_silu_rows(gate, n, table);
#endif
}

/* As edgec_fused_multiply, without its hardware loop. */
EDGEC_RARE static uint32_t edgec_multiply_rows(int32_t *l, const int32_t *u, uint32_t n,
                                               int32_t l_shift, int32_t u_shift) {
    const edgec_shifter l_by = edgec_shifter_of(l_shift);
    const edgec_shifter u_by = edgec_shifter_of(u_shift);
    edgec_range range = {0, 0};
    for (uint32_t i = 0U; i < n; i++) {
        const int32_t h = edgec_shifted(l[i], l_by) * edgec_shifted(u[i], u_by);
        l[i] = h;
        edgec_range_add(&range, h);
    }
    return edgec_amplitude_of(range);
}

/* l *= u, both rounded by shifts of either sign; returns the amplitude of the n > 0 products.
 * `fit`: no magnitude exceeds 2^30. */
EDGEC_FOLDED uint32_t edgec_fused_multiply(int32_t *l, const int32_t *u, uint32_t n,
                                           int32_t l_shift, int32_t u_shift, int fit) {
#if EDGEC_XPULP
    if (fit) {
        edgec_range range = {0, 0};
        const int32_t l_right = edgec_max32(l_shift, 0);
        const int32_t u_right = edgec_max32(u_shift, 0);
        const int32_t left = l_right - l_shift + u_right - u_shift;
        int32_t x;
        int32_t y;
        __asm__ volatile(
            EDGEC_X_LOOP(9, EDGEC_X_LW(x, l, 0) EDGEC_X_LWP(y, u, 4) EDGEC_X_RS(x, l_right)
                                EDGEC_X_RS(y, u_right) EDGEC_X_OP("mul", x, x, y)
                                    EDGEC_X_OP("sll", x, x, left) EDGEC_X_SWP(x, l, 4)
                                        EDGEC_X_MAX(max, max, x) EDGEC_X_MIN(min, min, x))
            : [x] "=&r"(x), [y] "=&r"(y), [l] "+&r"(l), [u] "+&r"(u), [max] "+&r"(range.max),
              [min] "+&r"(range.min)
            : [n] "r"(n), [l_right] "r"(l_right), [u_right] "r"(u_right), [left] "r"(left)
            : "memory");
        return edgec_amplitude_of(range);
    }
#endif
    (void)fit;
    return edgec_multiply_rows(l, u, n, l_shift, u_shift);
}

/* l = silu(gate) and u of the worker's share are there, their amplitudes in the exchange and a
 * barrier has passed. Stages their product; the barrier in front of the job is the caller's. */
EDGEC_FOLDED edgec_scale edgec_fused_product(const edgec_worker *worker, int32_t *l,
                                             const int32_t *u, const edgec_stage_part *part,
                                             uint32_t halves) {
    const edgec_slice share = part->share;
    const uint32_t l_most = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_GATE);
    const uint32_t u_most = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_UP);
    const int32_t l_shift = edgec_amplitude_shift(l_most, 15);
    const int32_t u_shift = edgec_amplitude_shift(u_most, 15);
    uint32_t amplitude = 0U;
    if (share.first < share.last) {
        amplitude = edgec_fused_multiply(l + share.first, u + share.first, share.last - share.first,
                                         l_shift, u_shift, (l_most | u_most) >> 31 == 0U);
    }
    const edgec_quantized found = edgec_fused_put(worker, amplitude, part, halves, l);
    const edgec_scale scale = {found.amax,
                               found.shift - (halves == 2U ? 14 : 0) + l_shift + u_shift};
    return scale;
}

#endif
