/* The engine's sums of a row, added up over the groups of its columns. */
#ifndef EDGEC_GROUP_SUMS_H
#define EDGEC_GROUP_SUMS_H

#include "edgec_vector.h"
#include "edgec_xpulp_asm.h"

typedef struct edgec_half_sums {
    uint32_t upper; /* of int8 activations: the only sum */
    uint32_t lower;
} edgec_half_sums;

/* Where the sums and multipliers of a row lie: group 0, and the way from group to group. */
typedef struct edgec_row_groups {
    const uint8_t *sums;
    uint32_t below; /* from an upper sum to the lower one */
    uint32_t stride;
    const uint8_t *multipliers; /* one byte in four */
    uint32_t count;             /* at least 1 */
} edgec_row_groups;

/* Multiplier times sum, modulo 2^32, over all groups; halves: 1 for int8, 2 for int16. */
static inline edgec_half_sums edgec_group_sums(edgec_row_groups row, uint32_t halves) {
    edgec_half_sums total = {0U, 0U};
#if EDGEC_XPULP
    uint32_t m;
    uint32_t u;
    uint32_t l;
    if (halves == 2U) {
        const uint8_t *lower = row.sums + row.below;
        __asm__ volatile(EDGEC_X_LOOP(5, EDGEC_X_LBUP(m, scale, 4) EDGEC_X_LWS(u, sums, stride)
                                             EDGEC_X_LWS(l, lower, stride) EDGEC_X_MAC(
                                                 upper_sum, u, m) EDGEC_X_MAC(lower_sum, l, m))
                         : [m] "=&r"(m), [u] "=&r"(u), [l] "=&r"(l), [scale] "+&r"(row.multipliers),
                           [sums] "+&r"(row.sums), [lower] "+&r"(lower),
                           [upper_sum] "+&r"(total.upper), [lower_sum] "+&r"(total.lower)
                         : [n] "r"(row.count), [stride] "r"(row.stride)
                         : "memory");
    } else {
        __asm__ volatile(EDGEC_X_LOOP(3, EDGEC_X_LBUP(m, scale, 4) EDGEC_X_LWS(u, sums, stride)
                                             EDGEC_X_MAC(upper_sum, u, m))
                         : [m] "=&r"(m), [u] "=&r"(u), [scale] "+&r"(row.multipliers),
                           [sums] "+&r"(row.sums), [upper_sum] "+&r"(total.upper)
                         : [n] "r"(row.count), [stride] "r"(row.stride)
                         : "memory");
        (void)l;
    }
#else
    for (const uint8_t *const end = row.multipliers + 4U * row.count; row.multipliers != end;
         row.multipliers += 4) {
        const void *const upper = row.sums;
        total.upper += *(const edgec_word *)upper * *row.multipliers;
        if (halves == 2U) {
            const void *const lower = row.sums + row.below;
            total.lower += *(const edgec_word *)lower * *row.multipliers;
        }
        row.sums += row.stride;
    }
#endif
    return total;
}

#endif
