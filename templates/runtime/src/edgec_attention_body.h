/* Softmax attention of the heads of one core. Everything is inline, so that a caller whose
 * parameters are constants gets the code of its shape alone. */
#ifndef EDGEC_ATTENTION_BODY_H
#define EDGEC_ATTENTION_BODY_H

#include "edgec_attention_values.h"
#include "edgec_attention_xpulp.h"
#include "edgec_kv_stream.h"

/* What every head needs; stats hold (largest logit, sum of e, vm) until the end. */
typedef struct edgec_attention_args {
    const edgec_attention_params *params;
    const edgec_kv_cache *cache;
    uint32_t length;
    const int8_t *q;
    const int32_t *q_scale;
    const uint16_t *exp2;
    int32_t *scratch;
    int32_t *acc;
    int32_t *stats;
} edgec_attention_args;

/* Whether the loops of XpulpV2 serve: all words are aligned where the arrays are. */
EDGEC_INLINE int edgec_by_words(const edgec_attention_params *params) {
    return EDGEC_XPULP && params->head_dim % 4U == 0U;
}

/* Heads `head` .. before `end` that are taken together: two that share their KV head, or one. */
EDGEC_INLINE uint32_t edgec_heads_from(const edgec_attention_params *params, uint32_t head,
                                       uint32_t end) {
    const int two = !edgec_by_words(params) && head + 1U < end &&
                    (head + 1U) % (params->heads / params->kv_heads) != 0U;
    return two ? 2U : 1U;
}

/* The KV head of a head, without a division where the shape is known. */
EDGEC_INLINE uint32_t edgec_kv_head_of(const edgec_attention_params *params, uint32_t head) {
    return params->kv_heads == params->heads ? head
           : params->kv_heads == 1U          ? 0U
                                             : head / (params->heads / params->kv_heads);
}

EDGEC_INLINE edgec_rows edgec_rows_of(const edgec_attention_params *params, uint32_t kv_head,
                                      const int8_t *row, const edgec_kv_scale *scales,
                                      uint32_t count) {
    const edgec_rows rows = {row + kv_head * params->head_dim,
                             scales + kv_head,
                             params->kv_heads * params->head_dim,
                             params->kv_heads,
                             count,
                             params->head_dim,
                             params->context};
    return rows;
}

EDGEC_INLINE void edgec_begin_head(const edgec_attention_args *args, uint32_t head) {
    const edgec_attention_params *const params = args->params;
    int32_t *const acc = args->acc + head * params->head_dim;
    args->stats[3U * head] = -INT32_MAX;
    args->stats[3U * head + 1U] = 0;
    for (uint32_t i = 0U; i < params->head_dim; i++) {
        acc[i] = 0;
    }
}

/* Logits of one head, or of two, at positions from `first` on. */
EDGEC_INLINE void edgec_visit_k(const edgec_attention_args *args, uint32_t head, uint32_t heads,
                                const edgec_kv_chunk *chunk) {
    const edgec_attention_params *const params = args->params;
    const uint32_t kv_head = edgec_kv_head_of(params, head);
    const edgec_rows rows =
        edgec_rows_of(params, kv_head, chunk->rows, chunk->scales, chunk->count);
    const edgec_kv_scale last =
        args->cache->k_scale[(args->length - 1U) * params->kv_heads + kv_head];
    const int8_t *const q = args->q + head * params->head_dim;
    int32_t *const z = args->scratch + head * params->context + chunk->first;
    int32_t *const top = args->stats + 3U * head;
    edgec_logit_scale scale[2];
    int near = 1;
    for (uint32_t i = 0U; i < heads; i++) {
        scale[i] = edgec_logit_scale_of(params, args->q_scale + 2U * (head + i));
        near &= edgec_logits_are_near(&scale[i], last);
    }
#if EDGEC_XPULP
    if (near && edgec_by_words(params)) {
        *top = edgec_x_scores(&rows, q, &scale[0], z, *top);
        return;
    }
#endif
    edgec_dot_rows(&rows, q, 1 << edgec_logit_lift(&scale[0]), heads > 1U, z);
    if (near && heads > 1U) {
        edgec_logits_near_two(&rows, scale, z, top, top + 3);
    } else if (near) {
        edgec_logits_near(&rows, &scale[0], z, top);
    } else {
        for (uint32_t i = 0U; i < heads; i++) {
            edgec_logits_far(&rows, &scale[i], z + i * params->context, top + 3U * i);
        }
    }
}

EDGEC_INLINE edgec_kv_scale edgec_last_v(const edgec_attention_args *args, uint32_t head) {
    const edgec_attention_params *const params = args->params;
    const uint32_t kv_head = edgec_kv_head_of(params, head);
    return args->cache->v_scale[(args->length - 1U) * params->kv_heads + kv_head];
}

/* Weighs the values of one head. */
EDGEC_INLINE void edgec_visit_v(const edgec_attention_args *args, uint32_t head,
                                const edgec_kv_chunk *chunk) {
    const edgec_attention_params *const params = args->params;
    const uint32_t kv_head = edgec_kv_head_of(params, head);
    const edgec_rows rows =
        edgec_rows_of(params, kv_head, chunk->rows, chunk->scales, chunk->count);
    const edgec_kv_scale last = edgec_last_v(args, head);
    const int near = edgec_kv_spread(last) < EDGEC_KV_SPREAD;
    int32_t *const z = args->scratch + head * params->context + chunk->first;
    int32_t *const acc = args->acc + head * params->head_dim;
    int32_t *const stats = args->stats + 3U * head;
    const edgec_softmax softmax = {args->exp2, stats[0], edgec_kv_top(last),
                                   15U - params->exp_bits};
#if EDGEC_XPULP
    if (near && edgec_by_words(params)) {
        uint16_t *end;
        stats[1] += (int32_t)edgec_x_softmax(&rows, &softmax, z, &end);
        edgec_x_weigh_rows(&rows, (const uint16_t *)(const void *)z, acc);
        return;
    }
#endif
    stats[1] += (int32_t)edgec_attend_rows(&rows, &softmax, near, z, acc);
}

/* Leaves the reciprocal and the exponent of the sum, and vm. */
EDGEC_INLINE void edgec_end_head(const edgec_attention_args *args, uint32_t head) {
    int32_t *const stats = args->stats + 3U * head;
    const int32_t sum = stats[1];
    const int32_t b = edgec_bits32((uint32_t)sum) - 16;
    const int32_t normal = b > 0 ? edgec_round_shift(sum, (uint32_t)b) : sum * (1 << (uint32_t)-b);
    stats[0] = (int32_t)((1U << 31) / (uint32_t)normal);
    stats[1] = b;
    stats[2] = edgec_kv_top(edgec_last_v(args, head));
}

/* The cache is read where it is: head after head. */
EDGEC_INLINE void edgec_attend_in_place(const edgec_attention_args *args, edgec_slice share) {
    const edgec_kv_cache *const cache = args->cache;
    const edgec_kv_chunk k = {cache->k, cache->k_scale, EDGEC_PASS_K, 0U, args->length};
    const edgec_kv_chunk v = {cache->v, cache->v_scale, EDGEC_PASS_V, 0U, args->length};
    uint32_t heads;
    for (uint32_t head = share.first; head < share.last; head += heads) {
        heads = edgec_heads_from(args->params, head, share.last);
        for (uint32_t i = head; i < head + heads; i++) {
            edgec_begin_head(args, i);
        }
        edgec_visit_k(args, head, heads, &k);
        for (uint32_t i = head; i < head + heads; i++) {
            edgec_visit_v(args, i, &v);
            edgec_end_head(args, i);
        }
    }
}

/* The cache is moved chunk by chunk, first k, then v. */
EDGEC_INLINE void edgec_attend_moved(const edgec_attention_args *args, edgec_slice share,
                                     edgec_kv_stream *stream) {
    for (uint32_t head = share.first; head < share.last; head++) {
        edgec_begin_head(args, head);
    }
    edgec_kv_chunk chunk = edgec_kv_none(stream);
    do {
        edgec_kv_send(stream, args->params);
        uint32_t heads;
        for (uint32_t head = share.first; chunk.count != 0U && head < share.last; head += heads) {
            heads = 1U;
            if (chunk.pass == EDGEC_PASS_K) {
                heads = edgec_heads_from(args->params, head, share.last);
                edgec_visit_k(args, head, heads, &chunk);
            } else {
                edgec_visit_v(args, head, &chunk);
            }
        }
    } while (edgec_kv_receive(stream, args->params, &chunk));
    for (uint32_t head = share.first; head < share.last; head++) {
        edgec_end_head(args, head);
    }
}

/* edgec_attention of edgec_kernels.h. */
EDGEC_INLINE void edgec_attend(const edgec_worker *worker, const edgec_attention_args *args,
                               uint8_t *tiles) {
    const edgec_slice share = edgec_slice_of(worker, args->params->heads);
    if (args->params->slot_size == 0U) {
        edgec_attend_in_place(args, share);
    } else {
        edgec_dma dma[2];
        edgec_kv_stream stream =
            edgec_kv_begin(worker, args->params, args->cache, args->length, tiles, dma);
        edgec_attend_moved(args, share, &stream);
    }
}

#endif
