/* Rows of a linear inside fused ops, and what becomes of them in the same pass. */
#ifndef EDGEC_FUSED_FINISH_H
#define EDGEC_FUSED_FINISH_H

#include "edgec_fused_groups.h"
#include "edgec_fused_jobs.h"
#include "edgec_fused_mlp.h"
#include "edgec_fused_residual.h"

/* What rows meet on their way. */
typedef struct edgec_row_aim {
    const uint16_t *gates; /* the table of their activation */
    int32_t *r;            /* the residual stream */
} edgec_row_aim;

/* All of a worker's rows in the general way, and then what becomes of them. */
EDGEC_RARE static void edgec_finish_generally(const edgec_worker *worker, edgec_engine_queue *queue,
                                              const edgec_own_rows *own, edgec_fused_rows rows,
                                              edgec_row_aim aim) {
    const int32_t scale[2] = {rows.scale.a, rows.scale.e};
    const edgec_engine_operands operands = {rows.table,       0U,  NULL, own->x, scale,
                                            rows.shift & 15U, NULL};
    int32_t *const y = own->y;
    uint32_t amplitude = 0U;
    uint32_t most = 0U;
    if (own->plan.jobs != 0U) {
        edgec_meet_jobs(worker, queue, own->plan.jobs);
    }
    for (const edgec_row_run *run = own->runs; run != own->end; run++) {
        if (run->count == 0U) {
            edgec_meet_jobs(worker, queue, run->first);
        }
        for (uint32_t i = 0U; i < run->count; i++) {
            const uint32_t row = run->first + i;
            y[row] = own->linear->row(own->linear->matrix, edgec_piece_of(own->linear, row),
                                      &operands, row, own->sums + 4U * (run->sums + i));
            if (own->plan.use == EDGEC_ROWS_GATE) {
                y[row] = edgec_silu(y[row], aim.gates);
                amplitude = edgec_maxu32(amplitude, (uint32_t)edgec_max32(y[row], 0) << 1);
            } else {
                amplitude = edgec_amplitude_add(amplitude, y[row]);
            }
        }
        if (own->plan.use == EDGEC_ROWS_ADD) {
            most = edgec_maxu32(most, edgec_add_rows(y, edgec_share_of(run), 0, aim.r));
        }
    }
    *own->amplitude = own->plan.use == EDGEC_ROWS_ADD ? most << 1 : amplitude;
}

#if EDGEC_XPULP
#define EDGEC_X_KEEP EDGEC_X_SWP(v, y, 4) EDGEC_X_MAX(most, most, v)

/* Gates: l = silu(row); returns the largest l that is above 0. */
static inline uint32_t edgec_x_gate_rows(const edgec_row_rule *rule, uint32_t halves,
                                         const uint8_t *sums, const uint8_t *lower,
                                         const uint8_t *words, uint32_t count, int32_t *y,
                                         const uint16_t *table) {
    uint32_t most = 0U;
    EDGEC_X_SILU_VARIABLES;
    if (halves == 2U) {
        __asm__ volatile(EDGEC_X_LOOP((12 + EDGEC_X_SILU_SIZE), EDGEC_X_ROW_16("") EDGEC_X_ABS(m, v)
                                                                    EDGEC_X_SILU EDGEC_X_KEEP)
                         : EDGEC_X_SILU_OUT, [sums] "+&r"(sums), [lower] "+&r"(lower),
                           [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
                         : EDGEC_X_SILU_IN, [n] "r"(count), EDGEC_X_ROW_IN(rule)
                         : "memory");
    } else if (halves == EDGEC_SUMMED) {
        __asm__ volatile(EDGEC_X_LOOP((13 + EDGEC_X_SILU_SIZE), EDGEC_X_ROW_SUMMED("") EDGEC_X_ABS(
                                                                    m, v) EDGEC_X_SILU EDGEC_X_KEEP)
                         : EDGEC_X_SILU_OUT, [sums] "+&r"(sums), [lower] "+&r"(lower),
                           [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
                         : EDGEC_X_SILU_IN, [n] "r"(count), EDGEC_X_SUMMED_IN(rule)
                         : "memory");
    } else {
        __asm__ volatile(EDGEC_X_LOOP((10 + EDGEC_X_SILU_SIZE),
                                      EDGEC_X_ROW_8("") EDGEC_X_ABS(m, v) EDGEC_X_SILU EDGEC_X_KEEP)
                         : EDGEC_X_SILU_OUT, [sums] "+&r"(sums), [words] "+&r"(words), [y] "+&r"(y),
                           [most] "+&r"(most)
                         : EDGEC_X_SILU_IN, [n] "r"(count), EDGEC_X_ROW_IN(rule)
                         : "memory");
    }
    return most;
}

/* y += row, where no sum exceeds 2^31 - 1; returns the largest magnitude. */
static inline uint32_t edgec_x_add_rows(const edgec_row_rule *rule, uint32_t halves,
                                        const uint8_t *sums, const uint8_t *lower,
                                        const uint8_t *words, uint32_t count, int32_t *y) {
    uint32_t most = 0U;
    uint32_t v;
    uint32_t z;
    uint32_t p;
    if (halves == 2U) {
        __asm__ volatile(
            EDGEC_X_LOOP(14, EDGEC_X_ROW_16(EDGEC_X_LW(z, y, 0)) EDGEC_X_OP("add", v, v, z)
                                 EDGEC_X_STORE)
            : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums), [lower] "+&r"(lower),
              [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
            : [n] "r"(count), EDGEC_X_ROW_IN(rule)
            : "memory");
    } else if (halves == EDGEC_SUMMED) {
        __asm__ volatile(
            EDGEC_X_LOOP(15, EDGEC_X_ROW_SUMMED(EDGEC_X_LW(z, y, 0)) EDGEC_X_OP("add", v, v, z)
                                 EDGEC_X_STORE)
            : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums), [lower] "+&r"(lower),
              [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
            : [n] "r"(count), EDGEC_X_SUMMED_IN(rule)
            : "memory");
    } else {
        __asm__ volatile(EDGEC_X_LOOP(12, EDGEC_X_ROW_8(EDGEC_X_LW(z, y, 0))
                                              EDGEC_X_OP("add", v, v, z) EDGEC_X_STORE)
                         : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums),
                           [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
                         : [n] "r"(count), [exponent] "r"(rule->exponent), [a] "r"(rule->a_high),
                           [room] "r"(rule->room)
                         : "memory");
    }
    return most;
}
#endif

/* Behind rows that stand in y. */
EDGEC_FOLDED void edgec_rows_done(const edgec_own_rows *own, uint32_t amplitude,
                                  edgec_row_aim aim) {
    const uint32_t use = own->plan.use;
    const int fits = (amplitude >> 1) + (*own->amplitude >> 1) < 1U << 31; /* the residual's */
    uint32_t most = use == EDGEC_ROWS_STAY ? amplitude : 0U;
    for (const edgec_row_run *run = own->runs; use != EDGEC_ROWS_STAY && run != own->end; run++) {
        if (run->count != 0U) {
            const uint32_t found =
                use == EDGEC_ROWS_ADD
                    ? edgec_residual_rows(own->y, edgec_share_of(run), fits, aim.r) << 1
                    : edgec_fused_silu(own->y + run->first, run->count, aim.gates);
            most = edgec_maxu32(most, found);
        }
    }
    *own->amplitude = most;
}

/* A run's rows in y; returns the largest magnitude. x: the vector that a tail reads. */
EDGEC_FOLDED uint32_t edgec_run_rows(const edgec_own_rows *own, uint32_t halves, uint32_t plain,
                                     const uint8_t *table, const edgec_row_rule *rule,
                                     const void *x, const edgec_row_run *run, int32_t *y) {
    const uint8_t *const sums = own->sums + 4U * run->sums;
    int32_t *const to = y + run->first;
    if (plain != 0U) {
        return edgec_plain_rows(rule, halves, sums, sums + 4U * run->lower, table + 4U * run->first,
                                run->count, to);
    }
    const edgec_engine_matrix *const matrix = own->linear->matrix;
    const edgec_rows_at at = {sums, edgec_piece_of(own->linear, run->first), run->first,
                              run->count};
    const uint8_t *const bytes = (const uint8_t *)x;
    return edgec_summed_rows(rule, halves, matrix, &at, table,
                             bytes + halves * (matrix->columns - matrix->tail), to);
}

/* Whether no row needs the general way, as far as one can say before they are there. */
EDGEC_FOLDED int edgec_rows_simple(const edgec_own_rows *own, uint32_t plain,
                                   const edgec_row_rule *rule) {
    int simple = edgec_rule_serves(rule, plain);
#if EDGEC_XPULP
    if (own->plan.use == EDGEC_ROWS_ADD) { /* no row exceeds 2^(31 - least) */
        simple = simple && (*own->amplitude >> 1) + (1U << (31 - rule->least)) < 1U << 31;
    }
#endif
    (void)own;
    return simple;
}

#if EDGEC_XPULP
/* A run's rows and what becomes of them; returns the largest magnitude. */
EDGEC_FOLDED uint32_t edgec_x_finish_run(uint32_t use, const edgec_row_rule *rule,
                                         edgec_row_kind kind, edgec_x_run at, int32_t *y,
                                         const uint16_t *gates) {
    const uint32_t summed = kind.halves == 2U ? EDGEC_SUMMED : 1U;
    const uint32_t halves = kind.plain != 0U ? kind.halves : summed;
    edgec_row_rule of = *rule;
    if (kind.plain == 0U) { /* loaded once, whatever becomes of them */
        __asm__ volatile("" : "+r"(of.exponent), "+r"(of.a_high), "+r"(of.room), "+r"(of.shift));
    }
    if (use == EDGEC_ROWS_GATE) {
        return edgec_x_gate_rows(&of, halves, at.sums, at.lower, at.words, at.count, y, gates);
    }
    if (use == EDGEC_ROWS_ADD) {
        return edgec_x_add_rows(&of, halves, at.sums, at.lower, at.words, at.count, y);
    }
    return edgec_plain_rows(&of, halves, at.sums, at.lower, at.words, at.count, y);
}

/* As edgec_fused_finish, in hardware loops. */
EDGEC_FOLDED void edgec_x_finish(const edgec_worker *worker, edgec_engine_queue *queue,
                                 const edgec_own_rows *own, edgec_row_kind kind,
                                 const uint8_t *table, const edgec_row_rule *rule,
                                 edgec_row_aim aim) {
    const uint32_t groups = kind.plain != 0U ? 1U : own->linear->matrix->groups;
    const uint8_t *const words = kind.plain != 0U ? table : (const uint8_t *)own->y;
    uint32_t use = own->plan.use;
    EDGEC_KEEP(use);
    int32_t *const y = use == EDGEC_ROWS_ADD ? aim.r : own->y;
    edgec_x_turn turn = {0U, 1U, 0U};
    uint32_t most = 0U;
    uint32_t jobs = own->plan.jobs;
    uint32_t left = groups;
    do { /* groups that are added up together; those of the last time are finished */
        if (kind.plain == 0U) {
            turn.count = (uint32_t)edgec_min32((int32_t)left, own->plan.at_once);
        }
        turn.first = groups - left;
        jobs += turn.count;
        if (jobs != left) { /* jobs for each group, or for all of them */
            edgec_meet_jobs(worker, queue, jobs - left);
        }
        left -= turn.count;
        const edgec_row_run *run = own->runs;
        while (run != own->end) {
            if (kind.plain != 0U && run->count == 0U) {
                edgec_meet_jobs(worker, queue, run->first);
                run++;
                continue;
            }
            edgec_x_run at = {own->sums + 4U * run->sums, NULL, words + 4U * run->first,
                              run->count};
            at.lower = at.sums + 4U * run->lower;
            if (kind.plain == 0U && (kind.grouped != 0U || groups > 1U)) {
                edgec_x_add_groups(own, run, kind.halves, table, turn, at);
            }
            if (kind.plain != 0U || left == 0U) {
                if (kind.plain == 0U && kind.tailed != 0U && own->linear->matrix->tail != 0U) {
                    edgec_x_add_tails(own, run, kind.halves, table);
                }
                const uint32_t found =
                    edgec_x_finish_run(use, rule, kind, at, y + run->first, aim.gates);
                most = edgec_maxu32(most, found);
            }
            run++;
            __asm__ volatile("" : "+r"(run)); /* one way back, with what it restores */
        }
        turn.keep = UINT32_MAX;
        jobs = left;
    } while (left != 0U);
    *own->amplitude = most << 1;
}
#endif

/* The worker's rows of a linear, each when its jobs are done, and all simple; leaves an amplitude
 * where `own` says. */
EDGEC_FOLDED void edgec_fused_finish(const edgec_worker *worker, edgec_engine_queue *queue,
                                     const edgec_own_rows *own, edgec_row_kind kind,
                                     const uint8_t *table, const edgec_row_rule *rule,
                                     edgec_row_aim aim) {
#if EDGEC_XPULP
    edgec_x_finish(worker, queue, own, kind, table, rule, aim);
#else
    uint32_t most = 0U;
    if (own->plan.jobs != 0U) {
        edgec_meet_jobs(worker, queue, own->plan.jobs);
    }
    for (const edgec_row_run *run = own->runs; run != own->end; run++) {
        if (run->count == 0U) {
            edgec_meet_jobs(worker, queue, run->first);
            continue;
        }
        most = edgec_maxu32(
            most, edgec_run_rows(own, kind.halves, kind.plain, table, rule, own->x, run, own->y));
    }
    edgec_rows_done(own, most << 1, aim);
#endif
}

#endif
