#include "edgec_kernels.h"
#include "edgec_rmsnorm_body.h"

void edgec_rmsnorm_s8(const edgec_worker *worker, const int32_t *r, const int16_t *gamma,
                      uint32_t n, uint64_t eps, int32_t *scratch, int8_t *q, int32_t *scale) {
    const edgec_rmsnorm_state state = edgec_rmsnorm_reduce(worker, r, gamma, n, eps, scratch);
    const edgec_quantizer quantizer = edgec_quantizer_s8(state.range);
    const uint32_t first = state.share.first;
    edgec_quantize_s8(&quantizer, scratch + first, state.share.last - first, q + first);
    if (worker->id == 0U) {
        const uint32_t a = ((uint32_t)quantizer.amax << 16) / state.root;
        const int over = a > 1U << 15;
        scale[0] = (int32_t)(over != 0 ? (a + 1U) >> 1 : a);
        scale[1] = quantizer.shift - 16 - state.root_shift + over;
    }
}
