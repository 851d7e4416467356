#define EDGEC_ACTIVATION int8_t
#define EDGEC_HALVES 1
#include "edgec_engine_finish_body.h"

int32_t edgec_engine_row_s8(const edgec_engine_matrix *matrix, const edgec_engine_piece *piece,
                            const edgec_engine_operands *operands, uint32_t row,
                            const uint8_t *sums) {
    int32_t y = 0;
    edgec_finish_rows(matrix, piece, operands, row, row + 1U, sums, &y);
    return y;
}
