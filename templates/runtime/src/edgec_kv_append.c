#include "edgec_head_body.h"
#include "edgec_kernels.h"

void edgec_kv_append(const edgec_worker *worker, const edgec_attention_params *params,
                     const int32_t *k, const int32_t *v, const int16_t *table, uint32_t position,
                     int32_t *scratch, const edgec_kv_cache *cache) {
    const edgec_slice share = edgec_slice_of(worker, params->kv_heads);
    edgec_append_heads(share, params, k, table, position, scratch, cache->k, cache->k_scale);
    edgec_append_heads(share, params, v, NULL, position, scratch, cache->v, cache->v_scale);
}
