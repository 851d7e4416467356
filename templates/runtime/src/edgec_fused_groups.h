/* Rows of linears with groups or a tail: their sums become one per row, where that of group 0 was,
 * and then they are rows like others. Some groups at a time, so that the cores add up what the
 * engine has left while it computes the next ones. */
#ifndef EDGEC_FUSED_GROUPS_H
#define EDGEC_FUSED_GROUPS_H

#include "edgec_fused_engine.h"
#include "edgec_group_sums.h"

/* What linears that are finished in one place have in common: constants. */
typedef struct edgec_row_kind {
    uint32_t halves;
    uint32_t plain;   /* one group and no tail */
    uint32_t grouped; /* several groups */
    uint32_t tailed;  /* 0: no tail */
} edgec_row_kind;

/* Groups of a row that are added up at a time: four if there is a job for each, as nothing hides
 * those of the last time, else all of them. */
static inline uint16_t edgec_groups_at_once(uint32_t groups, uint32_t jobs) {
    return jobs == groups && groups > 4U ? 4U : (uint16_t)groups;
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

/* A run of rows as a kernel wants it. */
typedef struct edgec_rows_at {
    const uint8_t *sums;
    const edgec_engine_piece *piece;
    uint32_t first;
    uint32_t count;
} edgec_rows_at;

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

/* Groups lie as many pixels apart in all pieces of a linear, and lower sums three of them behind
 * upper ones: the words from group to group are those to the lower sums times this, modulo 2^16,
 * where 0xAAAB divides by 3. */
static inline uint16_t edgec_group_step(const edgec_engine_piece *piece) {
    return (uint16_t)(piece->group_stride / piece->pixel_stride * 0xAAABU);
}

#if EDGEC_XPULP

/* Rows one behind the other whose sums are added up. */
typedef struct edgec_x_rows {
    uint8_t *upper; /* sums of group 0 */
    uint8_t *lower;
    uint32_t stride;           /* from group to group */
    const uint8_t *multiplier; /* of the first row and the first group that is added */
    const uint8_t *word;       /* of the first row */
    uint32_t record_size;      /* of the table, for four rows */
    uint32_t first;
    uint32_t count;
} edgec_x_rows;

/* clang-format off */
#define EDGEC_X_ADD_GROUP_16                                                                       \
    EDGEC_X_LBUP(m, scale, 4) EDGEC_X_LWS(u, at, stride) EDGEC_X_LWS(l, below, stride)             \
    EDGEC_X_MAC(high, u, m) EDGEC_X_MAC(low, l, m)
#define EDGEC_X_ADD_GROUP_8                                                                        \
    EDGEC_X_LBUP(m, scale, 4) EDGEC_X_LWS(u, at, stride) EDGEC_X_MAC(high, u, m)
/* The sums so far, and the row's word. */
#define EDGEC_X_SUM_BEGINS                                                                         \
    EDGEC_X_LW(high, upper, 0) EDGEC_X_LWP(m, word, 4) EDGEC_X_OP("add", at, upper, skip)          \
    EDGEC_X_OPI("addi", scale, multiplier, 0) EDGEC_X_OP("and", high, high, keep)                  \
    EDGEC_X_SWP(m, to, 4)
/* m = whether the next row is in the next record, as `lane`, counted in the two highest bits, then
 * is 0; the pointers go there. */
#define EDGEC_X_SUM_ENDS                                                                           \
    EDGEC_X_OP("add", lane, lane, quarter) EDGEC_X_OPI("addi", multiplier, multiplier, 1)          \
    EDGEC_X_OPI("sltiu", m, lane, 1) EDGEC_X_MAC(word, m, next_word)                               \
    EDGEC_X_MAC(multiplier, m, next_record) EDGEC_X_SWP(high, upper, 4)
/* clang-format on */

/* Adds multiplier times sum of `groups` groups, from `skip` bytes behind the sums of group 0 on, to
 * these, modulo 2^32. keep: 0 where nothing has been added yet, else all bits. The words of the
 * rows come to `to`, one behind the other. */
static inline void edgec_x_add_rows_groups(edgec_x_rows rows, uint32_t halves, uint32_t skip,
                                           uint32_t groups, uint32_t keep, edgec_word *to) {
    const uint8_t *multiplier = rows.multiplier;
    const uint8_t *word = rows.word;
    uint8_t *upper = rows.upper;
    uint8_t *lower = rows.lower;
    uint32_t lane = rows.first << 30;
    uint32_t m, u, l, high, low;
    const uint8_t *scale, *at, *below;
    if (halves != 1U) {
        __asm__ volatile(
            EDGEC_X_OUTER(22, EDGEC_X_SUM_BEGINS EDGEC_X_LW(low, lower, 0) EDGEC_X_OP(
                                  "add", below, lower, skip) EDGEC_X_OP("and", low, low, keep)
                                  EDGEC_X_LOOP(5, EDGEC_X_ADD_GROUP_16)
                                      EDGEC_X_SUM_ENDS EDGEC_X_SWP(low, lower, 4))
            : [m] "=&r"(m), [u] "=&r"(u), [l] "=&r"(l), [high] "=&r"(high), [low] "=&r"(low),
              [scale] "=&r"(scale), [at] "=&r"(at), [below] "=&r"(below), [upper] "+&r"(upper),
              [lower] "+&r"(lower), [multiplier] "+&r"(multiplier), [word] "+&r"(word),
              [to] "+&r"(to), [lane] "+&r"(lane)
            : [rows] "r"(rows.count), [n] "r"(groups), [stride] "r"(rows.stride), [skip] "r"(skip),
              [keep] "r"(keep), [quarter] "r"(1U << 30), [next_word] "r"(rows.record_size - 16U),
              [next_record] "r"(rows.record_size - 4U)
            : "memory");
    } else {
        __asm__ volatile(
            EDGEC_X_OUTER(16,
                          EDGEC_X_SUM_BEGINS EDGEC_X_LOOP(3, EDGEC_X_ADD_GROUP_8) EDGEC_X_SUM_ENDS)
            : [m] "=&r"(m), [u] "=&r"(u), [high] "=&r"(high), [scale] "=&r"(scale), [at] "=&r"(at),
              [upper] "+&r"(upper), [multiplier] "+&r"(multiplier), [word] "+&r"(word),
              [to] "+&r"(to), [lane] "+&r"(lane)
            : [rows] "r"(rows.count), [n] "r"(groups), [stride] "r"(rows.stride), [skip] "r"(skip),
              [keep] "r"(keep), [quarter] "r"(1U << 30), [next_word] "r"(rows.record_size - 16U),
              [next_record] "r"(rows.record_size - 4U)
            : "memory");
        (void)l;
        (void)low;
        (void)below;
    }
}

/* Columns behind those of the engine: their weights lie behind the multipliers of the groups. */
EDGEC_FOLDED void edgec_x_add_tail(uint8_t *upper, uint32_t below, uint32_t halves,
                                   const edgec_engine_matrix *matrix, const uint8_t *multiplier,
                                   const void *x) {
    void *const high_at = upper;
    void *const low_at = upper + below;
    const uint32_t m = matrix->groups > 1U ? multiplier[-4] : 1U;
    uint32_t high_sum = 0U;
    uint32_t low_sum = 0U;
    for (uint32_t i = matrix->columns - matrix->tail; i < matrix->columns; i++) {
        const uint32_t w = (uint32_t)*multiplier - 128U;
        const int32_t q = halves == 2U ? ((const int16_t *)x)[i] : ((const int8_t *)x)[i];
        const int32_t high = halves == 2U ? edgec_round_shift(q, 8U) : q;
        high_sum += w * (uint32_t)high;
        low_sum += w * (uint32_t)(q - 256 * high);
        multiplier += 4;
    }
    *(edgec_word *)high_at += high_sum * m;
    if (halves == 2U) {
        *(edgec_word *)low_at += low_sum * m;
    }
}

/* Some groups of a linear: count of them from `first` on. keep: as above. */
typedef struct edgec_x_turn {
    uint32_t first;
    uint32_t count;
    uint32_t keep;
} edgec_x_turn;

/* Where a run's sums are, and its words or where they shall be. */
typedef struct edgec_x_run {
    const uint8_t *sums;
    const uint8_t *lower;
    const uint8_t *words;
    uint32_t count;
} edgec_x_run;

/* Adds groups of a run to the sums of group 0; its words come to at.words. */
EDGEC_FOLDED void edgec_x_add_groups(const edgec_own_rows *own, const edgec_row_run *run,
                                     uint32_t halves, const uint8_t *table, edgec_x_turn turn,
                                     edgec_x_run at) {
    const uint32_t record_size = own->linear->matrix->record_size;
    const uint32_t lane = run->first % 4U;
    const uint8_t *const record = table + run->first / 4U * record_size;
    const edgec_x_rows rows = {
        .upper = (uint8_t *)(uintptr_t)at.sums,
        .lower = (uint8_t *)(uintptr_t)at.lower,
        .stride = (run->lower * (uint32_t)own->plan.step << 16) >> 14,
        .multiplier = record + 16U + 4U * turn.first + lane,
        .word = record + 4U * lane,
        .record_size = record_size,
        .first = run->first,
        .count = at.count,
    };
    edgec_x_add_rows_groups(rows, halves, turn.first * rows.stride, turn.count, turn.keep,
                            (edgec_word *)(uintptr_t)at.words);
}

/* The tails of a run, behind its groups. */
EDGEC_SHARED void edgec_x_add_tails(const edgec_own_rows *own, const edgec_row_run *run,
                                    uint32_t halves, const uint8_t *table) {
    const edgec_engine_matrix *const matrix = own->linear->matrix;
    edgec_word *const to = (edgec_word *)own->y;
    uint8_t *upper = (uint8_t *)(uintptr_t)own->sums + 4U * run->sums;
    for (uint32_t row = run->first; row < (uint32_t)run->first + run->count; row++) {
        const uint8_t *const record = table + row / 4U * matrix->record_size;
        const void *const word = record + row % 4U * 4U;
        const uint32_t scales = matrix->groups > 1U ? 4U * matrix->groups : 0U;
        to[row] = *(const edgec_word *)word;
        edgec_x_add_tail(upper, 4U * run->lower, halves, matrix, record + 16U + scales + row % 4U,
                         own->x);
        upper += 4U;
    }
}

#endif

#endif
