/* The matrix-vector kernel of N:M sparse matrices (packing nm-sparse), written once.
 *
 * Included with EDGEC_ACTIVATION (int8_t or int16_t), EDGEC_FIELD_BITS (2, 4 or 8), EDGEC_REMOVED
 * and EDGEC_GROUP (N and M, 1 <= N < M <= 16) and EDGEC_LINEAR_KERNEL (name of the function).
 * Rows are not interleaved: each has an index of its own. The work goes by units of 16 inputs, in
 * which all shifts and offsets are constants; what a pattern removes is neither read nor tested,
 * because the index names the inputs that the stored weights belong to. A row's last inputs, fewer
 * than a unit, take the same steps one by one. */

#include "edgec_kernels.h"
#include "edgec_requantizer.h"

#define EDGEC_LANES (32U / EDGEC_FIELD_BITS)
#define EDGEC_UNIT 16
#define EDGEC_KEPT (EDGEC_GROUP - EDGEC_REMOVED)
#define EDGEC_UNIT_GROUPS (EDGEC_UNIT / EDGEC_GROUP)
#define EDGEC_UNIT_KEPT (EDGEC_UNIT_GROUPS * EDGEC_KEPT)

/* Units whose exact sum fits in int32 for any field width: 512 columns * 2^7 * 2^14 = 2^30. */
#define EDGEC_SEGMENT_UNITS 32U

#if EDGEC_GROUP == 2
#define EDGEC_POSITION_BITS 1
#elif EDGEC_GROUP == 4
#define EDGEC_POSITION_BITS 2
#elif EDGEC_GROUP == 8
#define EDGEC_POSITION_BITS 3
#else
#define EDGEC_POSITION_BITS 4
#endif

/* Bits of a group's index: the first of the cheapest of kept, removed, and bitmask. */
#define EDGEC_KEPT_BITS (EDGEC_KEPT * EDGEC_POSITION_BITS)
#define EDGEC_REMOVED_BITS (EDGEC_REMOVED * EDGEC_POSITION_BITS)
#if EDGEC_KEPT_BITS <= EDGEC_REMOVED_BITS && EDGEC_KEPT_BITS <= EDGEC_GROUP
#define EDGEC_INDEX_BITS EDGEC_KEPT_BITS
#elif EDGEC_REMOVED_BITS <= EDGEC_GROUP
#define EDGEC_INDEX_BITS EDGEC_REMOVED_BITS
#else
#define EDGEC_INDEX_BITS EDGEC_GROUP
#endif

/* Whether the index of a unit is whole bytes. */
#define EDGEC_BYTE_UNITS (EDGEC_UNIT_GROUPS * EDGEC_INDEX_BITS % 8 == 0)

/* M(i) for every weight of a unit. */
#define EDGEC_EACH_OF_4(M) M(0) M(1) M(2) M(3)
#define EDGEC_EACH_OF_8(M) EDGEC_EACH_OF_4(M) M(4) M(5) M(6) M(7)
#define EDGEC_EACH_OF_14(M) EDGEC_EACH_OF_8(M) M(8) M(9) M(10) M(11) M(12) M(13)
#define EDGEC_EACH_OF_15(M) EDGEC_EACH_OF_14(M) M(14)
#if EDGEC_UNIT_KEPT == 4
#define EDGEC_EACH_KEPT(M) EDGEC_EACH_OF_4(M)
#elif EDGEC_UNIT_KEPT == 8
#define EDGEC_EACH_KEPT(M) EDGEC_EACH_OF_8(M)
#elif EDGEC_UNIT_KEPT == 14
#define EDGEC_EACH_KEPT(M) EDGEC_EACH_OF_14(M)
#else
#define EDGEC_EACH_KEPT(M) EDGEC_EACH_OF_15(M)
#endif

/* Where the next weights of a row are, and the inputs that they may belong to. */
typedef struct edgec_cursor {
    const uint8_t *index;
    const int8_t *weights;
    const EDGEC_ACTIVATION *x;
#if !EDGEC_BYTE_UNITS
    uint32_t group; /* whose index comes next, counted from `index` */
#endif
} edgec_cursor;

/* Weight number n from `weights` on. */
EDGEC_INLINE int32_t edgec_field(const int8_t *weights, uint32_t n) {
    const uint32_t bit = n * EDGEC_FIELD_BITS;
    const uint32_t byte = (uint32_t)(int32_t)weights[bit / 8U];
    return edgec_signed(byte << (32U - EDGEC_FIELD_BITS - bit % 8U)) >> (32 - EDGEC_FIELD_BITS);
}

#if EDGEC_REMOVED == 1 && EDGEC_GROUP > 2

/* One weight of the group is missing, and the last one has taken its place: all others meet the
 * inputs of their own number, and that one is set right at the end. */

/* Position of the removed weight of group number `group`. */
EDGEC_INLINE uint32_t edgec_hole(const uint8_t *index, uint32_t group) {
    /* The byte behind is one of the index or the first of the weights. */
    const uint32_t bit = group * EDGEC_POSITION_BITS;
    const uint8_t *const bytes = index + bit / 8U;
    const uint32_t pair = bytes[0] | ((uint32_t)bytes[1] << 8);
    return (pair >> (bit % 8U)) & (EDGEC_GROUP - 1U);
}

/* What the place of the hole in group number `group` from the cursor on adds. */
EDGEC_INLINE uint32_t edgec_filled_hole(const edgec_cursor *at, uint32_t group) {
    const EDGEC_ACTIVATION *const x = at->x + group * EDGEC_GROUP;
    const uint32_t hole = edgec_hole(at->index, at->group + group);
    /* When the last weight is the removed one, the difference is zero: any weight will do. */
    const uint32_t place = hole - ((hole + 1U) >> EDGEC_POSITION_BITS);
    const int32_t difference = x[EDGEC_KEPT] - x[hole];
    return (uint32_t)(edgec_field(at->weights, group * EDGEC_KEPT + place) * difference);
}

#define EDGEC_COLUMN_OF(at, group, k) (k)
#define EDGEC_GROUP_REST(at, group) edgec_filled_hole(at, group)

#else

/* Position in its group of the kept weight number k of group number `group`. */
EDGEC_INLINE uint32_t edgec_position(const uint8_t *index, uint32_t group, uint32_t k) {
#if EDGEC_INDEX_BITS == EDGEC_KEPT_BITS
    const uint32_t bit = (group * EDGEC_KEPT + k) * EDGEC_POSITION_BITS;
    return ((uint32_t)index[bit / 8U] >> (bit % 8U)) & (EDGEC_GROUP - 1U);
#elif EDGEC_GROUP == 8
    return (EDGEC_MASK_POSITIONS(index[group]) >> (4U * k)) & 15U;
#else
    const uint8_t *const mask = index + 2U * group;
    const uint32_t positions = EDGEC_MASK_POSITIONS(mask[0]) | EDGEC_MASK_TOPS(mask[1]);
    return (positions >> (4U * k)) & 15U;
#endif
}

#define EDGEC_COLUMN_OF(at, group, k) edgec_position((at)->index, group, k)
#define EDGEC_GROUP_REST(at, group) 0U

#endif

/* Kept weight number i from the cursor on, times the input of its place. */
EDGEC_INLINE uint32_t edgec_kept_product(const edgec_cursor *at, uint32_t i) {
    const uint32_t group = i / EDGEC_KEPT;
    const uint32_t column = EDGEC_COLUMN_OF(at, group, i % EDGEC_KEPT);
    return (uint32_t)(edgec_field(at->weights, i) * at->x[group * EDGEC_GROUP + column]);
}

#define EDGEC_ADD_KEPT(i) sum += edgec_kept_product(at, i);

/* The sum of `units` units modulo 2^32; the cursor moves behind them. */
EDGEC_INLINE uint32_t edgec_units_sum(edgec_cursor *at, uint32_t units) {
    uint32_t sum = 0U;
    const EDGEC_ACTIVATION *const end = at->x + units * EDGEC_UNIT;
    while (at->x != end) {
        EDGEC_EACH_KEPT(EDGEC_ADD_KEPT)
        sum += EDGEC_GROUP_REST(at, 0U);
#if EDGEC_BYTE_UNITS
        at->index += EDGEC_UNIT_GROUPS * EDGEC_INDEX_BITS / 8;
#else
#if EDGEC_UNIT_GROUPS == 2
        sum += EDGEC_GROUP_REST(at, 1U);
#endif
        at->group += EDGEC_UNIT_GROUPS;
#endif
        at->weights += EDGEC_UNIT_KEPT * EDGEC_FIELD_BITS / 8;
        at->x += EDGEC_UNIT;
    }
    return sum;
}

/* The sum of the last `columns` inputs, fewer than a unit: whole groups, then what is no group. */
EDGEC_OUTLINE uint32_t edgec_tail_sum(const edgec_cursor *at, uint32_t columns) {
    const uint32_t kept = columns / EDGEC_GROUP * EDGEC_KEPT;
    const uint32_t whole = columns / EDGEC_GROUP * EDGEC_GROUP;
    uint32_t sum = 0U;
    for (uint32_t i = 0U; i < kept; i++) {
        sum += edgec_kept_product(at, i);
    }
    for (uint32_t group = 0U; group < columns / EDGEC_GROUP; group++) {
        sum += EDGEC_GROUP_REST(at, group);
    }
    for (uint32_t k = whole; k < columns; k++) {
        sum += (uint32_t)(edgec_field(at->weights, kept + k - whole) * at->x[k]);
    }
    return sum;
}

/* What all rows of a matrix share. */
typedef struct edgec_row_shape {
    uint32_t multipliers; /* bytes, 0 with one scale group */
    uint32_t index;       /* bytes */
    uint32_t size;        /* bytes of the row */
    uint32_t tail;        /* inputs behind the last unit */
} edgec_row_shape;

static edgec_row_shape edgec_row_shape_of(const edgec_matrix *matrix) {
    const uint32_t groups = matrix->columns / EDGEC_GROUP;
    const uint32_t kept = groups * EDGEC_KEPT + matrix->columns % EDGEC_GROUP;
    edgec_row_shape shape = {0U, (groups * EDGEC_INDEX_BITS + 7U) / 8U, 0U,
                             matrix->columns % EDGEC_UNIT};
    if (matrix->columns > matrix->group_size) {
        shape.multipliers = (matrix->columns + matrix->group_size - 1U) / matrix->group_size;
    }
    shape.size = shape.multipliers + shape.index + (kept * EDGEC_FIELD_BITS + 7U) / 8U;
    return shape;
}

/* The accumulator of the row at `row`; shift: as for the kernel. */
EDGEC_INLINE int32_t edgec_row_sum(const edgec_matrix *matrix, const edgec_row_shape *shape,
                                   const uint8_t *row, const EDGEC_ACTIVATION *x, uint32_t shift) {
    const uint8_t *const index = row + shape->multipliers;
    const void *const weights = index + shape->index;
    edgec_cursor at = {.index = index, .weights = (const int8_t *)weights, .x = x};
    uint32_t units = matrix->columns / EDGEC_UNIT;
    uint32_t multiplier = 1U;
    uint32_t narrow = 0U;
    int64_t wide = 0;
    while (units != 0U) {
        const uint32_t of_group = matrix->group_size / EDGEC_UNIT;
        uint32_t left = shape->multipliers != 0U && of_group < units ? of_group : units;
        units -= left;
        multiplier = shape->multipliers != 0U ? *row++ : 1U;
        if (shift == 0U) {
            narrow += edgec_units_sum(&at, left) * multiplier;
            continue;
        }
        while (left != 0U) {
            const uint32_t n = left < EDGEC_SEGMENT_UNITS ? left : EDGEC_SEGMENT_UNITS;
            wide += (int64_t)edgec_signed(edgec_units_sum(&at, n)) * (int32_t)multiplier;
            left -= n;
        }
    }
    if (shape->tail != 0U) {
        if (row != index) { /* the units fill their scale groups, and the tail has its own */
            multiplier = *row;
        }
        const uint32_t sum = edgec_tail_sum(&at, shape->tail);
        narrow += sum * multiplier;
        wide += (int64_t)edgec_signed(sum) * (int32_t)multiplier;
    }
    return shift == 0U ? edgec_signed(narrow) : (int32_t)edgec_rs64(wide, shift);
}

/* Requantized outputs of `rows` rows of one record. */
EDGEC_INLINE void edgec_record_rows(const edgec_matrix *matrix, const edgec_row_shape *shape,
                                    const uint8_t *record, uint32_t rows, const EDGEC_ACTIVATION *x,
                                    const edgec_requantizer *by, uint32_t shift, int32_t *y) {
    const uint8_t *word = record;
    const uint8_t *row = record + 4U * EDGEC_LANES;
    for (const int32_t *const end = y + rows; y != end; y++) {
        const int32_t acc = edgec_row_sum(matrix, shape, row, x, shift);
        *y = edgec_requantize_row(by, acc, word);
        word += 4;
        row += shape->size;
    }
}

void EDGEC_LINEAR_KERNEL(const edgec_matrix *matrix, const uint8_t *record, uint32_t rows,
                         const void *x, const int32_t *scale, uint32_t scaling, int32_t *y) {
    const EDGEC_ACTIVATION *const activations = (const EDGEC_ACTIVATION *)x;
    const edgec_requantizer by = edgec_requantizer_of(scale, scaling);
    const uint32_t shift = edgec_scaling_shift(scaling);
    const edgec_row_shape shape = edgec_row_shape_of(matrix);
    while (rows != 0U) {
        const uint32_t n = rows < EDGEC_LANES ? rows : EDGEC_LANES;
        if (shift == 0U) {
            edgec_record_rows(matrix, &shape, record, n, activations, &by, 0U, y);
        } else {
            edgec_record_rows(matrix, &shape, record, n, activations, &by, shift, y);
        }
        record += matrix->record_size;
        y += n;
        rows -= n;
    }
}
