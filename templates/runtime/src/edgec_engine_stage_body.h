/* Staging of a vector, written once for both activation types.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t), EDGEC_HALVES (1 or 2) and
 * EDGEC_ENGINE_STAGE (name of the function). */
#include "edgec_engine.h"
#include "edgec_vector.h"

void EDGEC_ENGINE_STAGE(const edgec_worker *worker, const edgec_engine_stage *stage, const void *x,
                        int8_t *input) {
    const uint32_t columns = stage->columns;
    const uint32_t group_size = stage->group_size;
    const uint32_t chunk = stage->chunk;
    const uint32_t chunk_stride = stage->chunk_stride;
    const edgec_slice share = edgec_slice_of(worker, columns);
    const EDGEC_ACTIVATION *vector = (const EDGEC_ACTIVATION *)x + share.first;
    uint32_t left = share.last - share.first;
    const uint32_t group = group_size < columns ? share.first / group_size : 0U;
    uint32_t column = share.first - group * group_size; /* in the group */
    uint32_t position = column;                         /* in the chunk */
    int8_t *part = input + group * stage->group_stride;
    int8_t *to = part;
    while (left != 0U) {
        if (position >= chunk) {
            position -= chunk;
            to += chunk_stride;
            continue;
        }
        /* to the end of the chunk, of the group or of the share, whichever is first */
        uint32_t n = chunk - position;
        n = n < group_size - column ? n : group_size - column;
        n = n < left ? n : left;
        int8_t *upper = to + stage->origins[0] + position;
#if EDGEC_HALVES == 2
        int8_t *lower = to + stage->origins[1] + position;
#endif
        for (const EDGEC_ACTIVATION *const end = vector + n; vector != end; vector++) {
            const int32_t q = *vector;
#if EDGEC_HALVES == 2
            *upper++ = (int8_t)((q + 128) >> 8);
            *lower++ = (int8_t)(q - 256 * ((q + 128) >> 8));
#else
            *upper++ = (int8_t)q;
#endif
        }
        left -= n;
        column += n;
        position = 0U;
        to += chunk_stride;
        if (column == group_size) {
            column = 0U;
            part += stage->group_stride;
            to = part;
        }
    }
}
