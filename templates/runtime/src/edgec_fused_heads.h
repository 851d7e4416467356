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

static inline edgec_head_group edgec_head_group_of(edgec_slice share, int32_t *x, uint32_t head_dim,
                                                   const int16_t *rope) {
    const edgec_head_group group = {.x = x + share.first * head_dim,
                                    .rope = rope,
                                    .first = share.first,
                                    .count = share.last - share.first};
    return group;
}

/* Once per step, behind args and cache; edgec_place_heads follows. Rows are divided like heads
 * where all workers have as many; otherwise the last ones have the keys and the first ones the
 * values. queries, query_scale: as in args; rope[head_dim / 2]: memory for the angles of a
 * position. */
EDGEC_SETUP void edgec_begin_heads(edgec_heads *heads, const edgec_worker *worker,
                                   const edgec_attention_params *params, int32_t *q, int32_t *k,
                                   int32_t *v, int8_t *queries, int32_t *query_scale,
                                   edgec_word *rope) {
    const uint32_t n = params->head_dim;
    edgec_worker from_end = *worker;
    heads->own = params->heads % worker->count == 0U && params->kv_heads % worker->count == 0U;
    if (!heads->own) {
        from_end.id = worker->count - 1U - worker->id;
    }
    heads->share = edgec_slice_of(worker, params->heads);
    heads->rope = rope;
    const int16_t *const angles = (const int16_t *)(const void *)rope;
    edgec_head_group *const groups = heads->groups;
    groups[EDGEC_HEAD_Q] = edgec_head_group_of(heads->share, q, n, angles);
    groups[EDGEC_HEAD_Q].row = queries + heads->share.first * n;
    groups[EDGEC_HEAD_Q].scale = (uint8_t *)(query_scale + 2U * heads->share.first);
    groups[EDGEC_HEAD_K] =
        edgec_head_group_of(edgec_slice_of(&from_end, params->kv_heads), k, n, angles);
    groups[EDGEC_HEAD_V] =
        edgec_head_group_of(edgec_slice_of(worker, params->kv_heads), v, n, NULL);
    for (uint32_t i = EDGEC_HEAD_K; i < EDGEC_HEAD_GROUPS; i++) {
        groups[i].layer_rows = heads->layer_rows;
        groups[i].layer_scales = heads->layer_scales;
    }
#if EDGEC_XPULP
    const edgec_x_choices choices = EDGEC_X_CHOICES;
    heads->choices = choices;
#endif
}

/* The heads are at a position from now on; angles: those of all positions. */
EDGEC_SETUP void edgec_place_heads(edgec_heads *heads, const edgec_attention_params *params,
                                   const int16_t *angles, uint32_t position) {
    const uint32_t n = params->head_dim;
    edgec_head_group *const k = &heads->groups[EDGEC_HEAD_K];
    edgec_head_group *const v = &heads->groups[EDGEC_HEAD_V];
    const uint32_t at = position * params->kv_heads;
    k->row = heads->cache.k + (at + k->first) * n;
    v->row = heads->cache.v + (at + v->first) * n;
    k->scale = (uint8_t *)(heads->cache.k_scale + at + k->first);
    v->scale = (uint8_t *)(heads->cache.v_scale + at + v->first);
    const void *const here = angles + position * n;
    const edgec_word *const words = (const edgec_word *)here;
    for (uint32_t i = 0U; i < n / 2U; i++) { /* every head reads them */
        heads->rope[i] = words[i];
    }
}

/* The rows of all heads are there: a barrier where other workers have computed them. */
EDGEC_FOLDED void edgec_meet_heads(const edgec_worker *worker, const edgec_heads *heads) {
    if (!heads->own) {
        edgec_barrier(worker);
    }
}

/* Quantizes the worker's queries and appends keys and values; q and k may be rotated where they
 * are. The barrier behind it is the caller's. */
EDGEC_FOLDED void edgec_fused_append(const edgec_worker *worker, const edgec_heads *heads,
                                     const edgec_attention_params *params, uint32_t layer,
                                     uint32_t position) {
    const edgec_head_group *group = heads->groups;
    uint32_t top;
    do {
        int32_t *x = group->x;
        int8_t *row = group->row + layer * group->layer_rows;
        uint8_t *place = group->scale + layer * group->layer_scales;
        top = 0U;
        for (uint32_t left = group->count; left != 0U; left--) {
            const edgec_scale of =
                edgec_quantize_one_head(x, group->rope, params->head_dim, x, row);
            if (EDGEC_LIKELY(group != heads->groups)) {
                edgec_kv_scale *const scale = (edgec_kv_scale *)(void *)place;
                int32_t largest;
                *scale = edgec_kv_scale_with(of.a, of.e, scale,
                                             position != 0U ? params->kv_heads : 0U, &largest);
                top = edgec_maxu32(top, (uint32_t)(largest + EDGEC_TOP_OFFSET));
                place += sizeof *scale;
            } else {
                int32_t *const query = (int32_t *)(void *)place;
                query[0] = of.a;
                query[1] = of.e;
                place += 2U * sizeof *query;
            }
            x += params->head_dim;
            row += params->head_dim;
        }
        group++;
    } while (group != heads->groups + EDGEC_HEAD_GROUPS);
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_GATE, top);
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
