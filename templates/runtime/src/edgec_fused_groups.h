/* Rows of linears with groups or a tail: their sums become one per row, where that of group 0 was,
 * and then they are rows like any others. Some groups at a time, so that the cores add up what the
 * engine has left while it computes the next ones. */
#ifndef EDGEC_FUSED_GROUPS_H
#define EDGEC_FUSED_GROUPS_H

#include "edgec_fused_engine.h"
#include "edgec_fused_jobs.h"

/* What linears that are finished in one place have in common: constants. */
typedef struct edgec_row_kind {
    uint32_t halves;
    uint32_t plain;   /* one group and no tail */
    uint32_t grouped; /* several groups */
    uint32_t tailed;  /* 0: no tail */
} edgec_row_kind;

#if EDGEC_XPULP

/* Groups of a row that are added up at a time: those of the last time nothing hides. */
#define EDGEC_GROUPS_AT_ONCE 4U

/* Rows one behind the other in one record of the table. */
typedef struct edgec_x_lanes {
    uint8_t *upper; /* sums of group 0 */
    uint32_t below;
    uint32_t stride;           /* from group to group */
    const uint8_t *multiplier; /* of the first row and the first group that is added */
    uint32_t count;
} edgec_x_lanes;

/* clang-format off */
#define EDGEC_X_ADD_GROUP_16                                                                       \
    EDGEC_X_LBUP(m, scale, 4) EDGEC_X_LWS(u, at, stride) EDGEC_X_LWS(l, below, stride)             \
    EDGEC_X_MAC(high, u, m) EDGEC_X_MAC(low, l, m)
#define EDGEC_X_ADD_GROUP_8                                                                        \
    EDGEC_X_LBUP(m, scale, 4) EDGEC_X_LWS(u, at, stride) EDGEC_X_MAC(high, u, m)
/* clang-format on */

/* Adds multiplier times sum of `groups` groups, from `skip` bytes behind the sums of group 0 on, to
 * these, modulo 2^32. keep: 0 where nothing has been added yet, else all bits. */
static inline void edgec_x_add_lanes(edgec_x_lanes rows, uint32_t halves, uint32_t skip,
                                     uint32_t groups, uint32_t keep) {
    const uint8_t *multiplier = rows.multiplier;
    uint8_t *upper = rows.upper;
    uint8_t *lower = rows.upper + rows.below;
    uint32_t m, u, l, high, low;
    const uint8_t *scale, *at, *below;
    if (halves == 2U) {
        __asm__ volatile(
            EDGEC_X_OUTER(
                16,
                EDGEC_X_LW(high, upper, 0) EDGEC_X_LW(low, lower, 0) EDGEC_X_OP(
                    "add", at, upper, skip) EDGEC_X_OP("add", below, lower, skip)
                    EDGEC_X_OPI("addi", scale, multiplier, 0) EDGEC_X_OP("and", high, high, keep)
                        EDGEC_X_OP("and", low, low, keep) EDGEC_X_LOOP(5, EDGEC_X_ADD_GROUP_16)
                            EDGEC_X_OPI("addi", multiplier, multiplier, 1)
                                EDGEC_X_SWP(high, upper, 4) EDGEC_X_SWP(low, lower, 4))
            : [m] "=&r"(m), [u] "=&r"(u), [l] "=&r"(l), [high] "=&r"(high), [low] "=&r"(low),
              [scale] "=&r"(scale), [at] "=&r"(at), [below] "=&r"(below), [upper] "+&r"(upper),
              [lower] "+&r"(lower), [multiplier] "+&r"(multiplier)
            : [rows] "r"(rows.count), [n] "r"(groups), [stride] "r"(rows.stride), [skip] "r"(skip),
              [keep] "r"(keep)
            : "memory");
    } else {
        __asm__ volatile(
            EDGEC_X_OUTER(10, EDGEC_X_LW(high, upper, 0) EDGEC_X_OP("add", at, upper, skip)
                                  EDGEC_X_OPI("addi", scale, multiplier, 0) EDGEC_X_OP(
                                      "and", high, high, keep) EDGEC_X_LOOP(3, EDGEC_X_ADD_GROUP_8)
                                      EDGEC_X_OPI("addi", multiplier, multiplier, 1)
                                          EDGEC_X_SWP(high, upper, 4))
            : [m] "=&r"(m), [u] "=&r"(u), [high] "=&r"(high), [scale] "=&r"(scale), [at] "=&r"(at),
              [upper] "+&r"(upper), [multiplier] "+&r"(multiplier)
            : [rows] "r"(rows.count), [n] "r"(groups), [stride] "r"(rows.stride), [skip] "r"(skip),
              [keep] "r"(keep)
            : "memory");
        (void)l;
        (void)low;
        (void)below;
    }
}

/* Columns behind those of the engine: their weights lie behind the multipliers of the groups. */
EDGEC_FOLDED void edgec_add_tail(uint8_t *upper, uint32_t below, uint32_t halves,
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

/* The accumulators of rows whose sums are complete, in place of the upper ones. */
static inline void edgec_x_join_sums(uint8_t *upper, uint32_t below, uint32_t count,
                                     uint32_t shift) {
    const uint8_t *lower = upper + below;
    uint32_t u, l;
    __asm__ volatile(EDGEC_X_LOOP(6, EDGEC_X_LW(u, upper, 0) EDGEC_X_LWP(l, lower, 4)
                                         EDGEC_X_OP("sll", u, u, left) EDGEC_X_RS(l, right)
                                             EDGEC_X_OP("add", u, u, l) EDGEC_X_SWP(u, upper, 4))
                     : [u] "=&r"(u), [l] "=&r"(l), [upper] "+&r"(upper), [lower] "+&r"(lower)
                     : [n] "r"(count), [left] "r"(8U - shift), [right] "r"(shift)
                     : "memory");
}

/* Adds groups `first` .. first + count - 1 of a worker's rows to the sums of group 0; with the last
 * ones a row's accumulator stands there. The words of the rows come to y one behind the other. */
EDGEC_FOLDED void edgec_x_add_some_groups(const edgec_own_rows *own, edgec_row_kind kind,
                                          const uint8_t *table, uint32_t shift, uint32_t first,
                                          uint32_t count) {
    const edgec_engine_matrix *const matrix = own->linear->matrix;
    const uint32_t keep = first != 0U ? UINT32_MAX : 0U;
    const int last = first + count == matrix->groups;
    for (const edgec_row_run *run = own->runs; run != own->end; run++) {
        edgec_word *to = (edgec_word *)own->y + run->first;
        uint32_t lane = run->first % 4U;
        const uint8_t *record = table + run->first / 4U * matrix->record_size;
        uint8_t *const sums = (uint8_t *)(uintptr_t)own->sums + 4U * run->sums;
        const edgec_engine_piece *piece = own->linear->pieces;
        if (own->linear->piece_count > 1U) {
            piece = edgec_piece_of(own->linear, run->first);
        }
        edgec_x_lanes rows = {sums, 4U * run->lower, piece->group_stride, NULL, 0U};
        for (uint32_t left = run->count; left != 0U; left -= rows.count) {
            rows.count = 4U - lane < left ? 4U - lane : left;
            rows.multiplier = record + 16U + 4U * first + lane;
            if (first == 0U) {
                const edgec_word *words = (const edgec_word *)(const void *)record + lane;
                for (const edgec_word *const end = words + rows.count; words != end; words++) {
                    *to++ = *words;
                }
            }
            if (kind.grouped != 0U || matrix->groups > 1U) {
                edgec_x_add_lanes(rows, kind.halves, first * rows.stride, count, keep);
                rows.multiplier += 4U * count;
            }
            for (uint32_t i = 0U; kind.tailed != 0U && last && i < rows.count; i++) {
                edgec_add_tail(rows.upper + 4U * i, rows.below, kind.halves, matrix,
                               rows.multiplier + i, own->x);
            }
            rows.upper += 4U * rows.count;
            record += matrix->record_size;
            lane = 0U;
        }
        if (last && kind.halves == 2U) {
            edgec_x_join_sums(sums, rows.below, run->count, shift);
        }
    }
}

/* All of them, some groups at a time if there is a job for each. */
EDGEC_FOLDED void edgec_x_add_groups(const edgec_worker *worker, edgec_engine_queue *queue,
                                     const edgec_own_rows *own, edgec_row_kind kind,
                                     const uint8_t *table, uint32_t shift) {
    const uint32_t groups = own->linear->matrix->groups;
    uint32_t jobs = own->plan.jobs;
    uint32_t count = jobs == groups ? EDGEC_GROUPS_AT_ONCE : groups;
    uint32_t first = 0U;
    do {
        count = count < groups - first ? count : groups - first;
        if (jobs != 0U) {
            edgec_meet_jobs(worker, queue, jobs == groups ? count : jobs);
        }
        edgec_x_add_some_groups(own, kind, table, shift, first, count);
        first += count;
    } while (first != groups);
}

#endif

#endif
