#include "edgec_head_body.h"
#include "edgec_kernels.h"

void edgec_rope_s8(const edgec_worker *worker, const int32_t *x, const int16_t *table,
                   uint32_t heads, uint32_t head_dim, int32_t *scratch, int8_t *q, int32_t *scale) {
    edgec_rope_heads(edgec_slice_of(worker, heads), x, table, head_dim, scratch, q, scale);
}
