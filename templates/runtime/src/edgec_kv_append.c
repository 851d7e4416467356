#include "edgec_head_body.h"
#include "edgec_kernels.h"
#include "edgec_kv_scale.h"

/* Appends one vector per KV head of a worker: rows[context][kv_heads][head_dim], scales alike.
 * scratch: as x, used where there is a table. */
EDGEC_INLINE void edgec_append_heads(edgec_slice share, const edgec_attention_params *params,
                                     const int32_t *x, const int16_t *table, uint32_t position,
                                     int32_t *scratch, int8_t *rows, edgec_kv_scale *scales) {
    const uint32_t head_dim = params->head_dim;
    int8_t *row = rows + (position * params->kv_heads + share.first) * head_dim;
    edgec_kv_scale *place = scales + position * params->kv_heads + share.first;
    for (uint32_t head = share.first; head < share.last; head++) {
        const uint32_t at = head * head_dim;
        const edgec_scale of = edgec_quantize_head(x + at, table, head_dim, scratch + at, row);
        int32_t largest;
        *place = edgec_kv_scale_with(of.a, of.e, place, position != 0U ? params->kv_heads : 0U,
                                     &largest);
        row += head_dim;
        place++;
    }
}

void edgec_kv_append(const edgec_worker *worker, const edgec_attention_params *params,
                     const int32_t *k, const int32_t *v, const int16_t *table, uint32_t position,
                     int32_t *scratch, const edgec_kv_cache *cache) {
    const edgec_slice share = edgec_slice_of(worker, params->kv_heads);
    edgec_append_heads(share, params, k, table, position, scratch, cache->k, cache->k_scale);
    edgec_append_heads(share, params, v, NULL, position, scratch, cache->v, cache->v_scale);
}
