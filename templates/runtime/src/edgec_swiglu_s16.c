#include "edgec_kernels.h"
#include "edgec_swiglu_body.h"

void edgec_swiglu_s16(const edgec_worker *worker, const int32_t *gate, const int32_t *up,
                      const uint16_t *table, uint32_t n, int32_t *scratch, int16_t *q,
                      int32_t *scale) {
    const edgec_swiglu_state state = edgec_swiglu_reduce(worker, gate, up, table, n, scratch);
    const edgec_quantizer quantizer = edgec_quantizer_s16(state.range);
    const uint32_t first = state.share.first;
    edgec_quantize_s16(&quantizer, scratch + first, state.share.last - first, q + first);
    if (worker->id == 0U) {
        scale[0] = quantizer.amax;
        scale[1] = quantizer.exponent + state.exponent;
    }
}
