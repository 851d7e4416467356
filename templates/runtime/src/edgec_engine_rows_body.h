/* From the engine's accumulators to outputs, written once for both activation types.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t), EDGEC_HALVES (1 or 2) and
 * EDGEC_ENGINE_ROWS (name of the function). For int16 the engine has two sums per row, of the upper
 * and the lower halves of the inputs: q = 256 * upper + lower. */
#include "edgec_engine.h"
#include "edgec_vector.h"

#define EDGEC_TABLE_ROWS 4U
#define EDGEC_SLOT_PIXELS 3U /* slots of a channel lie in rows of three pixels */

typedef struct edgec_row_sums {
    uint32_t upper; /* of int8 activations: the only sum */
    uint32_t lower;
    int64_t wide; /* the lower sum where 32 bits might not hold it */
} edgec_row_sums;

/* Adds m times a sum to those of a row, modulo 2^32 where that is enough. */
static inline void edgec_add_sums(edgec_row_sums *sums, uint32_t upper, uint32_t lower, uint32_t m,
                                  uint32_t shift) {
    sums->upper += upper * m;
#if EDGEC_HALVES == 2
    if (shift == 8U) {
        sums->wide += (int64_t)edgec_signed(lower) * m;
    } else {
        sums->lower += lower * m;
    }
#else
    (void)lower;
    (void)shift;
#endif
}

/* The columns that are not in the words: their weights follow the multipliers. */
static inline void edgec_add_tail(edgec_row_sums *sums, const uint8_t *weights, uint32_t lane,
                                  uint32_t n, const EDGEC_ACTIVATION *x, uint32_t m,
                                  uint32_t shift) {
    uint32_t upper = 0U;
    uint32_t lower = 0U;
    for (uint32_t i = 0U; i < n; i++) {
        const int32_t w = (int32_t)weights[EDGEC_TABLE_ROWS * i + lane] - 128;
        const int32_t q = x[i];
#if EDGEC_HALVES == 2
        const int32_t high = (q + 128) >> 8;
        upper += (uint32_t)(w * high);
        lower += (uint32_t)(w * (q - 256 * high));
#else
        upper += (uint32_t)(w * q);
#endif
    }
    edgec_add_sums(sums, upper, lower, m, shift);
}

static inline int32_t edgec_accumulator(const edgec_row_sums *sums, uint32_t shift) {
#if EDGEC_HALVES == 2
    if (shift == 8U) {
        return edgec_signed(sums->upper + (uint32_t)edgec_rs64(sums->wide, shift));
    }
    const int32_t lower = edgec_signed(sums->lower);
    const int32_t rounded = shift == 0U ? lower : edgec_rs32(lower, shift);
    return edgec_signed((sums->upper << (8U - shift)) + (uint32_t)rounded);
#else
    (void)shift;
    return edgec_signed(sums->upper);
#endif
}

/* Rows first .. last - 1, whose sums of group 0 begin at `sums`. */
static void edgec_finish_rows(const edgec_engine_matrix *matrix, const edgec_engine_piece *piece,
                              const edgec_engine_operands *operands, uint32_t first, uint32_t last,
                              const uint8_t *sums) {
    const EDGEC_ACTIVATION *const x =
        (const EDGEC_ACTIVATION *)operands->x + (matrix->columns - matrix->tail);
    const uint32_t multipliers = matrix->groups > 1U ? matrix->groups : 0U;
    const int32_t a = operands->scale[0];
    const int32_t e = operands->scale[1];
    for (uint32_t row = first; row < last; row++) {
        const uint32_t index = row - operands->first_row;
        const uint8_t *const record =
            operands->table + index / EDGEC_TABLE_ROWS * matrix->record_size;
        const uint32_t lane = index % EDGEC_TABLE_ROWS;
        const uint8_t *const scales = record + 4U * EDGEC_TABLE_ROWS;
        edgec_row_sums total = {0U, 0U, 0};
        uint32_t m = 1U;
        for (uint32_t group = 0U; group < matrix->groups; group++) {
            const void *const at = sums + group * piece->group_stride;
            const void *const below = sums + group * piece->group_stride +
                                      (EDGEC_HALVES - 1) * EDGEC_SLOT_PIXELS * piece->pixel_stride;
            m = multipliers != 0U ? scales[EDGEC_TABLE_ROWS * group + lane] : 1U;
            edgec_add_sums(&total, *(const edgec_word *)at, *(const edgec_word *)below, m,
                           operands->shift);
        }
        if (matrix->tail != 0U) {
            edgec_add_tail(&total, scales + EDGEC_TABLE_ROWS * multipliers, lane, matrix->tail, x,
                           m, operands->shift);
        }
        const void *const requant = record + 4U * lane;
        const uint32_t word = *(const edgec_word *)requant;
        operands->y[row] =
            edgec_requantize(edgec_accumulator(&total, operands->shift),
                             edgec_word_multiplier(word) * a, edgec_word_exponent(word) - e);
        sums += 4U;
    }
}

void EDGEC_ENGINE_ROWS(const edgec_worker *worker, const edgec_engine_matrix *matrix,
                       const edgec_engine_piece *piece, const edgec_engine_operands *operands) {
    const edgec_slice share = edgec_slice_of(worker, matrix->slots * piece->channels);
    for (uint32_t item = share.first; item < share.last;) {
        const uint32_t slot = item / piece->channels;
        const uint32_t channel = item % piece->channels;
        const uint32_t left = share.last - item;
        const uint32_t n = left < piece->channels - channel ? left : piece->channels - channel;
        const uint32_t first = slot * matrix->channels + piece->first_channel + channel;
        const uint32_t last = first + n < matrix->rows ? first + n : matrix->rows;
        const uint32_t pixel =
            slot / EDGEC_SLOT_PIXELS * matrix->pixel_row + slot % EDGEC_SLOT_PIXELS;
        edgec_finish_rows(matrix, piece, operands, first, last,
                          operands->sums + piece->accumulators + pixel * piece->pixel_stride +
                              4U * channel);
        item += n;
    }
}
