#include "edgec_attention_body.h"
#include "edgec_kernels.h"

void edgec_attention(const edgec_worker *worker, const edgec_attention_params *params,
                     uint32_t length, const int8_t *q, const int32_t *q_scale,
                     const edgec_kv_cache *cache, const uint16_t *exp2, int32_t *scratch,
                     uint8_t *tiles, int32_t *acc, int32_t *stats) {
    const edgec_attention_args args = {params, cache,   length, q,    q_scale,
                                       exp2,   scratch, acc,    stats};
    edgec_attend(worker, &args, tiles);
}
