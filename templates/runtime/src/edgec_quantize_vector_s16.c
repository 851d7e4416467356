#include "edgec_kernels.h"
#include "edgec_vector.h"

void edgec_quantize_vector_s16(const edgec_worker *worker, const int32_t *x, uint32_t n, int16_t *q,
                               int32_t *scale) {
    const edgec_slice share = edgec_slice_of(worker, n);
    const uint32_t first = share.first;
    edgec_put_range(worker, 0U, edgec_range_of(x + first, share.last - first));
    edgec_barrier(worker);
    const edgec_quantizer quantizer = edgec_quantizer_s16(edgec_get_range(worker, 0U));
    edgec_quantize_s16(&quantizer, x + first, share.last - first, q + first);
    if (worker->id == 0U) {
        scale[0] = quantizer.amax;
        scale[1] = quantizer.exponent;
    }
}
