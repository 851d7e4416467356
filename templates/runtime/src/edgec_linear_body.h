/* The matrix-vector kernel, written once for all activation types and field widths.
 *
 * Included with EDGEC_ACTIVATION_BITS (8 or 16), EDGEC_FIELD_BITS (2, 4 or 8) and
 * EDGEC_LINEAR_KERNEL (name of the function). A record has two runs of rows; a half-word of a run
 * holds one column of its rows, stored as w + 2^(bits-1). The columns are cut into segments whose
 * sums fit in 32 bits; of each segment all rows are computed before the next one begins. */

#include "edgec_kernels.h"
#include "edgec_requantizer.h"

#if EDGEC_ACTIVATION_BITS == 8
#define EDGEC_ACTIVATION int8_t
#else
#define EDGEC_ACTIVATION int16_t
#endif
#define EDGEC_LANES (32U / EDGEC_FIELD_BITS)    /* rows of a record */
#define EDGEC_RUN_ROWS (16U / EDGEC_FIELD_BITS) /* rows of a run */

/* Compilers for cores with vectors turn the loops over columns into these; others multiply one
 * activation with the fields of one half-word at a time. Both give the same bits. */
#ifndef EDGEC_LINEAR_VECTORS
#if defined(__SSE2__) || defined(__ARM_NEON)
#define EDGEC_LINEAR_VECTORS 1
#else
#define EDGEC_LINEAR_VECTORS 0
#endif
#endif

/* Rows of a block where accumulators have 64 bits. */
#define EDGEC_WIDE_ROWS 64U

/* Where a run of columns of one group lies: at the same offset in every record. */
typedef struct edgec_part {
    const uint8_t *runs; /* of the first record */
    const uint8_t *multipliers;
    uint32_t run_size; /* bytes from the first run of a record to the second */
    uint32_t step;     /* bytes from one record to the next */
    uint32_t multiplier_step;
} edgec_part;

/* Each of these has EDGEC_SEGMENT_COLUMNS, the most columns of a segment, and
 *
 *     edgec_segment  columns: their number, and what the kernel makes of the activations
 *     edgec_prepare  makes it
 *     edgec_accumulate  acc[row] = (first) or += multiplier * sum of the segment, modulo 2^32
 */
#if EDGEC_LINEAR_VECTORS
#include "edgec_linear_vectors.h"
#elif EDGEC_ACTIVATION_BITS == 8 && EDGEC_FIELD_BITS < 8 && !EDGEC_XPULP
#include "edgec_linear_pairs.h"
#else
#include "edgec_linear_chain.h"
#endif

static const uint8_t EDGEC_ONES[EDGEC_LANES] = {
#if EDGEC_FIELD_BITS == 2
    1U, 1U, 1U, 1U, 1U, 1U, 1U, 1U, 1U, 1U, 1U, 1U,
#elif EDGEC_FIELD_BITS == 4
    1U, 1U, 1U, 1U,
#endif
    1U, 1U, 1U, 1U};

/* The walk over the segments of a matrix. */
typedef struct edgec_walk {
    const EDGEC_ACTIVATION *x;
    const uint8_t *next; /* in the first record */
    uint32_t columns;    /* that are left */
    uint32_t in_group;   /* of them in the group of the latest segment */
    edgec_part part;
} edgec_walk;

EDGEC_INLINE edgec_walk edgec_first_segment(const edgec_matrix *matrix, const uint8_t *record,
                                            const EDGEC_ACTIVATION *x) {
    const uint32_t requant = matrix->has_requant != 0U ? 4U * EDGEC_LANES : 0U;
    const edgec_walk walk = {x,
                             record + requant,
                             matrix->columns,
                             0U,
                             {record, EDGEC_ONES, 0U, matrix->record_size, 0U}};
    return walk;
}

/* Makes walk->part and segment those of the next columns. */
EDGEC_INLINE void edgec_next_segment(edgec_walk *walk, const edgec_matrix *matrix,
                                     edgec_segment *segment) {
    edgec_part *const part = &walk->part;
    if (walk->in_group == 0U) {
        walk->in_group = walk->columns < matrix->group_size ? walk->columns : matrix->group_size;
        walk->next += part->run_size; /* behind the second run of the group before */
        part->run_size = 2U * walk->in_group;
        if (matrix->columns > matrix->group_size) {
            part->multipliers = walk->next;
            part->multiplier_step = part->step;
            walk->next += EDGEC_LANES;
        }
    }
    segment->columns =
        walk->in_group < EDGEC_SEGMENT_COLUMNS ? walk->in_group : EDGEC_SEGMENT_COLUMNS;
    edgec_prepare(segment, walk->x);
    part->runs = walk->next;
    walk->next += 2U * segment->columns;
    walk->x += segment->columns;
    walk->in_group -= segment->columns;
    walk->columns -= segment->columns;
}

/* Accumulators that fit in int32, whatever the sums do on the way. The last record, when it has
 * rows that y does not have, goes to `last`. */
EDGEC_OUTLINE void edgec_accumulate_narrow(const edgec_matrix *matrix, const uint8_t *record,
                                           uint32_t rows, const EDGEC_ACTIVATION *x, uint32_t *y,
                                           uint32_t *last) {
    const uint32_t whole = rows / EDGEC_LANES;
    edgec_segment segment;
    edgec_walk walk = edgec_first_segment(matrix, record, x);
    for (uint32_t first = 1U; walk.columns != 0U; first = 0U) {
        edgec_next_segment(&walk, matrix, &segment);
        edgec_accumulate(&segment, &walk.part, whole, first, y);
        if (rows > whole * EDGEC_LANES) {
            edgec_part rest = walk.part;
            rest.runs += whole * rest.step;
            rest.multipliers += whole * rest.multiplier_step;
            edgec_accumulate(&segment, &rest, 1U, first, last);
        }
    }
}

#if EDGEC_ACTIVATION_BITS == 16
/* Accumulators that fit in int32 after a right shift, which is done here. */
EDGEC_OUTLINE void edgec_accumulate_wide(const edgec_matrix *matrix, const uint8_t *record,
                                         uint32_t records, const EDGEC_ACTIVATION *x,
                                         uint32_t shift, uint32_t *acc) {
    int64_t wide[EDGEC_WIDE_ROWS];
    for (uint32_t row = 0U; row < records * EDGEC_LANES; row++) {
        wide[row] = 0;
    }
    edgec_segment segment;
    edgec_walk walk = edgec_first_segment(matrix, record, x);
    while (walk.columns != 0U) {
        edgec_next_segment(&walk, matrix, &segment);
        edgec_part sums = walk.part;
        sums.multipliers = EDGEC_ONES;
        sums.multiplier_step = 0U;
        edgec_accumulate(&segment, &sums, records, 1U, acc);
        const uint8_t *m = walk.part.multipliers;
        const uint32_t *sum = acc;
        for (int64_t *to = wide; to != wide + records * EDGEC_LANES; to += EDGEC_LANES) {
            for (uint32_t j = 0U; j < EDGEC_LANES; j++) {
                to[j] += (int64_t)edgec_signed(*sum++) * m[j];
            }
            m += walk.part.multiplier_step;
        }
    }
    for (uint32_t row = 0U; row < records * EDGEC_LANES; row++) {
        acc[row] = (uint32_t)edgec_rs64(wide[row], shift);
    }
}
#endif

#define EDGEC_REQUANTIZE(i) y[i] = edgec_requantize_row(&by, y[i], record + 4 * (i));
#define EDGEC_REQUANTIZE_FOUR(i)                                                                   \
    EDGEC_REQUANTIZE(i) EDGEC_REQUANTIZE(i + 1) EDGEC_REQUANTIZE(i + 2) EDGEC_REQUANTIZE(i + 3)

/* Accumulators in y [rows] become outputs. Requantization words begin every record. */
EDGEC_OUTLINE void edgec_requantize_rows(const uint8_t *record, uint32_t record_size,
                                         const edgec_requantizer *requantizer, uint32_t rows,
                                         int32_t *y) {
    const edgec_requantizer by = *requantizer;
    for (; rows >= EDGEC_LANES; rows -= EDGEC_LANES) {
        EDGEC_REQUANTIZE_FOUR(0)
#if EDGEC_FIELD_BITS < 8
        EDGEC_REQUANTIZE_FOUR(4)
#endif
#if EDGEC_FIELD_BITS < 4
        EDGEC_REQUANTIZE_FOUR(8)
        EDGEC_REQUANTIZE_FOUR(12)
#endif
        record += record_size;
        y += EDGEC_LANES;
    }
    for (const int32_t *const end = y + rows; y != end; y++) {
        EDGEC_REQUANTIZE(0)
        record += 4;
    }
}

EDGEC_INLINE void edgec_copy_rows(const uint32_t *acc, uint32_t rows, int32_t *y) {
    for (uint32_t row = 0U; row < rows; row++) {
        y[row] = edgec_signed(acc[row]);
    }
}

EDGEC_OUTLINE void edgec_linear_narrow(const edgec_matrix *matrix, const uint8_t *record,
                                       uint32_t rows, const EDGEC_ACTIVATION *x,
                                       const edgec_requantizer *by, int32_t *y) {
    uint32_t last[EDGEC_LANES];
    const uint32_t left = rows % EDGEC_LANES;
    edgec_accumulate_narrow(matrix, record, rows, x, (uint32_t *)y, last);
    edgec_copy_rows(last, left, y + (rows - left));
    edgec_requantize_rows(record, matrix->record_size, by, rows, y);
}

#if EDGEC_ACTIVATION_BITS == 16
EDGEC_OUTLINE void edgec_linear_wide(const edgec_matrix *matrix, const uint8_t *record,
                                     uint32_t rows, const EDGEC_ACTIVATION *x, uint32_t shift,
                                     const edgec_requantizer *by, int32_t *y) {
    uint32_t acc[EDGEC_WIDE_ROWS];
    while (rows != 0U) {
        const uint32_t block = rows < EDGEC_WIDE_ROWS ? rows : EDGEC_WIDE_ROWS;
        const uint32_t records = (block + EDGEC_LANES - 1U) / EDGEC_LANES;
        edgec_accumulate_wide(matrix, record, records, x, shift, acc);
        edgec_copy_rows(acc, block, y);
        edgec_requantize_rows(record, matrix->record_size, by, block, y);
        record += records * matrix->record_size;
        y += block;
        rows -= block;
    }
}
#endif

void EDGEC_LINEAR_KERNEL(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t scaling, int32_t *y) {
    const EDGEC_ACTIVATION *const activations = (const EDGEC_ACTIVATION *)x;
    const edgec_requantizer by = edgec_requantizer_of(scale, scaling);
#if EDGEC_ACTIVATION_BITS == 16
    const uint32_t shift = edgec_scaling_shift(scaling);
    if (shift != 0U) {
        edgec_linear_wide(matrix, record, rows, activations, shift, &by, y);
        return;
    }
#endif
    edgec_linear_narrow(matrix, record, rows, activations, &by, y);
}
