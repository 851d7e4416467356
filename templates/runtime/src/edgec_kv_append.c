#include "edgec_kernels.h"
#include "edgec_kv_scale.h"
#include "edgec_rotary_body.h"

static void put_scale(edgec_kv_scale *place, const edgec_quantizer *quantizer, uint32_t kv_heads,
                      uint32_t position) {
    *place = edgec_kv_scale_of(quantizer->amax, quantizer->exponent,
                               position != 0U ? place - kv_heads : NULL);
}

void edgec_kv_append(const edgec_worker *worker, const edgec_attention_params *params,
                     const int32_t *k, const int32_t *v, const int16_t *table, uint32_t position,
                     int32_t *scratch, const edgec_kv_cache *cache) {
    const uint32_t head_dim = params->head_dim;
    const edgec_slice share = edgec_slice_of(worker, params->kv_heads);
    for (uint32_t head = share.first; head < share.last; head++) {
        const uint32_t at = head * head_dim;
        const uint32_t row = position * params->kv_heads + head;
        const edgec_quantizer of_k =
            edgec_rotate_quantize(k + at, table, head_dim, scratch + at, cache->k + row * head_dim);
        put_scale(cache->k_scale + row, &of_k, params->kv_heads, position);
        const edgec_quantizer of_v = edgec_quantizer_s8(edgec_range_of(v + at, head_dim));
        edgec_quantize_s8(&of_v, v + at, head_dim, cache->v + row * head_dim);
        put_scale(cache->v_scale + row, &of_v, params->kv_heads, position);
    }
}
