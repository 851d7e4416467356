/* Staging of a vector, written once for both activation types.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t), EDGEC_HALVES (1 or 2) and
 * EDGEC_ENGINE_STAGE (name of the function). */
#include "edgec_engine.h"
#include "edgec_vector.h"

void EDGEC_ENGINE_STAGE(const edgec_worker *worker, const edgec_engine_stage *stage, const void *x,
                        int8_t *input) {
    const EDGEC_ACTIVATION *const vector = (const EDGEC_ACTIVATION *)x;
    const edgec_slice share = edgec_slice_of(worker, stage->columns);
    uint32_t k = share.first;
    while (k < share.last) {
        /* to the end of the chunk, of the group or of the share, whichever is first */
        const uint32_t group = k / stage->group_size;
        const uint32_t column = k % stage->group_size;
        const uint32_t position = column % stage->chunk;
        uint32_t n = stage->chunk - position;
        n = n < stage->group_size - column ? n : stage->group_size - column;
        n = n < share.last - k ? n : share.last - k;
        int8_t *const to = input + group * stage->group_stride +
                           column / stage->chunk * stage->chunk_stride + position;
        for (uint32_t i = 0U; i < n; i++) {
            const int32_t q = vector[k + i];
#if EDGEC_HALVES == 2
            const int32_t upper = (q + 128) >> 8;
            to[stage->origins[0] + i] = (int8_t)upper;
            to[stage->origins[1] + i] = (int8_t)(q - 256 * upper);
#else
            to[stage->origins[0] + i] = (int8_t)q;
#endif
        }
        k += n;
    }
}
