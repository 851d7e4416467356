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

/* Consecutive positions that can be read now; none: there is no chunk yet. */
typedef struct edgec_kv_chunk {
    const int8_t *rows;           /* [count][kv_heads][head_dim] of k or v */
    const edgec_kv_scale *scales; /* [count][kv_heads] */
    uint32_t pass;
    uint32_t first; /* position */
    uint32_t count;
} edgec_kv_chunk;

/* pass, first and slot are those of the next chunk, the one behind those that were received. */
typedef struct edgec_kv_stream {
    const edgec_worker *worker;
    const edgec_kv_cache *cache;
    edgec_dma *dma;  /* [2]: of rows and of scales */
    uint32_t length; /* positions of each pass */
    uint32_t pass;   /* EDGEC_PASSES at the end */
    uint32_t first;  /* position */
    int8_t *rows;    /* its slot */
    edgec_kv_scale *scales;
    int8_t *other_rows; /* the slot of the chunk behind it, and of the one before it */
    edgec_kv_scale *other_scales;
} edgec_kv_stream;

EDGEC_INLINE edgec_kv_stream edgec_kv_begin(const edgec_worker *worker,
                                            const edgec_attention_params *params,
                                            const edgec_kv_cache *cache, uint32_t length,
                                            uint8_t *tiles, edgec_dma dma[2]) {
    const uint32_t words = params->positions_per_chunk * params->kv_heads;
    const uint32_t size = (words * params->head_dim + 3U) & ~3U;
    uint8_t *const other = tiles + (params->slots == 2U ? params->slot_size : 0U);
    const edgec_kv_stream stream = {
        worker,
        cache,
        dma,
        length,
        EDGEC_PASS_K,
        0U,
        (int8_t *)tiles,
        (edgec_kv_scale *)(void *)(tiles + size),
        (int8_t *)other,
        (edgec_kv_scale *)(void *)(other + size),
    };
    return stream;
}

/* In front of the first chunk: none. */
EDGEC_INLINE edgec_kv_chunk edgec_kv_none(const edgec_kv_stream *stream) {
    const edgec_kv_chunk chunk = {stream->other_rows, stream->other_scales, stream->pass,
                                  stream->first, 0U};
    return chunk;
}

/* Positions of the next chunk. */
EDGEC_INLINE uint32_t edgec_kv_count(const edgec_kv_stream *stream,
                                     const edgec_attention_params *params) {
    return edgec_minu32(stream->length - stream->first, params->positions_per_chunk);
}

/* Begins to move the next chunk, if there is one. */
EDGEC_INLINE void edgec_kv_start(const edgec_kv_stream *stream,
                                 const edgec_attention_params *params) {
    if (stream->worker->id != 0U || stream->pass == EDGEC_PASSES) {
        return;
    }
    const uint32_t first = stream->first * params->kv_heads;
    const uint32_t words = edgec_kv_count(stream, params) * params->kv_heads;
    const int8_t *rows = stream->cache->k;
    const edgec_kv_scale *scales = stream->cache->k_scale;
    if (stream->pass == EDGEC_PASS_V) {
        rows = stream->cache->v;
        scales = stream->cache->v_scale;
    }
    edgec_dma_start(&stream->dma[0], stream->rows, rows + first * params->head_dim,
                    words * params->head_dim);
    edgec_dma_start(&stream->dma[1], stream->scales, scales + first,
                    (uint32_t)sizeof *scales * words);
}

/* In front of the work on the chunk that was received last, or on none: the next one begins to move
 * if it has a slot of its own. */
EDGEC_INLINE void edgec_kv_send(const edgec_kv_stream *stream,
                                const edgec_attention_params *params) {
    if (params->slots == 2U) {
        edgec_kv_start(stream, params);
    }
}

/* Behind that work: the next chunk as soon as it can be read. Returns whether there is one. */
EDGEC_INLINE int edgec_kv_receive(edgec_kv_stream *stream, const edgec_attention_params *params,
                                  edgec_kv_chunk *chunk) {
    EDGEC_KEEP(stream->pass); /* one copy of this, whichever pass was worked on */
    if (stream->pass == EDGEC_PASSES) {
        return 0;
    }
    if (params->slots == 1U) {
        edgec_barrier(stream->worker); /* nobody reads the only slot any more */
        edgec_kv_start(stream, params);
    }
    if (stream->worker->id == 0U) {
        edgec_dma_wait(&stream->dma[0]);
        edgec_dma_wait(&stream->dma[1]);
    }
    edgec_barrier(stream->worker);
    const edgec_kv_chunk received = {stream->rows, stream->scales, stream->pass, stream->first,
                                     edgec_kv_count(stream, params)};
    *chunk = received;
    stream->first += chunk->count;
    if (stream->first == stream->length) {
        stream->first = 0U;
        stream->pass++;
    }
    int8_t *const rows = stream->rows;
    stream->rows = stream->other_rows;
    stream->other_rows = rows;
    edgec_kv_scale *const scales = stream->scales;
    stream->scales = stream->other_scales;
    stream->other_scales = scales;
    return 1;
}

#endif
