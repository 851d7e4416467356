/* silu(gate) * up before its quantizer, shared by both activation types. */
#ifndef EDGEC_SWIGLU_BODY_H
#define EDGEC_SWIGLU_BODY_H

#include "edgec_silu.h"

typedef struct edgec_swiglu_state {
    edgec_slice share; /* of the worker */
    edgec_range range; /* of scratch, over all cores */
    int32_t exponent;  /* of scratch */
} edgec_swiglu_state;

static inline edgec_swiglu_state edgec_swiglu_reduce(const edgec_worker *worker,
                                                     const int32_t *gate, const int32_t *up,
                                                     const uint16_t *table, uint32_t n,
                                                     int32_t *scratch) {
    edgec_swiglu_state state;
    state.share = edgec_slice_of(worker, n);
    const uint32_t first = state.share.first;
    edgec_range range = {0, 0};
    edgec_range up_range = {0, 0};
    for (uint32_t i = first; i < state.share.last; i++) {
        const int32_t silu = edgec_silu(gate[i], table);
        scratch[i] = silu;
        edgec_range_add(&range, silu);
        edgec_range_add(&up_range, up[i]);
    }
    edgec_put_range(worker, 0U, range);
    edgec_put_range(worker, 1U, up_range);
    edgec_barrier(worker);
    const int32_t silu_shift = edgec_range_shift(edgec_get_range(worker, 0U), 15);
    const int32_t up_shift = edgec_range_shift(edgec_get_range(worker, 1U), 15);
    const edgec_normalizer silu_by = edgec_normalizer_of(silu_shift);
    const edgec_normalizer up_by = edgec_normalizer_of(up_shift);
    range.max = 0;
    range.min = 0;
    for (uint32_t i = first; i < state.share.last; i++) {
        const int32_t h = edgec_normalize(scratch[i], silu_by) * edgec_normalize(up[i], up_by);
        scratch[i] = h;
        edgec_range_add(&range, h);
    }
    edgec_put_range(worker, 2U, range);
    edgec_barrier(worker);
    state.range = edgec_get_range(worker, 2U);
    state.exponent = silu_shift + up_shift;
    return state;
}

#endif
