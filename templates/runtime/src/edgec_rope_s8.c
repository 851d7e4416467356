#include "edgec_head_body.h"
#include "edgec_kernels.h"

void edgec_rope_s8(const edgec_worker *worker, const int32_t *x, const int16_t *table,
                   uint32_t heads, uint32_t head_dim, int32_t *scratch, int8_t *q, int32_t *scale) {
    const edgec_slice share = edgec_slice_of(worker, heads);
    for (uint32_t head = share.first; head < share.last; head++) {
        const uint32_t at = head * head_dim;
        const edgec_scale of = edgec_quantize_head(x + at, table, head_dim, scratch + at, q + at);
        scale[2U * head] = of.a;
        scale[2U * head + 1U] = of.e;
    }
}
