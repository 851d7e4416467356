#include "edgec_kernels.h"
#include "edgec_rmsnorm_body.h"

void edgec_rmsnorm_s16(const edgec_worker *worker, const int32_t *r, const int16_t *gamma,
                       uint32_t n, uint64_t eps, int32_t *scratch, int16_t *q, int32_t *scale) {
    const edgec_rmsnorm_state state = edgec_rmsnorm_reduce(worker, r, gamma, n, eps, scratch);
    const edgec_quantizer quantizer = edgec_quantizer_s16(state.range);
    const uint32_t first = state.share.first;
    edgec_quantize_s16(&quantizer, scratch + first, state.share.last - first, q + first);
    if (worker->id == 0U) { /* root >= 2^15, so that A <= 2^15 */
        scale[0] = (int32_t)((1U << 30) / state.root);
        scale[1] = quantizer.shift - 30 - state.root_shift;
    }
}
