/* Two passes over the KV cache, read in place or moved chunk by chunk into one or two slots.
 *
 * A slot holds, each from a multiple of 4, the rows of positions_per_chunk positions and their
 * scales. The passes form one sequence of chunks, each of which uses the slot that its predecessor
 * does not: the barrier that publishes a chunk also tells that nobody reads the other slot any
 * more, between the passes as well. With one slot a barrier of its own tells that, and transfer and
 * work take turns. */
#ifndef EDGEC_KV_STREAM_H
#define EDGEC_KV_STREAM_H

#include "edgec_math.h"
#include "edgec_port.h"
#include "edgec_types.h"

#define EDGEC_PASS_K 0U
#define EDGEC_PASS_V 1U
#define EDGEC_PASSES 2U

/* Consecutive positions that can be read now. */
typedef struct edgec_kv_chunk {
    const int8_t *rows;           /* [count][kv_heads][head_dim] of k or v */
    const edgec_kv_scale *scales; /* [count][kv_heads] */
    uint32_t pass;
    uint32_t first; /* position */
    uint32_t count;
} edgec_kv_chunk;

typedef struct edgec_kv_stream {
    const edgec_worker *worker;
    const edgec_attention_params *params;
    const edgec_kv_cache *cache;
    uint8_t *tiles;
    uint32_t length; /* positions of each pass */
    uint32_t pass;   /* of the chunk under way; EDGEC_PASSES at the end */
    uint32_t first;  /* position of the chunk under way */
    uint32_t slot;   /* of the chunk under way */
    edgec_dma rows_dma[2];
    edgec_dma scales_dma[2];
} edgec_kv_stream;

/* The chunk under way where the cache has it. */
EDGEC_INLINE edgec_kv_chunk edgec_kv_in_cache(const edgec_kv_stream *stream) {
    const edgec_attention_params *const params = stream->params;
    const edgec_kv_cache *const cache = stream->cache;
    const uint32_t scale = stream->first * params->kv_heads;
    const uint32_t row = scale * params->head_dim;
    const uint32_t left = stream->length - stream->first;
    const uint32_t most = params->slot_size == 0U ? left : params->positions_per_chunk;
    const int is_k = stream->pass == EDGEC_PASS_K;
    const edgec_kv_chunk chunk = {(is_k ? cache->k : cache->v) + row,
                                  (is_k ? cache->k_scale : cache->v_scale) + scale, stream->pass,
                                  stream->first, left < most ? left : most};
    return chunk;
}

/* The same chunk where its slot has it. */
EDGEC_INLINE edgec_kv_chunk edgec_kv_in_slot(const edgec_kv_stream *stream,
                                             const edgec_kv_chunk *in_cache) {
    const edgec_attention_params *const params = stream->params;
    const uint32_t words = params->positions_per_chunk * params->kv_heads;
    const uint8_t *const rows = stream->tiles + stream->slot * params->slot_size;
    const void *const scales = rows + ((words * params->head_dim + 3U) & ~3U);
    edgec_kv_chunk chunk = *in_cache;
    chunk.rows = (const int8_t *)rows;
    chunk.scales = (const edgec_kv_scale *)scales;
    return chunk;
}

/* Begins to move the chunk under way, if there is one. Core 0 alone calls it. */
EDGEC_INLINE void edgec_kv_start(edgec_kv_stream *stream) {
    const edgec_attention_params *const params = stream->params;
    if (params->slot_size == 0U || stream->pass == EDGEC_PASSES) {
        return;
    }
    const uint32_t slot = stream->slot;
    const edgec_kv_chunk from = edgec_kv_in_cache(stream);
    const edgec_kv_chunk to = edgec_kv_in_slot(stream, &from);
    const uint32_t words = from.count * params->kv_heads;
    edgec_dma_start(&stream->rows_dma[slot], (void *)(uintptr_t)to.rows, from.rows,
                    words * params->head_dim);
    edgec_dma_start(&stream->scales_dma[slot], (void *)(uintptr_t)to.scales, from.scales,
                    (uint32_t)sizeof *from.scales * words);
}

/* Returns the chunk under way as soon as it can be read, and starts its successor if it has a slot
 * of its own. */
EDGEC_INLINE edgec_kv_chunk edgec_kv_next(edgec_kv_stream *stream) {
    const uint32_t slot = stream->slot;
    const int is_mover = stream->worker->id == 0U;
    const int is_first = stream->first == 0U && stream->pass == EDGEC_PASS_K;
    edgec_kv_chunk chunk = edgec_kv_in_cache(stream);
    if (stream->params->slots == 1U && !is_first) {
        edgec_barrier(stream->worker); /* nobody reads the only slot any more */
        if (is_mover) {
            edgec_kv_start(stream);
        }
    }
    if (stream->params->slot_size != 0U) {
        chunk = edgec_kv_in_slot(stream, &chunk);
        if (is_mover) {
            edgec_dma_wait(&stream->rows_dma[slot]);
            edgec_dma_wait(&stream->scales_dma[slot]);
        }
        edgec_barrier(stream->worker);
    }
    if (stream->params->slots == 2U) {
        stream->slot ^= 1U;
    }
    stream->first += chunk.count;
    if (stream->first == stream->length) {
        stream->first = 0U;
        stream->pass++;
    }
    if (is_mover && stream->params->slots == 2U) {
        edgec_kv_start(stream);
    }
    return chunk;
}

#endif
