/* Rows of linears that stay where they are, of jobs that are done: those of prompts. */
#ifndef EDGEC_FUSED_STORED_H
#define EDGEC_FUSED_STORED_H

#include "edgec_fused_finish.h"

/* All rows of a linear that breaks the rule, in y; their amplitude. */
EDGEC_RARE static uint32_t edgec_general_rows(const edgec_own_rows *own, edgec_fused_rows rows,
                                              const void *x, int32_t *y) {
    const int32_t scale[2] = {rows.scale.a, rows.scale.e};
    const edgec_engine_operands operands = {rows.table, 0U, NULL, x, scale, rows.shift & 15U, NULL};
    uint32_t amplitude = 0U;
    for (const edgec_row_run *run = own->runs; run != own->end; run++) {
        for (uint32_t i = 0U; i < run->count; i++) {
            const uint32_t row = run->first + i;
            y[row] = own->linear->row(own->linear->matrix, edgec_piece_of(own->linear, row),
                                      &operands, row, own->sums + 4U * (run->sums + i));
            amplitude = edgec_amplitude_add(amplitude, y[row]);
        }
    }
    return amplitude;
}

/* The worker's rows of a linear, in y; their amplitude. Nothing is waited for, and nothing becomes
 * of them. x: the vector that a tail reads. */
EDGEC_FOLDED uint32_t edgec_stored_rows(const edgec_own_rows *own, uint32_t halves, uint32_t plain,
                                        edgec_fused_rows rows, const void *x, int32_t *y) {
    const edgec_row_rule rule = edgec_row_rule_of(rows.scale, rows.shift);
    if (!EDGEC_LIKELY(edgec_rule_serves(&rule, plain))) {
        return edgec_general_rows(own, rows, x, y);
    }
    uint32_t most = 0U;
    for (const edgec_row_run *run = own->runs; run != own->end; run++) {
        if (run->count != 0U) {
            most = edgec_maxu32(most,
                                edgec_run_rows(own, halves, plain, rows.table, &rule, x, run, y));
        }
    }
    return most << 1;
}

#endif
