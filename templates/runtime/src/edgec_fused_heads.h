/* Heads between their projections: rotation and cache, attention and merge. Every worker has whole
 * heads. */
#ifndef EDGEC_FUSED_HEADS_H
#define EDGEC_FUSED_HEADS_H

#include "edgec_attention_merge_body.h"
#include "edgec_fused_stage.h"
#include "edgec_head_body.h"

/* Exponents in the exchange are above 0. */
#define EDGEC_TOP_OFFSET 64

/* Quantizes the worker's queries and appends its keys and values; q and k are rotated where they
 * are. The barrier behind it is the caller's. */
EDGEC_FOLDED void edgec_fused_append(const edgec_worker *worker,
                                     const edgec_attention_params *params, int32_t *q, int32_t *k,
                                     int32_t *v, const int16_t *table, uint32_t position,
                                     const edgec_kv_cache *cache, int8_t *queries,
                                     int32_t *query_scale) {
    const edgec_slice share = edgec_slice_of(worker, params->kv_heads);
    edgec_rope_heads(edgec_slice_of(worker, params->heads), q, table, params->head_dim, q, queries,
                     query_scale);
    edgec_append_heads(share, params, k, table, position, k, cache->k, cache->k_scale);
    const int32_t top =
        edgec_append_heads(share, params, v, NULL, position, v, cache->v, cache->v_scale);
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_GATE,
                        share.first < share.last ? (uint32_t)(top + EDGEC_TOP_OFFSET) : 0U);
}

/* Merges the worker's heads where they are, quantizes and stages them; the largest exponents of v
 * are in the exchange. The barrier in front of the job is the caller's. */
EDGEC_FOLDED edgec_scale edgec_fused_merge(const edgec_worker *worker,
                                           const edgec_attention_params *params, int32_t *acc,
                                           const int32_t *stats, const edgec_stage_part *part,
                                           uint32_t halves) {
    const int32_t top =
        (int32_t)edgec_team_amplitude(worker, EDGEC_AMPLITUDE_GATE) - EDGEC_TOP_OFFSET;
    const edgec_range range = edgec_merge_heads(edgec_slice_of(worker, params->heads), acc, stats,
                                                params->head_dim, top, acc);
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_VECTOR, edgec_amplitude_of(range));
    edgec_barrier(worker);
    const uint32_t amplitude = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_VECTOR);
    const edgec_vector_quantizer quantizer = edgec_vector_quantizer_of(amplitude, halves);
    edgec_fused_stage(part, halves, &quantizer, acc);
    const edgec_scale scale = {quantizer.amax, quantizer.shift - (halves == 2U ? 14 : 0) + top + 8};
    return scale;
}

#endif
