/* Attention of the worker's heads inside a fused op: merged with the heads of the team at once, as
 * the largest exponent of v is known. */
#ifndef EDGEC_FUSED_ATTENTION_H
#define EDGEC_FUSED_ATTENTION_H

#include "edgec_attention_body.h"
#include "edgec_attention_merge_body.h"
#include "edgec_fused.h"

#if EDGEC_XPULP

/* Any head: scales may lie wherever they like. */
EDGEC_RARE static edgec_range edgec_attend_any(const edgec_attention_args *args, uint32_t head,
                                               int32_t top) {
    const edgec_slice one = {head, head + 1U};
    edgec_attend_in_place(args, one);
    return edgec_merge_heads(one, args->acc, args->stats, args->params->head_dim, top, args->acc);
}

/* A head whose scales are near; anything else is left alone, and 0 returned. */
EDGEC_INLINE int edgec_x_attend(const edgec_attention_args *args, uint32_t head, int32_t top,
                                edgec_range *range) {
    const edgec_attention_params *const params = args->params;
    const edgec_kv_cache *const cache = args->cache;
    const uint32_t kv_head = head / (params->heads / params->kv_heads);
    const uint32_t newest = (args->length - 1U) * params->kv_heads + kv_head;
    const edgec_kv_scale last = cache->v_scale[newest];
    const edgec_logit_scale scale = {args->q_scale[2U * head], params->score_multiplier,
                                     params->score_exponent - 15 - args->q_scale[2U * head + 1U],
                                     17U - (uint32_t)edgec_bits32(params->head_dim - 1U)};
    if (!edgec_logits_are_near(&scale, cache->k_scale[newest]) ||
        edgec_kv_spread(last) >= EDGEC_KV_SPREAD) {
        return 0;
    }
    int32_t *const z = args->scratch + head * params->context;
    const edgec_rows k = edgec_rows_of(params, kv_head, cache->k, cache->k_scale, args->length);
    const int32_t most =
        edgec_x_scores(&k, args->q + head * params->head_dim, &scale, z, -INT32_MAX);
    const edgec_softmax softmax = {args->exp2, most, edgec_kv_top(last), 15U - params->exp_bits};
    const edgec_rows v = edgec_rows_of(params, kv_head, cache->v, cache->v_scale, args->length);
    const uint32_t sum = edgec_x_softmax(&v, &softmax, z);
    uint16_t *const weights = (uint16_t *)(void *)z;
    for (uint32_t i = 0U; i < 3U; i++) {
        weights[args->length + i] = 0U; /* up to a multiple of four */
    }
    const int32_t b = edgec_bits32(sum) - 16;
    const int32_t shift = 6 + b + top - softmax.v_exponent;
    if (shift < 1) {
        return 0;
    }
    const edgec_shifter by = edgec_rounder_of(b);
    const int32_t normal = edgec_rounded((int32_t)sum, by);
    const int32_t lifted = (int32_t)((1U << 31) / (uint32_t)normal) * (1 << 14);
    const uint32_t right = (uint32_t)edgec_min32(shift, 31);
    int32_t *const merged = args->acc + head * params->head_dim;
    for (uint32_t i = 0U; i < params->head_dim; i += 4U) {
        int32_t sums[4];
        edgec_x_sums_4(v.row + i, v.stride, (args->length + 3U) / 4U, weights, sums);
        for (uint32_t j = 0U; j < 4U; j++) {
            merged[i + j] = edgec_round_shift(edgec_mulh(sums[j], lifted), right);
            edgec_range_add(range, merged[i + j]);
        }
    }
    return 1;
}

#endif

/* The merged vector of the worker's heads, in place of acc; top: the largest exponent of v. Returns
 * its amplitude. */
EDGEC_INLINE uint32_t edgec_fused_attend(const edgec_worker *worker, edgec_slice share,
                                         const edgec_attention_args *args, uint8_t *tiles,
                                         int32_t top) {
    const edgec_attention_params *const params = args->params;
    edgec_range range = {0, 0};
#if EDGEC_XPULP
    if (edgec_by_words(params) && params->slot_size == 0U && params->context % 4U == 0U) {
        for (uint32_t head = share.first; head < share.last; head++) {
            if (!edgec_x_attend(args, head, top, &range)) {
                const edgec_attention_args copy = *args; /* so that nothing else needs an address */
                const edgec_range found = edgec_attend_any(&copy, head, top);
                edgec_range_add(&range, found.max);
                edgec_range_add(&range, found.min);
            }
        }
        return edgec_amplitude_of(range);
    }
#endif
    edgec_attend(worker, args, tiles);
    range = edgec_merge_heads(share, args->acc, args->stats, params->head_dim, top, args->acc);
    return edgec_amplitude_of(range);
}

#endif
