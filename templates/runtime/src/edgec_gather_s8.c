#include "edgec_kernels.h"
#include "edgec_vector.h"

void edgec_gather_s8(const edgec_worker *worker, const int8_t *x, const uint16_t *order, uint32_t n,
                     int8_t *q) {
    const edgec_slice share = edgec_slice_of(worker, n);
    for (uint32_t i = share.first; i < share.last; i++) {
        q[i] = x[order[i]];
    }
}
