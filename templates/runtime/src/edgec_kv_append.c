#include "edgec_kernels.h"
#include "edgec_rotary_body.h"

/* amax | exponent << 16, as a sum because the exponent may be negative. */
static int32_t scale_word(const edgec_quantizer *quantizer) {
    return quantizer->exponent * 65536 + quantizer->amax;
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
        cache->k_scale[row] = scale_word(&of_k);
        const edgec_quantizer of_v = edgec_quantizer_s8(edgec_range_of(v + at, head_dim));
        edgec_quantize_s8(&of_v, v + at, head_dim, cache->v + row * head_dim);
        cache->v_scale[row] = scale_word(&of_v);
    }
}
