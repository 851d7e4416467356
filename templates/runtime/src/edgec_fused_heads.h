/* Heads between their projections: rotation and cache, attention and merge. Every worker has whole
 * heads. */
#ifndef EDGEC_FUSED_HEADS_H
#define EDGEC_FUSED_HEADS_H

#include "edgec_fused_attention.h"
#include "edgec_fused_stage.h"
#include "edgec_head_body.h"

/* Exponents in the exchange are above 0. */
#define EDGEC_TOP_OFFSET 64

/* The worker's heads. */
typedef struct edgec_head_shares {
    edgec_slice q;
    edgec_slice k;
    edgec_slice v;
} edgec_head_shares;

/* Once per step. Where there are fewer KV heads than workers, the last ones have the keys and the
 * first ones the values. */
static inline edgec_head_shares edgec_head_shares_of(const edgec_worker *worker,
                                                     const edgec_attention_params *params) {
    edgec_worker from_end = *worker;
    from_end.id = worker->count - 1U - worker->id;
    const edgec_head_shares shares = {edgec_slice_of(worker, params->heads),
                                      edgec_slice_of(&from_end, params->kv_heads),
                                      edgec_slice_of(worker, params->kv_heads)};
    return shares;
}

/* What becomes of a quantized head: a query, or an element of the cache at the first position or
 * behind others. */
typedef enum edgec_head_kind { EDGEC_QUERY, EDGEC_FIRST, EDGEC_NEXT } edgec_head_kind;

/* Quantizes `count` heads x, where they are when they are rotated. scale: edgec_kv_scale, of a
 * query A and E. Returns the largest exponent of these heads of the cache up to here. */
EDGEC_OUTLINE int32_t edgec_fused_quantize(const edgec_attention_params *params, int32_t *x,
                                           uint32_t count, const int16_t *table, int8_t *row,
                                           void *scale, edgec_head_kind kind) {
    int32_t *const words = (int32_t *)scale;
    edgec_kv_scale *place = (edgec_kv_scale *)scale;
    int32_t top = INT32_MIN;
    for (uint32_t head = 0U; head < count; head++) {
        const edgec_scale of = edgec_quantize_head(x, table, params->head_dim, x, row);
        if (kind == EDGEC_QUERY) {
            words[2U * head] = of.a;
            words[2U * head + 1U] = of.e;
        } else {
            *place =
                edgec_kv_scale_of(of.a, of.e, kind == EDGEC_NEXT ? place - params->kv_heads : NULL);
            top = edgec_max32(top, edgec_kv_top(*place));
            place++;
        }
        x += params->head_dim;
        row += params->head_dim;
    }
    return top;
}

/* Quantizes the worker's queries and appends keys and values; q and k are rotated where they are.
 * table: the row of the position. The barrier behind it is the caller's. */
EDGEC_FOLDED void edgec_fused_append(const edgec_worker *worker, const edgec_head_shares *shares,
                                     const edgec_attention_params *params, int32_t *q, int32_t *k,
                                     int32_t *v, const int16_t *table, uint32_t position,
                                     const edgec_kv_cache *cache, int8_t *queries,
                                     int32_t *query_scale) {
    const uint32_t n = params->head_dim;
    const edgec_head_kind kind = position != 0U ? EDGEC_NEXT : EDGEC_FIRST;
    uint32_t first = shares->q.first;
    edgec_fused_quantize(params, q + first * n, shares->q.last - first, table, queries + first * n,
                         query_scale + 2U * first, EDGEC_QUERY);
    const uint32_t row = position * params->kv_heads;
    first = shares->k.first;
    edgec_fused_quantize(params, k + first * n, shares->k.last - first, table,
                         cache->k + (row + first) * n, cache->k_scale + row + first, kind);
    first = shares->v.first;
    const int32_t top =
        edgec_fused_quantize(params, v + first * n, shares->v.last - first, NULL,
                             cache->v + (row + first) * n, cache->v_scale + row + first, kind);
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_GATE,
                        first < shares->v.last ? (uint32_t)(top + EDGEC_TOP_OFFSET) : 0U);
}

/* The largest exponent of v, of all heads, after the barrier. */
static inline int32_t edgec_fused_top(const edgec_worker *worker) {
    return (int32_t)edgec_team_amplitude(worker, EDGEC_AMPLITUDE_GATE) - EDGEC_TOP_OFFSET;
}

/* Quantizes and stages the merged vector, of which this is the worker's amplitude. The barrier in
 * front of the job is the caller's. */
EDGEC_FOLDED edgec_scale edgec_fused_merged(const edgec_worker *worker, uint32_t amplitude,
                                            int32_t top, const edgec_stage_part *part,
                                            uint32_t halves, const int32_t *merged) {
    const edgec_quantized found = edgec_fused_put(worker, amplitude, part, halves, merged);
    const edgec_scale scale = {found.amax, found.shift - (halves == 2U ? 14 : 0) + top + 8};
    return scale;
}

#endif
