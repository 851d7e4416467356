/* RMSNorm up to its quantizer, shared by both activation types. */
#ifndef EDGEC_RMSNORM_BODY_H
#define EDGEC_RMSNORM_BODY_H

#include "edgec_vector.h"

/* What is left to do once the whole vector has been seen. */
typedef struct edgec_rmsnorm_state {
    edgec_slice share;  /* of the worker */
    edgec_range range;  /* of scratch, over all cores */
    uint32_t root;      /* isqrt of the sum of squares, in [2^15, 2^16) */
    int32_t root_shift; /* its exponent: the root is root * 2^root_shift */
} edgec_rmsnorm_state;

/* floor(sqrt(v)) of v from 2^30 on. The line is at most 5.6 % off; a step of Newton's leaves half
 * of the square of a relative error, and never falls below the floor: after two it is that or one
 * above. */
static inline uint32_t edgec_isqrt32(uint32_t v) {
    uint32_t root = (v >> 17) + (v >> 19) + 24379U;
    root = (root + v / root) >> 1;
    root = (root + v / root) >> 1;
    root = (uint32_t)edgec_min32((int32_t)root, 65535);
    return root - (root * root > v ? 1U : 0U);
}

/* eps at the fixed point of squares that were shifted right by 2 * shift; shift is -15 .. 17. */
static inline uint64_t edgec_rmsnorm_eps(uint64_t eps, int32_t shift) {
    return shift < 0 ? eps << (uint32_t)(-2 * shift) : eps >> (uint32_t)(2 * shift);
}

/* Writes normalize(r) * gamma of the worker's slice to scratch and reduces over the team. */
static inline edgec_rmsnorm_state edgec_rmsnorm_reduce(const edgec_worker *worker, const int32_t *r,
                                                       const int16_t *gamma, uint32_t n,
                                                       uint64_t eps, int32_t *scratch) {
    edgec_rmsnorm_state state;
    state.share = edgec_slice_of(worker, n);
    const uint32_t first = state.share.first;
    edgec_put_range(worker, 0U, edgec_range_of(r + first, state.share.last - first));
    edgec_barrier(worker);
    const int32_t shift = edgec_range_shift(edgec_get_range(worker, 0U), 15);
    const edgec_normalizer by = edgec_normalizer_of(shift);
    edgec_range range = {0, 0};
    uint64_t sum = 0U;
    for (uint32_t i = first; i < state.share.last; i++) {
        const int32_t x = edgec_normalize(r[i], by);
        const int32_t scaled = x * gamma[i];
        sum += (uint32_t)(x * x);
        scratch[i] = scaled;
        edgec_range_add(&range, scaled);
    }
    edgec_put_range(worker, 1U, range);
    worker->partials[worker->id].sum = sum;
    edgec_barrier(worker);
    state.range = edgec_get_range(worker, 1U);
    uint64_t total = edgec_rmsnorm_eps(eps, shift);
    for (uint32_t core = 0U; core < worker->count; core++) {
        total += worker->partials[core].sum;
    }
    total = total != 0U ? total : 1U;
    const uint32_t high = (uint32_t)(total >> 32);
    const int32_t bits = high != 0U ? 32 + edgec_bits32(high) : edgec_bits32((uint32_t)total);
    state.root_shift = (bits - 31) >> 1;
    state.root = edgec_isqrt32(state.root_shift >= 0
                                   ? (uint32_t)(total >> (uint32_t)(2 * state.root_shift))
                                   : (uint32_t)(total << (uint32_t)(-2 * state.root_shift)));
    return state;
}

#endif
