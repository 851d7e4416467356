#include "edgec_kernels.h"
#include "edgec_vector.h"

void edgec_residual_add(const edgec_worker *worker, const int32_t *y, uint32_t n, int32_t *r) {
    const edgec_slice share = edgec_slice_of(worker, n);
    for (uint32_t i = share.first; i < share.last; i++) {
        const uint32_t sum = (uint32_t)r[i] + (uint32_t)y[i];
        const uint32_t carried = ((uint32_t)r[i] ^ sum) & ((uint32_t)y[i] ^ sum);
        r[i] = carried >> 31 != 0U || sum == 1U << 31 ? edgec_sat32((int64_t)r[i] + y[i])
                                                      : edgec_signed(sum);
    }
}
