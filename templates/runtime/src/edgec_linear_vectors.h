/* Sums of a segment for cores with vectors: part of edgec_linear_body.h.
 *
 * The fields of a block of columns are spread to 16 bits, row by row, and multiplied with the
 * activations in a loop of known length without branches: compilers make vectors of both, with the
 * multiply-and-add of neighbours that SSE2 and NEON have. */

/* Their sum is exact: 256 * 2^7 * 2^14 = 2^29. More would need more stack for the activations. */
#define EDGEC_SEGMENT_COLUMNS 256U
#define EDGEC_BLOCK 32U
#define EDGEC_FIELD_MASK ((1U << EDGEC_FIELD_BITS) - 1U)

EDGEC_INLINE int32_t edgec_dot_block(const int16_t *restrict w, const int16_t *restrict x) {
    int32_t sum = 0;
    for (uint32_t k = 0U; k < EDGEC_BLOCK; k++) {
        sum += w[k] * x[k];
    }
    return sum;
}

/* sums[j] += the sum of row j over EDGEC_BLOCK columns. */
EDGEC_INLINE void edgec_add_block(const edgec_half *restrict run, const int16_t *restrict x,
                                  uint32_t *restrict sums) {
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
    for (uint32_t j = 0U; j < EDGEC_RUN_ROWS; j++) {
        int16_t w[EDGEC_BLOCK];
        for (uint32_t k = 0U; k < EDGEC_BLOCK; k++) {
            w[k] = (int16_t)((uint32_t)run[k] >> (EDGEC_FIELD_BITS * j) & EDGEC_FIELD_MASK);
        }
        sums[j] += (uint32_t)edgec_dot_block(w, x);
    }
}

EDGEC_INLINE void edgec_run_sums(const edgec_half *run, const int16_t *x, uint32_t columns,
                                 uint32_t *sums) {
    const uint32_t whole = columns / EDGEC_BLOCK * EDGEC_BLOCK;
    for (uint32_t k = 0U; k < whole; k += EDGEC_BLOCK) {
        edgec_add_block(run + k, x + k, sums);
    }
    for (uint32_t k = whole; k < columns; k++) {
        const uint32_t half = run[k];
        const int32_t value = x[k];
        for (uint32_t j = 0U; j < EDGEC_RUN_ROWS; j++) {
            sums[j] += (half >> (EDGEC_FIELD_BITS * j) & EDGEC_FIELD_MASK) * (uint32_t)value;
        }
    }
}

typedef struct edgec_segment {
    uint32_t columns;
    uint32_t offset; /* 2^(bits-1) * sum of the activations */
#if EDGEC_ACTIVATION_BITS == 8
    int16_t x[EDGEC_SEGMENT_COLUMNS];
#else
    const int16_t *x;
#endif
} edgec_segment;

EDGEC_INLINE void edgec_prepare(edgec_segment *segment, const EDGEC_ACTIVATION *x) {
    const uint32_t columns = segment->columns;
    int32_t total = 0;
    for (uint32_t k = 0U; k < columns; k++) {
        total += x[k];
    }
    segment->offset = (uint32_t)total << (EDGEC_FIELD_BITS - 1);
#if EDGEC_ACTIVATION_BITS == 8
    for (uint32_t k = 0U; k < columns; k++) {
        segment->x[k] = x[k];
    }
#else
    segment->x = x;
#endif
}

EDGEC_OUTLINE void edgec_accumulate(const edgec_segment *segment, const edgec_part *part,
                                    uint32_t records, uint32_t first, uint32_t *acc) {
    const uint8_t *record = part->runs;
    const uint8_t *m = part->multipliers;
    for (uint32_t i = 0U; i < 2U * records; i++) {
        const uint32_t second = i & 1U;
        const void *const run = record + second * part->run_size;
        uint32_t sums[EDGEC_RUN_ROWS] = {0U};
        edgec_run_sums((const edgec_half *)run, segment->x, segment->columns, sums);
        for (uint32_t j = 0U; j < EDGEC_RUN_ROWS; j++) {
            const uint32_t scaled = (sums[j] - segment->offset) * m[second * EDGEC_RUN_ROWS + j];
            acc[j] = first != 0U ? scaled : acc[j] + scaled;
        }
        acc += EDGEC_RUN_ROWS;
        record += second * part->step;
        m += second * part->multiplier_step;
    }
}
