#include "edgec_kernels.h"
#include "edgec_vector.h"
#include "edgec_xpulp_asm.h"

void edgec_argmax(const edgec_worker *worker, const int32_t *logits, uint32_t n, int32_t *next) {
    const edgec_slice share = edgec_slice_of(worker, n);
    int32_t best = INT32_MIN;
    uint32_t index = share.first;
#if EDGEC_XPULP
    if (share.first < share.last) { /* the maximum, and then its first place */
        const int32_t *at = logits + share.first;
        int32_t x;
        __asm__ volatile(EDGEC_X_LOOP(2, EDGEC_X_LWP(x, at, 4) EDGEC_X_MAX(best, best, x))
                         : [x] "=&r"(x), [at] "+&r"(at), [best] "+&r"(best)
                         : [n] "r"(share.last - share.first)
                         : "memory");
        while (logits[index] != best) {
            index++;
        }
    }
#else
    for (uint32_t i = share.first; i < share.last; i++) {
        if (logits[i] > best) {
            best = logits[i];
            index = i;
        }
    }
#endif
    worker->partials[worker->id].max[0] = best;
    worker->partials[worker->id].sum = index;
    edgec_barrier(worker);
    if (worker->id == 0U) {
        for (uint32_t core = 1U; core < worker->count; core++) {
            if (worker->partials[core].max[0] > best) {
                best = worker->partials[core].max[0];
                index = (uint32_t)worker->partials[core].sum;
            }
        }
        *next = (int32_t)index;
    }
}
