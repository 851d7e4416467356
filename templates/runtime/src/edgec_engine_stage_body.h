/* Staging of a vector, written once for both activation types.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t), EDGEC_HALVES (1 or 2) and
 * EDGEC_ENGINE_STAGE (name of the function). */
#include "edgec_engine.h"
#include "edgec_vector.h"

/* Inputs that lie one behind the other, in the halves' places. */
static inline void edgec_stage_run(const EDGEC_ACTIVATION *x, const EDGEC_ACTIVATION *end,
                                   int8_t *upper, int8_t *lower) {
    for (; x != end; x++) {
        const int32_t q = *x;
#if EDGEC_HALVES == 2
        *upper++ = (int8_t)((q + 128) >> 8);
        *lower++ = (int8_t)(q - 256 * ((q + 128) >> 8));
#else
        (void)lower;
        *upper++ = (int8_t)q;
#endif
    }
}

void EDGEC_ENGINE_STAGE(const edgec_worker *worker, const edgec_engine_stage *stage, const void *x,
                        int8_t *input) {
    const uint32_t columns = stage->columns;
    const uint32_t group_size = stage->group_size;
    const uint32_t chunk = stage->chunk;
    const uint32_t chunk_stride = stage->chunk_stride;
    const uint32_t origins[2] = {stage->origins[0], stage->origins[1]};
    const edgec_slice share = edgec_slice_of(worker, columns);
    const EDGEC_ACTIVATION *const vector = (const EDGEC_ACTIVATION *)x;
    const uint32_t group = group_size < columns ? share.first / group_size : 0U;
    uint32_t group_first = group * group_size;
    int8_t *part = input + group * stage->group_stride;
    while (group_first < share.last) {
        const uint32_t end =
            group_first + group_size < share.last ? group_first + group_size : share.last;
        int8_t *to = part; /* of the chunk */
        for (uint32_t first = group_first; first < end; first += chunk) {
            const uint32_t from = first > share.first ? first : share.first;
            const uint32_t last = first + chunk < end ? first + chunk : end;
            if (from < last) {
                edgec_stage_run(vector + from, vector + last, to + origins[0] + (from - first),
                                to + origins[1] + (from - first));
            }
            to += chunk_stride;
        }
        group_first += group_size;
        part += stage->group_stride;
    }
}
