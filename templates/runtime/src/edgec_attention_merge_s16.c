#include "edgec_attention_merge_body.h"
#include "edgec_kernels.h"

void edgec_attention_merge_s16(const edgec_worker *worker, const int32_t *acc, const int32_t *stats,
                               uint32_t heads, uint32_t head_dim, int32_t *scratch, int16_t *q,
                               int32_t *scale) {
    const edgec_merge_state state =
        edgec_attention_merge_reduce(worker, acc, stats, heads, head_dim, scratch);
    const edgec_quantizer quantizer = edgec_quantizer_s16(state.range);
    const uint32_t first = state.share.first;
    edgec_quantize_s16(&quantizer, scratch + first, state.share.last - first, q + first);
    if (worker->id == 0U) {
        scale[0] = quantizer.amax;
        scale[1] = quantizer.exponent + state.exponent;
    }
}
