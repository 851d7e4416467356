/* The worker's rows of a piece, written once for both activation types.
 *
 * Included with EDGEC_ACTIVATION, EDGEC_HALVES (see edgec_engine_finish_body.h) and
 * EDGEC_ENGINE_ROWS (name of the function). */
#include "edgec_engine_finish_body.h"
#include "edgec_fused_groups.h"

/* Where a slot of the channels begins. */
typedef struct edgec_slot {
    uint32_t begin; /* items of the slots before it */
    uint32_t row;   /* of its first channel */
    uint32_t pixel;
    uint32_t in_line; /* slots before it in its line of pixels */
} edgec_slot;

static inline void edgec_next_slot(edgec_slot *slot, const edgec_engine_matrix *matrix,
                                   uint32_t channels) {
    slot->begin += channels;
    slot->row += matrix->channels;
    slot->pixel++;
    slot->in_line++;
    if (slot->in_line == EDGEC_SLOT_PIXELS) {
        slot->in_line = 0U;
        slot->pixel += matrix->pixel_row - EDGEC_SLOT_PIXELS;
    }
}

void EDGEC_ENGINE_ROWS(const edgec_worker *worker, const edgec_engine_matrix *matrix,
                       const edgec_engine_piece *piece, const edgec_engine_operands *operands) {
    const uint32_t channels = piece->channels;
#if EDGEC_XPULP
    const edgec_scale scale = {operands->scale[0], operands->scale[1]};
    const edgec_row_rule rule = edgec_row_rule_of(scale, operands->shift);
    const int plain = matrix->groups == 1U && matrix->tail == 0U;
    const int simple = edgec_rule_serves(&rule, (uint32_t)plain);
    const uint8_t *const x = (const uint8_t *)operands->x;
#endif
    const edgec_slice share = edgec_slice_of(worker, matrix->slots * channels);
    edgec_slot slot = {0U, piece->first_channel, 0U, 0U};
    while (slot.begin + channels <= share.first && share.first < share.last) {
        edgec_next_slot(&slot, matrix, channels);
    }
    while (slot.begin < share.last) {
        const uint32_t from = share.first > slot.begin ? share.first - slot.begin : 0U;
        const uint32_t left = share.last - slot.begin;
        const uint32_t first = slot.row + from;
        uint32_t last = slot.row + (left < channels ? left : channels);
        last = last < matrix->rows ? last : matrix->rows;
        if (first < last) {
            const uint8_t *const sums =
                operands->sums + piece->accumulators + slot.pixel * piece->pixel_stride + 4U * from;
#if EDGEC_XPULP
            if (simple && plain) {
                edgec_plain_rows(&rule, EDGEC_HALVES, sums,
                                 sums + EDGEC_SLOT_PIXELS * piece->pixel_stride,
                                 operands->table + 4U * (first - operands->first_row), last - first,
                                 operands->y + first);
            } else if (simple) {
                const edgec_rows_at run = {sums, piece, first - operands->first_row, last - first};
                edgec_summed_rows(&rule, EDGEC_HALVES, matrix, &run, operands->table,
                                  x + EDGEC_HALVES * (matrix->columns - matrix->tail),
                                  operands->y + first);
            } else
#endif
            {
                edgec_finish_rows(matrix, piece, operands, first, last, sums, operands->y + first);
            }
        }
        edgec_next_slot(&slot, matrix, channels);
    }
}
