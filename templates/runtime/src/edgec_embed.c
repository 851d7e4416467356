#include "edgec_kernels.h"
#include "edgec_vector.h"

void edgec_embed(const edgec_worker *worker, const edgec_matrix *matrix, const uint8_t *weights,
                 const uint32_t *requant, uint32_t token, int32_t *r) {
    const uint32_t bits = matrix->field_bits;
    const uint32_t lanes = 32U / bits;
    const uint32_t lane = token % lanes;
    const uint32_t run = 2U * lane / lanes;
    const uint32_t bit = bits * lane % 16U;
    const int32_t half = 1 << (bits - 1U);
    const int32_t multiplier = edgec_word_multiplier(requant[token]);
    const int32_t exponent = edgec_word_exponent(requant[token]);
    const edgec_slice share = edgec_slice_of(worker, matrix->columns);
    const uint8_t *group = weights + (token / lanes) * matrix->record_size;
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
        for (uint32_t k = begin; k < first + columns && k < share.last; k++) {
            const uint32_t field = (uint32_t)halves[k - first] >> bit & ((1U << bits) - 1U);
            r[k] = edgec_requantize(((int32_t)field - half) * scale, multiplier, exponent);
        }
        group += 4U * columns;
    }
}
