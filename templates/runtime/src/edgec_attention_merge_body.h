/* The heads' sums at a common exponent, before their quantizer. */
#ifndef EDGEC_ATTENTION_MERGE_BODY_H
#define EDGEC_ATTENTION_MERGE_BODY_H

#include "edgec_vector.h"

/* The sums of some heads at the exponent `top`, in the units of the vector of all heads. */
static inline edgec_range edgec_merge_heads(edgec_slice share, const int32_t *acc,
                                            const int32_t *stats, uint32_t head_dim, int32_t top,
                                            int32_t *merged) {
    edgec_range range = {0, 0};
    for (uint32_t head = share.first; head < share.last; head++) {
        const int32_t reciprocal = stats[3U * head];
        const int32_t n = 24 + stats[3U * head + 1U] + top - stats[3U * head + 2U];
        const int32_t lifted = reciprocal << 14; /* at most 2^30 */
        const int32_t shift = n - 18;
        for (uint32_t i = head * head_dim; i < (head + 1U) * head_dim; i++) {
            const int32_t value = shift >= 1 ? edgec_round_shift(edgec_mulh(acc[i], lifted),
                                                                 shift < 31 ? (uint32_t)shift : 31U)
                                             : edgec_requantize(acc[i], reciprocal, n < 1 ? 1 : n);
            merged[i] = value;
            edgec_range_add(&range, value);
        }
    }
    return range;
}

typedef struct edgec_merge_state {
    edgec_slice share; /* of the worker, in elements of whole heads */
    edgec_range range; /* of scratch, over all cores */
    int32_t exponent;  /* of scratch */
} edgec_merge_state;

static inline edgec_merge_state edgec_attention_merge_reduce(const edgec_worker *worker,
                                                             const int32_t *acc,
                                                             const int32_t *stats, uint32_t heads,
                                                             uint32_t head_dim, int32_t *scratch) {
    edgec_merge_state state;
    const edgec_slice share = edgec_slice_of(worker, heads);
    int32_t top = stats[2];
    for (uint32_t head = 1U; head < heads; head++) {
        top = stats[3U * head + 2U] > top ? stats[3U * head + 2U] : top;
    }
    const edgec_range range = edgec_merge_heads(share, acc, stats, head_dim, top, scratch);
    edgec_put_range(worker, 0U, range);
    edgec_barrier(worker);
    state.share.first = share.first * head_dim;
    state.share.last = share.last * head_dim;
    state.range = edgec_get_range(worker, 0U);
    state.exponent = top + 8;
    return state;
}

#endif
