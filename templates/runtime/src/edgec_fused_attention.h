/* Attention of the worker's heads inside a fused op: merged with the heads of the team at once, as
 * the largest exponent of v is known. */
#ifndef EDGEC_FUSED_ATTENTION_H
#define EDGEC_FUSED_ATTENTION_H

#include "edgec_attention_body.h"
#include "edgec_attention_merge_body.h"
#include "edgec_fused.h"

/* Vectors of one kind that the worker quantizes: queries, keys or values of consecutive heads. */
typedef struct edgec_head_group {
    int32_t *x;
    int8_t *row;         /* of the first block, at the position */
    uint8_t *scale;      /* likewise */
    uint32_t layer_rows; /* bytes from one block's rows to the next one's; queries: 0 */
    uint32_t layer_scales;
    const int16_t *rope; /* of the position; NULL: no rotation */
    uint32_t first;      /* head */
    uint32_t count;
} edgec_head_group;

enum { EDGEC_HEAD_Q, EDGEC_HEAD_K, EDGEC_HEAD_V, EDGEC_HEAD_GROUPS };

/* The worker's heads, the same in all blocks. */
typedef struct edgec_heads {
    edgec_attention_args args; /* without cache and length */
    edgec_slice share;         /* of the heads of queries */
    int own;                   /* the worker has computed the rows of its heads itself */
    edgec_kv_cache cache;      /* of the first block */
    uint32_t layer_rows;       /* bytes from one block's rows of k, or v, to the next one's */
    uint32_t layer_scales;
#if EDGEC_XPULP
    edgec_x_choices choices;
#endif
    edgec_word *rope; /* angles of the position */
    edgec_head_group groups[EDGEC_HEAD_GROUPS];
} edgec_heads;

/* Where a block's attention takes place. */
typedef struct edgec_heads_at {
    uint32_t rows; /* bytes from the first block's cache to that of this one */
    uint32_t scales;
    uint32_t length;
    int32_t top; /* largest exponent of v, of all heads */
} edgec_heads_at;

static inline edgec_kv_cache edgec_heads_cache(const edgec_heads *heads, const edgec_heads_at *at) {
    void *const k_scale = (uint8_t *)heads->cache.k_scale + at->scales;
    void *const v_scale = (uint8_t *)heads->cache.v_scale + at->scales;
    const edgec_kv_cache cache = {heads->cache.k + at->rows, k_scale, heads->cache.v + at->rows,
                                  v_scale};
    return cache;
}

/* Heads that are attended as in a single op, and then merged. */
static inline edgec_range edgec_attend_singly(const edgec_worker *worker, const edgec_heads *heads,
                                              const edgec_attention_params *params,
                                              const edgec_heads_at *at, edgec_slice share,
                                              uint8_t *tiles) {
    const edgec_kv_cache cache = edgec_heads_cache(heads, at);
    edgec_attention_args args = heads->args;
    args.params = params;
    args.cache = &cache;
    args.length = at->length;
    if (worker != NULL) {
        edgec_attend(worker, &args, tiles);
    } else {
        edgec_attend_in_place(&args, share);
    }
    return edgec_merge_heads(share, args.acc, args.stats, params->head_dim, at->top, args.acc);
}

#if EDGEC_XPULP

/* Whether the loops of XpulpV2 serve: sums are over four positions. */
EDGEC_INLINE int edgec_by_fours(const edgec_attention_params *params) {
    return edgec_by_words(params) && params->context % 4U == 0U &&
           (params->slot_size == 0U ||
            (params->positions_per_chunk % 4U == 0U && params->exp_bits >= 10U));
}

/* Any head: scales may lie wherever they like. */
EDGEC_RARE static edgec_range edgec_attend_any(const edgec_heads *heads, const edgec_heads_at *at,
                                               uint32_t head) {
    const edgec_slice one = {head, head + 1U};
    return edgec_attend_singly(NULL, heads, heads->args.params, at, one, NULL);
}

/* Whether all shifts by the scales of a KV head are near; k and v: codes of the newest scales. */
EDGEC_INLINE int edgec_x_is_near(const edgec_logit_scale *scale, uint32_t k, uint32_t v) {
    const int32_t least = scale->exponent - edgec_kv_bits_6((int32_t)k);
    return edgec_maxu32(k, v) < EDGEC_KV_SPREAD << 12 &&
           (uint32_t)(least - EDGEC_LEAST_LOGIT_SHIFT) <=
               (31U - EDGEC_LEAST_LOGIT_SHIFT) - (k >> 12);
}

/* The merged part of a head is rs(sums * lifted, 32 + right). */
typedef struct edgec_x_merger {
    int32_t lifted;
    int32_t right; /* 1 or more for exponents of ten bits or more */
} edgec_x_merger;

/* sum: of the e, of which the largest is not 0; up: to the exponent of the merged vector. */
EDGEC_INLINE edgec_x_merger edgec_x_merger_of(const edgec_attention_params *params, uint32_t sum,
                                              int32_t up) {
    const int32_t b = (int32_t)edgec_top_bit(sum) - 15;
    const int32_t normal = params->exp_bits == 15U /* the largest e is 2^15, b is not negative */
                               ? edgec_round_shift((int32_t)sum, (uint32_t)b)
                               : edgec_rounded((int32_t)sum, edgec_rounder_of(b));
    const edgec_x_merger merger = {(int32_t)((1U << 31) / (uint32_t)normal) * (1 << 14),
                                   edgec_min32(6 + b + up, 31)};
    return merger;
}

/* A head whose scales are near; anything else is left alone, and 0 returned. */
EDGEC_INLINE int edgec_x_attend(const edgec_heads *heads, const edgec_attention_params *params,
                                const edgec_heads_at *at, uint32_t head, edgec_range *range) {
    const uint32_t kv_head = edgec_kv_head_of(params, head);
    const uint32_t newest = (at->length - 1U) * params->kv_heads + kv_head;
    const edgec_kv_cache cache = edgec_heads_cache(heads, at);
    const edgec_kv_scale last = cache.v_scale[newest];
    const edgec_logit_scale scale = edgec_logit_scale_of(params, heads->args.q_scale + 2U * head);
    if (!edgec_x_is_near(&scale, cache.k_scale[newest].code, last.code)) {
        return 0;
    }
    int32_t *const z = heads->args.scratch + head * params->context;
    const edgec_rows k = edgec_rows_of(params, kv_head, cache.k, cache.k_scale, at->length);
    const int32_t most =
        edgec_x_scores(&k, heads->args.q + head * params->head_dim, &scale, z, INT32_MIN);
    const edgec_softmax softmax = {heads->args.exp2, most, edgec_kv_top(last),
                                   15U - params->exp_bits};
    const edgec_rows v = edgec_rows_of(params, kv_head, cache.v, cache.v_scale, at->length);
    uint16_t *end;
    const uint32_t sum = edgec_x_softmax(&v, &softmax, z, &end);
    end[0] = end[1] = end[2] = 0U; /* up to a multiple of four */
    const edgec_x_merger merger = edgec_x_merger_of(params, sum, at->top - softmax.v_exponent);
    if (params->exp_bits < 10U && merger.right < 1) {
        return 0;
    }
    int32_t *merged = heads->args.acc + head * params->head_dim;
    const uint32_t fours = (at->length + 3U) / 4U;
    uint16_t *const weights = (uint16_t *)(void *)z;
    const int apart = params->head_dim >= 16U; /* then it pays to do it once */
    if (apart) {
        edgec_x_take_apart(weights, fours, &heads->choices);
    }
    for (uint32_t i = 0U; i < params->head_dim; i += 4U) {
        const int32_t none[4] = {0, 0, 0, 0};
        const edgec_x_sums sums =
            edgec_x_sums_4(none, v.row + i, v.stride, fours, weights, &heads->choices, apart);
        merged = edgec_x_merge_4(sums, merger.lifted, (uint32_t)merger.right, merged, range);
    }
    return 1;
}

/* Heads with any scales whose cache travels. */
EDGEC_RARE static uint32_t edgec_attend_any_moved(const edgec_worker *worker,
                                                  const edgec_heads *heads,
                                                  const edgec_heads_at *at, uint8_t *tiles) {
    return edgec_amplitude_of(
        edgec_attend_singly(worker, heads, heads->args.params, at, heads->share, tiles));
}

/* A head of the worker while its cache travels. */
typedef struct edgec_x_head {
    const int8_t *q;
    edgec_logit_scale scale;
    uint32_t kv_head;
    int32_t *z;
    int32_t *acc;
    int32_t top;        /* largest logit so far */
    uint32_t sum;       /* of the e so far */
    int32_t v_exponent; /* vm */
} edgec_x_head;

/* Returns whether the scales of the head are near. */
EDGEC_INLINE int edgec_x_begin_head(edgec_x_head *own, const edgec_heads *heads,
                                    const edgec_attention_params *params, const edgec_heads_at *at,
                                    uint32_t head) {
    own->kv_head = edgec_kv_head_of(params, head);
    const uint32_t newest = (at->length - 1U) * params->kv_heads + own->kv_head;
    const edgec_kv_cache cache = edgec_heads_cache(heads, at);
    const edgec_kv_scale last = cache.v_scale[newest];
    own->q = heads->args.q + head * params->head_dim;
    own->scale = edgec_logit_scale_of(params, heads->args.q_scale + 2U * head);
    own->z = heads->args.scratch + head * params->context;
    own->acc = heads->args.acc + head * params->head_dim;
    own->top = INT32_MIN;
    own->sum = 0U;
    own->v_exponent = edgec_kv_top(last);
    EDGEC_KEEP(own->kv_head);
    return edgec_x_is_near(&own->scale, cache.k_scale[newest].code, last.code);
}

EDGEC_INLINE void edgec_x_clear(int32_t *x, uint32_t n) {
    for (const int32_t *const end = x + n; x != end; x++) {
        *x = 0;
        EDGEC_IN_ORDER /* no call of memset */
    }
}

/* Sums over a chunk of v, whose first logit is at z. */
EDGEC_INLINE void edgec_x_visit_v(edgec_x_head *own, const edgec_heads *heads,
                                  const edgec_attention_params *params, const edgec_rows *v,
                                  int32_t *z) {
    const edgec_softmax softmax = {heads->args.exp2, own->top, own->v_exponent,
                                   15U - params->exp_bits};
    uint16_t *const weights = (uint16_t *)(void *)z;
    const uint32_t fours = (v->count + 3U) / 4U;
    const int apart = params->head_dim >= 16U; /* then it pays to do it once */
    uint16_t *end;
    own->sum += edgec_x_softmax(v, &softmax, z, &end);
    end[0] = end[1] = end[2] = 0U; /* up to a multiple of four */
    if (apart) {
        edgec_x_take_apart(weights, fours, &heads->choices);
    }
    edgec_x_add_sums(own->acc, params->head_dim, v->row, v->stride, fours, weights, &heads->choices,
                     apart);
}

/* Of a team of eight or more, which has most of the code to itself. */
#define EDGEC_X_TEAM 8U
#define EDGEC_X_OWN 8U

/* Heads whose cache travels. */
EDGEC_INLINE uint32_t edgec_x_attend_moved(const edgec_worker *worker, const edgec_heads *heads,
                                           const edgec_attention_params *params,
                                           const edgec_heads_at *at, uint8_t *tiles) {
    edgec_x_head own[EDGEC_X_OWN];
    const uint32_t most = (params->heads + EDGEC_X_TEAM - 1U) / EDGEC_X_TEAM;
    const uint32_t count = heads->share.last - heads->share.first;
    int near = count <= most;
    for (uint32_t i = 0U; i < most; i++) {
        const uint32_t head = edgec_minu32(heads->share.first + i, params->heads - 1U);
        near &= edgec_x_begin_head(&own[i], heads, params, at, head);
    }
    if (!near) {
        const edgec_heads_at copy = *at; /* so that nothing else needs an address */
        return edgec_attend_any_moved(worker, heads, &copy, tiles);
    }
    edgec_dma dma[2];
    const edgec_kv_cache cache = edgec_heads_cache(heads, at);
    edgec_kv_stream stream = edgec_kv_begin(worker, params, &cache, at->length, tiles, dma);
    edgec_kv_chunk chunk = edgec_kv_none(&stream);
    edgec_range range = {0, 0};
    uint32_t ready = 0U;
    EDGEC_KEEP(ready); /* one copy of the loop */
    do {
        edgec_kv_send(&stream, params);
        for (uint32_t i = 0U; i < most && i < ready; i++) {
            const edgec_rows rows =
                edgec_rows_of(params, own[i].kv_head, chunk.rows, chunk.scales, chunk.count);
            int32_t *const z = own[i].z + chunk.first;
            if (chunk.pass == EDGEC_PASS_K) {
                edgec_x_clear(own[i].acc, params->head_dim);
                own[i].top = edgec_x_scores(&rows, own[i].q, &own[i].scale, z, own[i].top);
            } else {
                edgec_x_visit_v(&own[i], heads, params, &rows, z);
            }
        }
        ready = count;
    } while (edgec_kv_receive(&stream, params, &chunk));
    for (uint32_t i = 0U; i < most && i < count; i++) {
        const edgec_x_merger merger =
            edgec_x_merger_of(params, own[i].sum, at->top - own[i].v_exponent);
        edgec_x_merge(own[i].acc, params->head_dim, merger.lifted, (uint32_t)merger.right, &range);
    }
    return edgec_amplitude_of(range);
}
#endif

/* The merged vector of the worker's heads, in place of acc. Returns its amplitude. */
EDGEC_INLINE uint32_t edgec_fused_attend(const edgec_worker *worker, const edgec_heads *heads,
                                         const edgec_attention_params *params, uint32_t layer,
                                         uint32_t length, uint8_t *tiles, int32_t top) {
    const edgec_heads_at at = {layer * heads->layer_rows, layer * heads->layer_scales, length, top};
#if EDGEC_XPULP
    if (edgec_by_fours(params) && params->slot_size != 0U) {
        EDGEC_KEEP(heads);
        return edgec_x_attend_moved(worker, heads, params, &at, tiles);
    }
    if (edgec_by_fours(params)) {
        edgec_range range = {0, 0};
        EDGEC_KEEP(heads);
        for (uint32_t head = heads->share.first; head < heads->share.last; head++) {
            EDGEC_KEEP(head);
            if (!edgec_x_attend(heads, params, &at, head, &range)) {
                const edgec_heads_at copy = at; /* so that nothing else needs an address */
                const edgec_range found = edgec_attend_any(heads, &copy, head);
                edgec_range_add(&range, found.max);
                edgec_range_add(&range, found.min);
            }
        }
        return edgec_amplitude_of(range);
    }
#endif
    return edgec_amplitude_of(edgec_attend_singly(worker, heads, params, &at, heads->share, tiles));
}

#endif
