/* The matrix-vector kernel, written once for all activation types and field widths.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t), EDGEC_FIELD_BITS (2, 4 or 8) and
 * EDGEC_LINEAR_KERNEL (name of the function). A weight word holds the same column of R rows, so
 * that word >> (bits * j) begins with the field of row j. The fields above it need no mask: with
 * T_j = sum (word >> bits * j) * x modulo 2^32, the sum of row j alone is T_j - 2^bits * T_(j+1).
 * The stored fields are w + 2^(bits-1), which costs 2^(bits-1) * sum x per segment. */

#include "edgec_kernels.h"
#include "edgec_vector.h"

#define EDGEC_LANES (32U / EDGEC_FIELD_BITS)

/* Columns whose exact sum fits in int32 for any field width: 512 * 2^7 * 2^14 = 2^30. */
#define EDGEC_SEGMENT_COLUMNS 512U

/* Rows that share one pass over x. */
#define EDGEC_BLOCK_ROWS 64U

/* M(j, next) for every lane, from the lowest; the highest has no next one. */
#if EDGEC_FIELD_BITS == 2
#define EDGEC_LOW_PAIRS(M) M(0, 1) M(1, 2) M(2, 3) M(3, 4) M(4, 5) M(5, 6) M(6, 7) M(7, 8)
#define EDGEC_HIGH_PAIRS(M) M(8, 9) M(9, 10) M(10, 11) M(11, 12) M(12, 13) M(13, 14) M(14, 15)
#define EDGEC_EACH_PAIR(M) EDGEC_LOW_PAIRS(M) EDGEC_HIGH_PAIRS(M)
#define EDGEC_TOP_LANE(M) M(15, 15)
#elif EDGEC_FIELD_BITS == 4
#define EDGEC_EACH_PAIR(M) M(0, 1) M(1, 2) M(2, 3) M(3, 4) M(4, 5) M(5, 6) M(6, 7)
#define EDGEC_TOP_LANE(M) M(7, 7)
#else
#define EDGEC_EACH_PAIR(M) M(0, 1) M(1, 2) M(2, 3)
#define EDGEC_TOP_LANE(M) M(3, 3)
#endif
#define EDGEC_EACH_LANE(M) EDGEC_EACH_PAIR(M) EDGEC_TOP_LANE(M)

/* The accumulators are scalars and not an array because they must stay in registers. Compilers
 * like to interleave columns, run out of registers and spill; the empty asm statements hold the
 * accumulators in place after every column and emit nothing. */
#if defined(__GNUC__)
#define EDGEC_LANE_PIN(j, next) __asm__ volatile("" : "+r"(t##j) : : "memory");
#define EDGEC_INLINE static inline __attribute__((__always_inline__))
#define EDGEC_OUTLINE static __attribute__((__noinline__))
#else
#define EDGEC_LANE_PIN(j, next)
#define EDGEC_INLINE static inline
#define EDGEC_OUTLINE static
#endif

#define EDGEC_LANE_ONE(j, next) 1U,
#define EDGEC_LANE_ZERO(j, next) uint32_t t##j = 0U;
#define EDGEC_LANE_ADD(j, next) t##j += (word >> (EDGEC_FIELD_BITS * j)) * value;
#define EDGEC_PAIR_SUM(j, next) sums[j] = t##j - (t##next << EDGEC_FIELD_BITS) - offset;
#define EDGEC_TOP_SUM(j, next) sums[j] = t##j - offset;

#define EDGEC_COLUMN(i)                                                                            \
    {                                                                                              \
        const uint32_t word = words[i];                                                            \
        const uint32_t value = (uint32_t)(int32_t)x[i];                                            \
        EDGEC_EACH_LANE(EDGEC_LANE_ADD)                                                            \
        EDGEC_EACH_LANE(EDGEC_LANE_PIN)                                                            \
    }

/* A run of columns of one group, which lies at the same offset in every record. */
typedef struct edgec_segment {
    const EDGEC_ACTIVATION *x;
    uint32_t columns;
    uint32_t offset; /* 2^(bits-1) * sum x */
} edgec_segment;

/* sums[j] = sum of w[j][k] * x[k] over the segment, modulo 2^32. */
EDGEC_INLINE void edgec_segment_sums(const edgec_segment *segment, const edgec_word *words,
                                     uint32_t *sums) {
    const EDGEC_ACTIVATION *x = segment->x;
    const edgec_word *const end = words + segment->columns;
    const edgec_word *const end_of_fours = words + (segment->columns & ~3U);
    const uint32_t offset = segment->offset;
    EDGEC_EACH_LANE(EDGEC_LANE_ZERO)
    while (words != end_of_fours) {
        EDGEC_COLUMN(0)
        EDGEC_COLUMN(1)
        EDGEC_COLUMN(2)
        EDGEC_COLUMN(3)
        words += 4;
        x += 4;
    }
    while (words != end) {
        EDGEC_COLUMN(0)
        words++;
        x++;
    }
    EDGEC_EACH_PAIR(EDGEC_PAIR_SUM)
    EDGEC_TOP_LANE(EDGEC_TOP_SUM)
}

EDGEC_INLINE edgec_segment edgec_segment_of(const EDGEC_ACTIVATION *x, uint32_t columns) {
    uint32_t total = 0U;
    for (uint32_t k = 0U; k < columns; k++) {
        const int32_t value = x[k];
        total += (uint32_t)value;
    }
    const edgec_segment segment = {x, columns, total << (EDGEC_FIELD_BITS - 1)};
    return segment;
}

/* Adds a segment's share to the accumulators of `records` records: to `narrow`, modulo 2^32, or
 * to `wide`, whichever is not null. The caller passes a constant null, hence no test remains. */
EDGEC_INLINE void edgec_accumulate_segment(const edgec_segment *segment, const uint8_t *words,
                                           const uint8_t *multipliers, uint32_t record_size,
                                           uint32_t records, uint32_t *narrow, int64_t *wide) {
    static const uint8_t ones[EDGEC_LANES] = {EDGEC_EACH_LANE(EDGEC_LANE_ONE)};
    const uint32_t multiplier_step = multipliers != NULL ? record_size : 0U;
    const uint8_t *m = multipliers != NULL ? multipliers : ones;
    for (uint32_t record = 0U; record < records; record++) {
        uint32_t sums[EDGEC_LANES];
        const void *const first_word = words;
        edgec_segment_sums(segment, (const edgec_word *)first_word, sums);
        for (uint32_t j = 0U; j < EDGEC_LANES; j++) {
            if (narrow != NULL) {
                narrow[record * EDGEC_LANES + j] += sums[j] * m[j];
            } else {
                wide[record * EDGEC_LANES + j] += (int64_t)edgec_signed(sums[j]) * m[j];
            }
        }
        words += record_size;
        m += multiplier_step;
    }
}

/* Adds all columns of `records` records, the first of which lies at `record`. */
EDGEC_INLINE void edgec_accumulate(const edgec_matrix *matrix, const uint8_t *record,
                                   uint32_t records, const EDGEC_ACTIVATION *x, uint32_t *narrow,
                                   int64_t *wide) {
    const int is_grouped = matrix->columns > matrix->group_size;
    const uint8_t *next = record + (matrix->has_requant != 0U ? 4U * EDGEC_LANES : 0U);
    uint32_t columns = matrix->columns;
    while (columns != 0U) {
        const uint8_t *const multipliers = is_grouped ? next : NULL;
        uint32_t group = columns < matrix->group_size ? columns : matrix->group_size;
        next += is_grouped ? EDGEC_LANES : 0U;
        columns -= group;
        while (group != 0U) {
            const uint32_t n = group < EDGEC_SEGMENT_COLUMNS ? group : EDGEC_SEGMENT_COLUMNS;
            const edgec_segment segment = edgec_segment_of(x, n);
            edgec_accumulate_segment(&segment, next, multipliers, matrix->record_size, records,
                                     narrow, wide);
            next += 4U * n;
            x += n;
            group -= n;
        }
    }
}

/* For accumulators that fit in int32, whatever the sums do on the way. */
EDGEC_OUTLINE void edgec_accumulate_narrow(const edgec_matrix *matrix, const uint8_t *record,
                                           uint32_t records, const EDGEC_ACTIVATION *x,
                                           uint32_t *acc) {
    for (uint32_t row = 0U; row < records * EDGEC_LANES; row++) {
        acc[row] = 0U;
    }
    edgec_accumulate(matrix, record, records, x, acc, NULL);
}

/* For accumulators that fit in int32 after a right shift, which is done here. */
EDGEC_OUTLINE void edgec_accumulate_wide(const edgec_matrix *matrix, const uint8_t *record,
                                         uint32_t records, const EDGEC_ACTIVATION *x,
                                         uint32_t shift, uint32_t *acc) {
    int64_t wide[EDGEC_BLOCK_ROWS];
    for (uint32_t row = 0U; row < records * EDGEC_LANES; row++) {
        wide[row] = 0;
    }
    edgec_accumulate(matrix, record, records, x, NULL, wide);
    for (uint32_t row = 0U; row < records * EDGEC_LANES; row++) {
        acc[row] = (uint32_t)edgec_rs64(wide[row], shift);
    }
}

/* Requantizes `rows` rows, whose words begin every record. */
EDGEC_OUTLINE void edgec_requantize_rows(const uint8_t *record, uint32_t record_size,
                                         const uint32_t *acc, uint32_t rows, const int32_t *scale,
                                         int32_t *y) {
    const int32_t a = scale[0];
    const int32_t e = scale[1];
    const int32_t *const end = y + rows;
    while (y != end) {
        const uint32_t left = (uint32_t)(end - y);
        const int32_t *const end_of_record = left < EDGEC_LANES ? end : y + EDGEC_LANES;
        const void *const requant = record;
        const edgec_word *words = (const edgec_word *)requant;
        for (; y != end_of_record; y++) {
            const uint32_t word = *words++;
            *y = edgec_requantize(edgec_signed(*acc++), edgec_word_multiplier(word) * a,
                                  edgec_word_exponent(word) - e);
        }
        record += record_size;
    }
}

void EDGEC_LINEAR_KERNEL(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t shift, int32_t *y) {
    const EDGEC_ACTIVATION *const activations = (const EDGEC_ACTIVATION *)x;
    uint32_t acc[EDGEC_BLOCK_ROWS];
    while (rows != 0U) {
        const uint32_t block = rows < EDGEC_BLOCK_ROWS ? rows : EDGEC_BLOCK_ROWS;
        const uint32_t records = (block + EDGEC_LANES - 1U) / EDGEC_LANES;
        if (shift == 0U) {
            edgec_accumulate_narrow(matrix, record, records, activations, acc);
        } else {
            edgec_accumulate_wide(matrix, record, records, activations, shift, acc);
        }
        edgec_requantize_rows(record, matrix->record_size, acc, block, scale, y);
        record += records * matrix->record_size;
        y += block;
        rows -= block;
    }
}
