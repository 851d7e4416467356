/* Linears on the engine inside fused ops: from its accumulators to rows. */
#ifndef EDGEC_FUSED_ENGINE_H
#define EDGEC_FUSED_ENGINE_H

#include "edgec_engine.h"
#include "edgec_fused.h"
#include "edgec_group_sums.h"
#include "edgec_row_rule.h"
#include "edgec_xpulp_asm.h"

/* Rows one behind the other, like their sums. Small: every core has some for each linear. */
typedef struct edgec_row_run {
    uint32_t place; /* bytes from the chain's sums to theirs << 4 | piece */
    uint16_t first;
    uint16_t count;
} edgec_row_run;

/* The same, unfolded. */
typedef struct edgec_rows_at {
    const uint8_t *sums;
    const edgec_engine_piece *piece;
    uint32_t first;
    uint32_t count;
} edgec_rows_at;

/* Once per step: the runs of rows first .. last - 1; returns their number. There are at most so
 * many as a channel has slots, times the pieces. */
EDGEC_SETUP uint32_t edgec_row_runs(const edgec_engine_linear *linear, edgec_slice share,
                                    edgec_row_run *runs) {
    const edgec_engine_piece *const pieces = linear->pieces;
    const uint32_t channels = linear->matrix->channels;
    const uint32_t next_line = linear->matrix->pixel_row - 2U;
    const uint32_t piece_count = linear->piece_count;
    uint32_t count = 0U;
    uint32_t pixel = 0U;
    uint32_t in_line = 0U;
    for (uint32_t row = 0U; row < share.last; row += channels) { /* slot by slot */
        for (uint32_t i = 0U; i < piece_count && row + channels > share.first; i++) {
            const edgec_engine_piece *const piece = &pieces[i];
            const uint32_t begin = row + piece->first_channel;
            const uint32_t end = begin + piece->channels;
            const uint32_t first = begin > share.first ? begin : share.first;
            const uint32_t last = end < share.last ? end : share.last;
            if (first < last) {
                const uint32_t place =
                    piece->accumulators + pixel * piece->pixel_stride + 4U * (first - begin);
                const edgec_row_run run = {place << 4 | i, (uint16_t)first,
                                           (uint16_t)(last - first)};
                runs[count++] = run;
            }
        }
        in_line++;
        pixel++;
        if (in_line == 3U) {
            in_line = 0U;
            pixel += next_line - 1U;
        }
    }
    return count;
}

/* The worker's rows of a linear. */
typedef struct edgec_own_rows {
    const edgec_engine_linear *linear;
    const uint8_t *sums; /* of its chain */
    edgec_slice share;
    const edgec_row_run *runs;
    uint32_t count;
} edgec_own_rows;

/* A linear that is to be finished. */
typedef struct edgec_fused_rows {
    const uint8_t *table;
    edgec_scale scale;
    uint32_t shift; /* the element of linear.shift */
    const void *x;  /* of which the tail is read */
} edgec_fused_rows;

/* One row: from the sums v, of the lower halves z, and the row's word p to the output v and the
 * largest magnitude. */
/* clang-format off */
#if EDGEC_ARITHMETIC_FAST
#define EDGEC_X_HALVES_SIZE 2
#define EDGEC_X_HALVES EDGEC_X_OPI("slli", v, v, 8) EDGEC_X_ADD_RS(v, z, room)
#define EDGEC_X_SINGLE EDGEC_X_RS(v, room)
#define EDGEC_X_SCALED EDGEC_X_MULHHU_RS19(z, p, a) EDGEC_X_OP("mul", v, v, z)
#else
#define EDGEC_X_HALVES_SIZE 3
#define EDGEC_X_HALVES                                                                               \
    EDGEC_X_OPI("slli", v, v, 8) EDGEC_X_OP("add", v, v, z) EDGEC_X_OP("sll", v, v, room)
#define EDGEC_X_SINGLE EDGEC_X_OP("sll", v, v, room)
#define EDGEC_X_SCALED EDGEC_X_MULHHU(z, p, a) EDGEC_X_OP("mulh", v, v, z)
#endif
#define EDGEC_X_ROW                                                                                \
    EDGEC_X_SCALED EDGEC_X_OP("sub", p, p, exponent) EDGEC_X_RS(v, p) EDGEC_X_SWP(v, y, 4)         \
    EDGEC_X_ABS(v, v) EDGEC_X_MAXU(most, most, v)
/* clang-format on */

/* Rows with one group and no tail. */
static inline uint32_t edgec_plain_rows(const edgec_row_rule *rule, uint32_t halves,
                                        const uint8_t *sums, uint32_t below, const uint8_t *words,
                                        uint32_t count, int32_t *y) {
    uint32_t most = 0U;
#if EDGEC_XPULP
    uint32_t v;
    uint32_t z;
    uint32_t p;
    if (halves == 2U) {
        const uint8_t *lower = sums + below;
        __asm__ volatile(
            EDGEC_X_LOOP((10 + EDGEC_X_HALVES_SIZE),
                         EDGEC_X_LWP(v, sums, 4) EDGEC_X_LWP(z, lower, 4) EDGEC_X_LWP(p, words, 4)
                             EDGEC_X_HALVES EDGEC_X_ROW)
            : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums), [lower] "+&r"(lower),
              [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
            : [n] "r"(count), [exponent] "r"(rule->exponent), [a] "r"(rule->a_high),
              [room] "r"(rule->room)
            : "memory");
    } else {
        __asm__ volatile(EDGEC_X_LOOP(10, EDGEC_X_LWP(v, sums, 4) EDGEC_X_LWP(p, words, 4)
                                              EDGEC_X_SINGLE EDGEC_X_ROW)
                         : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums),
                           [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
                         : [n] "r"(count), [exponent] "r"(rule->exponent), [a] "r"(rule->a_high),
                           [room] "r"(rule->room)
                         : "memory");
    }
    return most;
#else
    for (uint32_t i = 0U; i < count; i++) {
        const void *const at = sums + 4U * i;
        const void *const word_at = words + 4U * i;
        const uint32_t word = *(const edgec_word *)word_at;
        uint32_t sum = *(const edgec_word *)at;
        if (halves == 2U) {
            const void *const lower = sums + below + 4U * i;
            sum = (sum << 8) + *(const edgec_word *)lower;
        }
        y[i] = edgec_ruled_row(rule, sum, word);
        most = edgec_maxu32(most, (uint32_t)edgec_abs32(y[i]));
    }
    return most;
#endif
}

/* The accumulator of a row over halves, groups and tail; shift: 0 .. 7. */
static inline uint32_t edgec_row_sum(const edgec_engine_matrix *matrix, uint32_t halves,
                                     const uint8_t *sums, uint32_t below, uint32_t group_stride,
                                     const uint8_t *scales, const void *tail, uint32_t shift) {
    edgec_half_sums sum;
    uint32_t m = 1U;
    const uint8_t *weights = scales; /* of the tail */
    if (matrix->groups > 1U) {
        const edgec_row_groups groups = {sums, below, group_stride, scales, matrix->groups};
        sum = edgec_group_sums(groups, halves);
        weights += 4U * matrix->groups;
        m = weights[-4];
    } else {
        const void *const upper = sums;
        const void *const lower = sums + below;
        sum.upper = *(const edgec_word *)upper;
        sum.lower = halves == 2U ? *(const edgec_word *)lower : 0U;
    }
    for (uint32_t i = 0U; i < matrix->tail; i++) {
        const int32_t w = ((int32_t)weights[4U * i] - 128) * (int32_t)m;
        const int32_t q = halves == 2U ? ((const int16_t *)tail)[i] : ((const int8_t *)tail)[i];
        const int32_t high = halves == 2U ? edgec_round_shift(q, 8U) : q;
        sum.upper += (uint32_t)(w * high);
        sum.lower += halves == 2U ? (uint32_t)(w * (q - 256 * high)) : 0U;
    }
    if (halves == 1U) {
        return sum.upper;
    }
    return shift == 0U
               ? (sum.upper << 8) + sum.lower
               : (sum.upper << (8U - shift)) + (uint32_t)edgec_rs32(edgec_signed(sum.lower), shift);
}

/* Rows with groups or a tail. */
static inline uint32_t edgec_summed_rows(const edgec_row_rule *rule, uint32_t halves,
                                         const edgec_engine_matrix *matrix,
                                         const edgec_rows_at *run, const uint8_t *table,
                                         const void *tail, int32_t *y) {
    const uint32_t below = 3U * run->piece->pixel_stride;
    const uint32_t group_stride = run->piece->group_stride;
    const uint32_t record_size = matrix->record_size;
    const uint8_t *record = table + run->first / 4U * record_size;
    const uint8_t *sums = run->sums;
    uint32_t lane = run->first % 4U;
    uint32_t most = 0U;
    for (const int32_t *const end = y + run->count; y != end; y++) {
        const void *const at = record + 4U * lane;
        const uint32_t word = *(const edgec_word *)at;
        const uint32_t sum = edgec_row_sum(matrix, halves, sums, below, group_stride,
                                           record + 16U + lane, tail, rule->shift);
        *y = edgec_ruled_row(rule, sum, word);
        most = edgec_maxu32(most, (uint32_t)edgec_abs32(*y));
        sums += 4U;
        lane++;
        if (lane == 4U) {
            lane = 0U;
            record += record_size;
        }
    }
    return most;
}

/* A run of rows, unfolded. */
static inline edgec_rows_at edgec_run_of(const edgec_own_rows *own, const edgec_row_run *run) {
    const edgec_rows_at unfolded = {own->sums + (run->place >> 4),
                                    &own->linear->pieces[run->place & 15U], run->first, run->count};
    return unfolded;
}

/* All rows of a linear that breaks the rule. */
EDGEC_RARE static uint32_t edgec_general_rows(const edgec_own_rows *own, edgec_fused_rows rows,
                                              int32_t *y) {
    const int32_t scale[2] = {rows.scale.a, rows.scale.e};
    const edgec_engine_operands operands = {rows.table,       0U,  NULL, rows.x, scale,
                                            rows.shift & 15U, NULL};
    uint32_t most = 0U;
    for (uint32_t i = 0U; i < own->count; i++) {
        const edgec_rows_at run = edgec_run_of(own, &own->runs[i]);
        for (uint32_t row = run.first; row < run.first + run.count; row++) {
            y[row] = own->linear->row(own->linear->matrix, run.piece, &operands, row,
                                      run.sums + 4U * (row - run.first));
            most = edgec_maxu32(most, (uint32_t)edgec_abs32(y[row]));
        }
    }
    return most << 1;
}

/* The worker's rows of a linear, y[row]; returns their amplitude. `plain`: the linear has one
 * group and no tail. */
EDGEC_FOLDED uint32_t edgec_fused_finish(const edgec_own_rows *own, uint32_t halves, int plain,
                                         edgec_fused_rows rows, int32_t *y) {
    const edgec_row_rule rule = edgec_row_rule_of(rows.scale, rows.shift);
    if (!EDGEC_LIKELY(rule.holds && rule.shift <= (plain ? 0U : 7U))) {
        return edgec_general_rows(own, rows, y);
    }
    const edgec_row_run *stored = own->runs;
    uint32_t most = 0U;
    for (const edgec_row_run *const end = stored + own->count; stored != end; stored++) {
        const edgec_rows_at run = edgec_run_of(own, stored);
        int32_t *const out = y + run.first;
        uint32_t found;
        if (plain) {
            found = edgec_plain_rows(&rule, halves, run.sums, 3U * run.piece->pixel_stride,
                                     rows.table + 4U * run.first, run.count, out);
        } else {
            const edgec_engine_matrix *const matrix = own->linear->matrix;
            const uint8_t *const x = (const uint8_t *)rows.x;
            found = edgec_summed_rows(&rule, halves, matrix, &run, rows.table,
                                      x + halves * (matrix->columns - matrix->tail), out);
        }
        most = edgec_maxu32(most, found);
    }
    return most << 1;
}

#endif
