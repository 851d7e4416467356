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

#if EDGEC_FIELD_BITS == 2
#define EDGEC_EACH_PAIR(M)                                                                         \
    M(0, 1)                                                                                        \
    M(1, 2) M(2, 3) M(3, 4) M(4, 5) M(5, 6) M(6, 7) M(7, 8) M(8, 9) M(9, 10) M(10, 11) M(11, 12)   \
        M(12, 13) M(13, 14) M(14, 15)
#define EDGEC_TOP_LANE 15
#elif EDGEC_FIELD_BITS == 4
#define EDGEC_EACH_PAIR(M) M(0, 1) M(1, 2) M(2, 3) M(3, 4) M(4, 5) M(5, 6) M(6, 7)
#define EDGEC_TOP_LANE 7
#else
#define EDGEC_EACH_PAIR(M) M(0, 1) M(1, 2) M(2, 3)
#define EDGEC_TOP_LANE 3
#endif

/* The accumulators are scalars and not an array because they must stay in registers. Compilers
 * like to interleave columns, run out of registers and spill; the empty asm statements hold the
 * accumulators in place after every column and emit nothing. */
#if defined(__GNUC__)
#define EDGEC_LANE_PIN(j, next) __asm__ volatile("" : "+r"(t##j) : : "memory");
#define EDGEC_ALWAYS_INLINE static inline __attribute__((__always_inline__))
#else
#define EDGEC_LANE_PIN(j, next)
#define EDGEC_ALWAYS_INLINE static inline
#endif

#define EDGEC_LANE_ZERO(j, next) uint32_t t##j = 0U;
#define EDGEC_LANE_ADD(j, next) t##j += (word >> (EDGEC_FIELD_BITS * j)) * value;
#define EDGEC_LANE_SUM(j, next) sums[j] = t##j - (t##next << EDGEC_FIELD_BITS) - correction;
#define EDGEC_TOP_SUM(j, next) sums[j] = t##j - correction;
#define EDGEC_AT_(M, j) M(j, j)
#define EDGEC_AT(M, j) EDGEC_AT_(M, j)
#define EDGEC_EACH_LANE(M) EDGEC_EACH_PAIR(M) EDGEC_AT(M, EDGEC_TOP_LANE)

#define EDGEC_COLUMN(i)                                                                            \
    {                                                                                              \
        const uint32_t word = words[i];                                                            \
        const uint32_t value = (uint32_t)(int32_t)x[i];                                            \
        total += value;                                                                            \
        EDGEC_EACH_LANE(EDGEC_LANE_ADD)                                                            \
        EDGEC_EACH_LANE(EDGEC_LANE_PIN)                                                            \
    }

/* sums[j] = sum of w[j][i] * x[i] over n columns, modulo 2^32 and exact within a segment. */
EDGEC_ALWAYS_INLINE void edgec_segment(const edgec_word *words, const EDGEC_ACTIVATION *x, uint32_t n,
                                 uint32_t *sums) {
    const edgec_word *const end = words + n;
    const edgec_word *const end_of_fours = words + (n & ~3U);
    uint32_t total = 0U;
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
    const uint32_t correction = total << (EDGEC_FIELD_BITS - 1);
    EDGEC_EACH_PAIR(EDGEC_LANE_SUM)
    EDGEC_AT(EDGEC_TOP_SUM, EDGEC_TOP_LANE)
}

/* Walks over the segments of a record: where the next one begins and what multiplies it. */
typedef struct edgec_cursor {
    const uint8_t *next;        /* first byte not used yet */
    const uint8_t *multipliers; /* of the group, or null in a matrix with one group */
    uint32_t columns;           /* left in the record */
    uint32_t group_columns;     /* left in the group */
    uint32_t segment;           /* columns of the segment */
} edgec_cursor;

static inline edgec_cursor edgec_cursor_at(const edgec_matrix *matrix, const uint8_t *record) {
    edgec_cursor cursor = {record, NULL, matrix->columns, 0U, 0U};
    if (matrix->has_requant != 0U) {
        cursor.next += 4U * EDGEC_LANES;
    }
    return cursor;
}

/* Enters the next segment and returns its words. */
EDGEC_ALWAYS_INLINE const edgec_word *edgec_cursor_next(edgec_cursor *cursor,
                                                  const edgec_matrix *matrix) {
    const uint32_t group_size = matrix->group_size;
    if (cursor->group_columns == 0U) {
        cursor->group_columns = cursor->columns < group_size ? cursor->columns : group_size;
        if (matrix->columns > group_size) {
            cursor->multipliers = cursor->next;
            cursor->next += EDGEC_LANES;
        }
    }
    const void *const words = cursor->next;
    cursor->segment = cursor->group_columns < EDGEC_SEGMENT_COLUMNS ? cursor->group_columns
                                                                    : EDGEC_SEGMENT_COLUMNS;
    cursor->next += 4U * cursor->segment;
    cursor->group_columns -= cursor->segment;
    cursor->columns -= cursor->segment;
    return (const edgec_word *)words;
}

/* Accumulators of a record's rows, when every one fits in int32: sums may wrap on the way. */
static void edgec_record_narrow(const edgec_matrix *matrix, const uint8_t *record,
                                const EDGEC_ACTIVATION *x, uint32_t *acc) {
    edgec_cursor cursor = edgec_cursor_at(matrix, record);
    for (uint32_t j = 0; j < EDGEC_LANES; j++) {
        acc[j] = 0U;
    }
    while (cursor.columns != 0U) {
        uint32_t sums[EDGEC_LANES];
        const edgec_word *const words = edgec_cursor_next(&cursor, matrix);
        edgec_segment(words, x, cursor.segment, sums);
        x += cursor.segment;
        for (uint32_t j = 0; j < EDGEC_LANES; j++) {
            acc[j] += cursor.multipliers == NULL ? sums[j] : sums[j] * cursor.multipliers[j];
        }
    }
}

/* Accumulators of a record's rows, shifted right with rounding so that they fit in int32. */
static void edgec_record_wide(const edgec_matrix *matrix, const uint8_t *record,
                              const EDGEC_ACTIVATION *x, uint32_t shift, uint32_t *acc) {
    edgec_cursor cursor = edgec_cursor_at(matrix, record);
    int64_t wide[EDGEC_LANES] = {0};
    while (cursor.columns != 0U) {
        uint32_t sums[EDGEC_LANES];
        const edgec_word *const words = edgec_cursor_next(&cursor, matrix);
        edgec_segment(words, x, cursor.segment, sums);
        x += cursor.segment;
        for (uint32_t j = 0; j < EDGEC_LANES; j++) {
            const int32_t multiplier = cursor.multipliers == NULL ? 1 : cursor.multipliers[j];
            wide[j] += (int64_t)edgec_signed(sums[j]) * multiplier;
        }
    }
    for (uint32_t j = 0; j < EDGEC_LANES; j++) {
        acc[j] = (uint32_t)edgec_rs64(wide[j], shift);
    }
}

void EDGEC_LINEAR_KERNEL(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t shift, int32_t *y) {
    const EDGEC_ACTIVATION *const activations = (const EDGEC_ACTIVATION *)x;
    const int32_t a = scale[0];
    const int32_t e = scale[1];
    while (rows != 0U) {
        uint32_t acc[EDGEC_LANES];
        if (shift == 0U) {
            edgec_record_narrow(matrix, record, activations, acc);
        } else {
            edgec_record_wide(matrix, record, activations, shift, acc);
        }
        const void *const requant = record;
        const edgec_word *const words = (const edgec_word *)requant;
        const uint32_t lanes = rows < EDGEC_LANES ? rows : EDGEC_LANES;
        for (uint32_t j = 0; j < lanes; j++) {
            const uint32_t word = words[j];
            y[j] = edgec_requantize(edgec_signed(acc[j]), edgec_word_multiplier(word) * a,
                                    edgec_word_exponent(word) - e);
        }
        record += matrix->record_size;
        y += lanes;
        rows -= lanes;
    }
}
