/* Gate and up to the staged input of the down projection. */
#ifndef EDGEC_FUSED_MLP_H
#define EDGEC_FUSED_MLP_H

#include "edgec_fused_stage.h"
#include "edgec_silu.h"
#include "edgec_xpulp_asm.h"

#if EDGEC_XPULP
/* clang-format off */
#if EDGEC_ARITHMETIC_FAST
/* v = silu(v) with m = |v|. */
#define EDGEC_X_SILU_SIZE 9
#define EDGEC_X_SILU                                                                               \
    EDGEC_X_MIN(m, m, limit)                                                                       \
    EDGEC_X_OPI("srli", p, m, 11)                                                                  \
    EDGEC_X_OPI("slli", p, p, 2)                                                                   \
    EDGEC_X_LWX(b, p, table)                                                                       \
    EDGEC_X_OPI("andi", m, m, 2047)                                                                \
    EDGEC_X_MAX0(v, v)                                                                             \
    EDGEC_X_MULS_RS11(z, b, m)                                                                     \
    EDGEC_X_MACHHS(v, b, less)                                                                     \
    EDGEC_X_OP("sub", v, v, z)
#define EDGEC_X_SILU_OUT [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [m] "=&r"(m), [b] "=&r"(b)
#define EDGEC_X_SILU_TABLE [table] "r"(table), [less] "r"(-1)
#else
/* v = silu(v) with m = |v| < 2^31, in 15 instructions: edgec_silu with its products by halves.
 * rs(m * factor, 15) is the rounded product of m's lower half, and twice that of its upper one. */
#define EDGEC_X_SILU_SIZE 15
#define EDGEC_X_SILU                                                                               \
    EDGEC_X_MIN(z, m, limit)                                                                       \
    EDGEC_X_OPI("srli", p, z, 12)                                                                  \
    EDGEC_X_OPI("slli", p, p, 1)                                                                   \
    EDGEC_X_LHUX(b, p, table)                                                                      \
    EDGEC_X_LHUX(p, p, behind)                                                                     \
    EDGEC_X_OPI("slli", z, z, 4)                                                                   \
    EDGEC_X_OPI("srli", h, m, 16)                                                                  \
    EDGEC_X_OP("sub", p, p, b)                                                                     \
    EDGEC_X_MULU_RS16(p, p, z)                                                                     \
    EDGEC_X_OPI("slli", h, h, 1)                                                                   \
    EDGEC_X_OP("add", b, b, p)                                                                     \
    EDGEC_X_MULU_RS15(p, m, b)                                                                     \
    EDGEC_X_MIN0(v, v)                                                                             \
    EDGEC_X_OP("add", v, v, p)                                                                     \
    EDGEC_X_MACU(v, h, b)
#define EDGEC_X_SILU_OUT                                                                           \
    [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [m] "=&r"(m), [b] "=&r"(b), [h] "=&r"(h)
#define EDGEC_X_SILU_TABLE [table] "r"(table), [behind] "r"(table + 1)
#endif
/* clang-format on */
#define EDGEC_X_SILU_VARIABLES                                                                     \
    uint32_t v;                                                                                    \
    uint32_t z;                                                                                    \
    uint32_t p;                                                                                    \
    uint32_t m;                                                                                    \
    uint32_t b;                                                                                    \
    uint32_t h;                                                                                    \
    (void)h
#define EDGEC_X_SILU_IN [limit] "r"((16 << 16) - 1), EDGEC_X_SILU_TABLE
#endif

/* l = silu(gate) of n > 0 rows, in place; returns the amplitude of those above 0. Others are at
 * most 2^15 away, and a factor of so few bits need not be shifted. */
EDGEC_FOLDED uint32_t edgec_fused_silu(int32_t *gate, uint32_t n, const uint16_t *table) {
    int32_t most = 0;
#if EDGEC_XPULP
    EDGEC_X_SILU_VARIABLES;
    __asm__ volatile(EDGEC_X_LOOP((5 + EDGEC_X_SILU_SIZE),
                                  EDGEC_X_LW(v, gate, 0) "nop\n" EDGEC_X_ABS(m, v)
                                      EDGEC_X_SILU EDGEC_X_SWP(v, gate, 4)
                                          EDGEC_X_MAX(most, most, v))
                     : EDGEC_X_SILU_OUT, [gate] "+&r"(gate), [most] "+&r"(most)
                     : EDGEC_X_SILU_IN, [n] "r"(n)
                     : "memory");
#else
    for (const int32_t *const end = gate + n; gate != end; gate++) {
        const int32_t l = edgec_silu(*gate, table);
        *gate = l;
        most = edgec_max32(most, l);
    }
#endif
    return (uint32_t)most << 1;
}

/* As edgec_fused_multiply, without its hardware loop. */
EDGEC_RARE static uint32_t edgec_multiply_rows(int32_t *l, const int32_t *u, uint32_t n,
                                               int32_t l_right, int32_t u_right) {
    const edgec_shifter l_by = edgec_shifter_of(l_right);
    const edgec_shifter u_by = edgec_shifter_of(u_right);
    edgec_range range = {0, 0};
    for (uint32_t i = 0U; i < n; i++) {
        const int32_t h = edgec_shifted(l[i], l_by) * edgec_shifted(u[i], u_by);
        l[i] = h;
        edgec_range_add(&range, h);
    }
    return edgec_amplitude_of(range);
}

/* l *= u, both rounded by shifts to the right; returns the amplitude of the n > 0 products. `fit`:
 * no magnitude exceeds 2^30. */
EDGEC_FOLDED uint32_t edgec_fused_multiply(int32_t *l, const int32_t *u, uint32_t n,
                                           int32_t l_right, int32_t u_right, int fit) {
#if EDGEC_XPULP
    if (fit) {
        edgec_range range = {0, 0};
        int32_t x;
        int32_t y;
        const int32_t less = -(1 << u_right);
        /* x + x * (y - 1): p.mac takes one cycle, mul two */
        __asm__ volatile(
            EDGEC_X_LOOP(8, EDGEC_X_LW(x, l, 0) EDGEC_X_LWP(y, u, 4) EDGEC_X_RS(x, l_right)
                                EDGEC_X_ADD_RS(y, less, u_right) EDGEC_X_MAC(x, x, y) EDGEC_X_SWP(
                                    x, l, 4) EDGEC_X_MAX(max, max, x) EDGEC_X_MIN(min, min, x))
            : [x] "=&r"(x), [y] "=&r"(y), [l] "+&r"(l), [u] "+&r"(u), [max] "+&r"(range.max),
              [min] "+&r"(range.min)
            : [n] "r"(n), [l_right] "r"(l_right), [u_right] "r"(u_right), [less] "r"(less)
            : "memory");
        return edgec_amplitude_of(range);
    }
#endif
    (void)fit;
    return edgec_multiply_rows(l, u, n, l_right, u_right);
}

/* l = silu(gate) and u of the worker's share are there, their amplitudes in the exchange and a
 * barrier has passed. Stages their product; the barrier in front of the job is the caller's.
 * A factor that has to be shifted to the left stays as it is, as the quantizer shifts the product
 * by so much less to the right. */
EDGEC_FOLDED edgec_scale edgec_fused_product(const edgec_worker *worker, int32_t *l,
                                             const int32_t *u, const edgec_stage_part *part,
                                             uint32_t halves) {
    const edgec_slice share = part->share;
    const uint32_t l_most = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_GATE);
    const uint32_t u_most = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_UP);
    const int32_t l_right = edgec_max32(edgec_amplitude_shift(l_most, 15), 0);
    const int32_t u_right = edgec_max32(edgec_amplitude_shift(u_most, 15), 0);
    uint32_t amplitude = 0U;
    if (share.first < share.last) {
        amplitude = edgec_fused_multiply(l + share.first, u + share.first, share.last - share.first,
                                         l_right, u_right, (l_most | u_most) >> 31 == 0U);
    }
    const edgec_quantized found = edgec_fused_put(worker, amplitude, part, halves, l);
    const edgec_scale scale = {found.amax,
                               found.shift - (halves == 2U ? 14 : 0) + l_right + u_right};
    return scale;
}

#endif
