/* Rows from the engine's accumulators, whatever their shifts, for both activation types.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t) and EDGEC_HALVES (1 or 2). For int16 the
 * engine has two sums per row, of the upper and the lower halves of the inputs: q = 256 * upper +
 * lower. */
#include "edgec_engine.h"
#include "edgec_requantizer.h"

#define EDGEC_TABLE_ROWS 4U
#define EDGEC_SLOT_PIXELS 3U /* slots of a channel lie in rows of three pixels */

typedef struct edgec_row_sums {
    uint32_t upper; /* of int8 activations: the only sum */
    uint32_t lower;
    int64_t wide; /* the lower sum where 32 bits might not hold it */
} edgec_row_sums;

static inline uint32_t edgec_sum_at(const void *at) {
    return *(const edgec_word *)at;
}

/* Adds m times a sum to those of a row, modulo 2^32 where that is enough. */
static inline void edgec_add_sums(edgec_row_sums *sums, uint32_t upper, uint32_t lower, uint32_t m,
                                  uint32_t shift) {
#if EDGEC_HALVES == 2
    if (shift == 0U) { /* nothing is rounded: one product serves both */
        sums->upper += ((upper << 8) + lower) * m;
        return;
    }
#endif
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
    if (shift == 0U) {
        return edgec_signed(sums->upper);
    }
    if (shift == 8U) {
        return edgec_signed(sums->upper + (uint32_t)edgec_rs64(sums->wide, shift));
    }
    const int32_t rounded = edgec_rs32(edgec_signed(sums->lower), shift);
    return edgec_signed((sums->upper << (8U - shift)) + (uint32_t)rounded);
#else
    (void)shift;
    return edgec_signed(sums->upper);
#endif
}

/* Rows first .. last - 1, whose sums of group 0 begin at `sums`, to y[0] and on. Everything that
 * the loops need is in locals: for all that the compiler knows, stores to y change the descriptors.
 */
static void edgec_finish_rows(const edgec_engine_matrix *matrix, const edgec_engine_piece *piece,
                              const edgec_engine_operands *operands, uint32_t first, uint32_t last,
                              const uint8_t *sums, int32_t *y) {
    const EDGEC_ACTIVATION *const x =
        (const EDGEC_ACTIVATION *)operands->x + (matrix->columns - matrix->tail);
    const uint32_t tail = matrix->tail;
    const uint32_t multipliers = matrix->groups > 1U ? EDGEC_TABLE_ROWS * matrix->groups : 0U;
    const uint32_t group_stride = piece->group_stride;
    const uint32_t below = (EDGEC_HALVES - 1) * EDGEC_SLOT_PIXELS * piece->pixel_stride;
    const uint32_t record_size = matrix->record_size;
    const uint32_t shift = edgec_scaling_shift(operands->shift);
    const edgec_requantizer by = edgec_requantizer_of(operands->scale, operands->shift);
    const uint32_t index = first - operands->first_row;
    const uint8_t *record = operands->table + index / EDGEC_TABLE_ROWS * record_size;
    uint32_t lane = index % EDGEC_TABLE_ROWS;
    for (const int32_t *const end = y + (last - first); y != end; y++) {
        const uint8_t *const scales = record + 4U * EDGEC_TABLE_ROWS;
        const uint8_t *const word = record + 4U * lane;
        edgec_row_sums total = {0U, 0U, 0};
        uint32_t m = 1U;
        if (multipliers == 0U) {
            edgec_add_sums(&total, edgec_sum_at(sums), edgec_sum_at(sums + below), 1U, shift);
        } else {
            const uint8_t *at = sums;
            const uint8_t *const behind = scales + multipliers;
            for (const uint8_t *scale = scales + lane; scale < behind; scale += EDGEC_TABLE_ROWS) {
                m = *scale;
                edgec_add_sums(&total, edgec_sum_at(at), edgec_sum_at(at + below), m, shift);
                at += group_stride;
            }
        }
        if (tail != 0U) {
            edgec_add_tail(&total, scales + multipliers, lane, tail, x, m, shift);
        }
        *y = edgec_requantize_row(&by, edgec_accumulator(&total, shift), word);
        sums += 4U;
        lane++;
        if (lane == EDGEC_TABLE_ROWS) {
            lane = 0U;
            record += record_size;
        }
    }
}
