/* Inline kernels of fused ops as symbols, for tests. */
#include "edgec_fused_heads.h"

void fused_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     int32_t *acc, int32_t *stats, int32_t top, uint32_t *amplitudes);

void fused_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     int32_t *acc, int32_t *stats, int32_t top, uint32_t *amplitudes) {
    const edgec_attention_args args = {params, cache,   length, q,    q_scale,
                                       exp2,   scratch, acc,    stats};
    amplitudes[worker->id] =
        edgec_fused_attend(worker, edgec_slice_of(worker, params->heads), &args, NULL, top);
}
