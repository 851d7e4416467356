#include "edgec_kernels.h"
#include "edgec_requantizer.h"

void edgec_embed(const edgec_worker *worker, const edgec_matrix *matrix, const uint8_t *weights,
                 const uint32_t *requant, uint32_t token, int32_t *r) {
    const uint32_t bits = matrix->field_bits;
    const uint32_t log_lanes = bits == 8U ? 2U : bits == 4U ? 3U : 4U;
    const uint32_t lanes = 1U << log_lanes;
    const uint32_t lane = token & (lanes - 1U);
    const uint32_t run = lane >> (log_lanes - 1U);
    const uint32_t bit = bits * lane & 15U;
    const int32_t half = 1 << (bits - 1U);
    const int32_t multiplier = edgec_word_multiplier(requant[token]);
    const int32_t exponent = edgec_word_exponent(requant[token]);
    const uint32_t shift = (uint32_t)exponent - 1U;
    const edgec_slice share = edgec_slice_of(worker, matrix->columns);
    const uint8_t *group = weights + (token >> log_lanes) * matrix->record_size;
    group += matrix->has_requant != 0U ? 4U * lanes : 0U;
    for (uint32_t first = 0U; first < share.last; first += matrix->group_size) {
        const uint32_t left = matrix->columns - first;
        const uint32_t columns = left < matrix->group_size ? left : matrix->group_size;
        int32_t scale = 1;
        if (matrix->columns > matrix->group_size) {
            scale = group[lane];
            group += lanes;
        }
        const void *const stored = group + 2U * columns * run;
        const edgec_half *const halves = (const edgec_half *)stored;
        const uint32_t begin = share.first > first ? share.first : first;
        const uint32_t end = first + columns < share.last ? first + columns : share.last;
        for (uint32_t k = begin; k < end; k++) {
            const uint32_t field = (uint32_t)halves[k - first] >> bit & ((1U << bits) - 1U);
            const int32_t weight = ((int32_t)field - half) * scale;
            if (EDGEC_LIKELY(shift <= 31U)) { /* weight * multiplier is below 2^31 */
                r[k] = ((weight * multiplier >> shift) + 1) >> 1;
            } else {
                r[k] = edgec_requantize_any(weight, multiplier, exponent);
            }
        }
        group += 4U * columns;
    }
}
