/* The head inside a fused op: rows piece by piece beside the engine, and the largest of them. */
#ifndef EDGEC_FUSED_ARGMAX_H
#define EDGEC_FUSED_ARGMAX_H

#include "edgec_fused_engine.h"

/* The largest row so far, and the run that has it; of equal ones the lowest. */
typedef struct edgec_best {
    int32_t value;
    uint32_t first;
} edgec_best;

#define EDGEC_NO_ROW 0xFFFFFFFFU

static inline int edgec_better(int32_t value, uint32_t first, edgec_best than) {
    return value > than.value || (value == than.value && first < than.first);
}

static inline int32_t edgec_largest(const int32_t *y, uint32_t count) {
    int32_t most = INT32_MIN;
#if EDGEC_XPULP
    int32_t x;
    __asm__ volatile(EDGEC_X_LOOP(2, EDGEC_X_LWP(x, y, 4) EDGEC_X_MAX(most, most, x))
                     : [x] "=&r"(x), [y] "+&r"(y), [most] "+&r"(most)
                     : [n] "r"(count)
                     : "memory");
#else
    for (uint32_t i = 0U; i < count; i++) {
        most = edgec_max32(most, y[i]);
    }
#endif
    return most;
}

/* With the worker's rows. */
static inline edgec_best edgec_best_of(const edgec_own_rows *own, edgec_best best) {
    for (const edgec_row_run *run = own->runs; run != own->end; run++) {
        const uint32_t first = run->first;
        const int32_t value = edgec_largest(own->y + first, run->count);
        if (edgec_better(value, first, best)) {
            best.value = value;
            best.first = first;
        }
    }
    return best;
}

/* The team's, of all rows y: a barrier lies in it. */
static inline uint32_t edgec_argmax_of(const edgec_worker *worker, edgec_best best,
                                       const int32_t *y) {
    if (best.first != EDGEC_NO_ROW) {
        while (y[best.first] != best.value) {
            best.first++;
        }
    }
    worker->partials[worker->id].max[0] = best.value;
    worker->partials[worker->id].sum = best.first;
    edgec_barrier(worker);
    for (uint32_t core = 0U; core < worker->count; core++) {
        const edgec_partial *const partial = &worker->partials[core];
        if (edgec_better(partial->max[0], (uint32_t)partial->sum, best)) {
            best.value = partial->max[0];
            best.first = (uint32_t)partial->sum;
        }
    }
    return best.first;
}

#endif
