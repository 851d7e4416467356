/* Heads between their projections: rotation and cache, attention and merge. Every worker has whole
 * heads. */
#ifndef EDGEC_FUSED_HEADS_H
#define EDGEC_FUSED_HEADS_H

#include "edgec_fused_attention.h"
#include "edgec_fused_stage.h"
#include "edgec_head_body.h"
#include "edgec_kv_scale.h"

/* Exponents in the exchange are above 0. */
#define EDGEC_TOP_OFFSET 64

static inline edgec_head_group edgec_head_group_of(edgec_slice share, int32_t *x, int8_t *rows,
                                                   void *scales, const int16_t *rope,
                                                   uint32_t head_dim, uint32_t scale_size) {
    const edgec_head_group group = {x + share.first * head_dim, rows + share.first * head_dim,
                                    (uint8_t *)scales + share.first * scale_size, rope,
                                    share.last - share.first};
    return group;
}

/* Once per step, behind args and cache. Where there are fewer KV heads than workers, the
 * last ones have the keys and the first ones the values. queries, query_scale: as in args. */
EDGEC_SETUP void edgec_begin_heads(edgec_heads *heads, const edgec_worker *worker,
                                   const edgec_attention_params *params, int32_t *q, int32_t *k,
                                   int32_t *v, int8_t *queries, int32_t *query_scale,
                                   const int16_t *rope) {
    const uint32_t n = params->head_dim;
    edgec_worker from_end = *worker;
    from_end.id = worker->count - 1U - worker->id;
    heads->share = edgec_slice_of(worker, params->heads);
    heads->groups[EDGEC_HEAD_Q] = edgec_head_group_of(heads->share, q, queries, query_scale, rope,
                                                      n, 2U * sizeof *query_scale);
    heads->groups[EDGEC_HEAD_K] =
        edgec_head_group_of(edgec_slice_of(&from_end, params->kv_heads), k, heads->cache.k,
                            heads->cache.k_scale, rope, n, sizeof(edgec_kv_scale));
    heads->groups[EDGEC_HEAD_V] =
        edgec_head_group_of(edgec_slice_of(worker, params->kv_heads), v, heads->cache.v,
                            heads->cache.v_scale, NULL, n, sizeof(edgec_kv_scale));
#if EDGEC_XPULP
    const edgec_x_choices choices = EDGEC_X_CHOICES;
    heads->choices = choices;
#endif
}

/* Quantizes the worker's queries and appends keys and values; q and k are rotated where they are.
 * The barrier behind it is the caller's. */
EDGEC_SHARED void edgec_fused_append(const edgec_worker *worker, const edgec_heads *heads,
                                     const edgec_attention_params *params, uint32_t layer,
                                     uint32_t position) {
    const edgec_head_group *group = heads->groups;
    uint32_t row_at = 0U;
    uint32_t scale_at = 0U;
    for (;;) {
        int32_t *x = group->x;
        int8_t *row = group->row + row_at;
        void *scale = group->scale + scale_at;
        uint32_t top = 0U;
        for (uint32_t left = group->count; left != 0U; left--) {
            const int16_t *table = group->rope;
            if (table != NULL) {
                table += position * params->head_dim;
            }
            const edgec_scale of = edgec_quantize_one_head(x, table, params->head_dim, x, row);
            if (group == heads->groups) {
                int32_t *const query = (int32_t *)scale;
                query[0] = of.a;
                query[1] = of.e;
                scale = query + 2;
            } else {
                edgec_kv_scale *const place = (edgec_kv_scale *)scale;
                int32_t largest;
                *place = edgec_kv_scale_with(
                    of.a, of.e, position != 0U ? place - params->kv_heads : NULL, &largest);
                top = edgec_maxu32(top, (uint32_t)(largest + EDGEC_TOP_OFFSET));
                scale = place + 1;
            }
            x += params->head_dim;
            row += params->head_dim;
        }
        group++;
        if (group == heads->groups + EDGEC_HEAD_GROUPS) {
            edgec_put_amplitude(worker, EDGEC_AMPLITUDE_GATE, top);
            return;
        }
        const uint32_t vectors = position * params->kv_heads;
        row_at = layer * heads->layer_rows + vectors * params->head_dim;
        scale_at = layer * heads->layer_scales + vectors * (uint32_t)sizeof(edgec_kv_scale);
    }
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
