/* Linears on the engine inside fused ops: from its accumulators to rows. */
#ifndef EDGEC_FUSED_ENGINE_H
#define EDGEC_FUSED_ENGINE_H

#include "edgec_engine.h"
#include "edgec_fused.h"
#include "edgec_row_rule.h"
#include "edgec_xpulp_asm.h"

/* Rows one behind the other, like their sums. Small: every core has some for each linear. */
typedef struct edgec_row_run {
    uint16_t sums;  /* words from the chain's sums to theirs */
    uint16_t lower; /* words from these to those of lower halves */
    uint16_t first;
    uint16_t count; /* 0: `first` jobs are to be waited for */
} edgec_row_run;

static inline edgec_row_run edgec_run_of_jobs(uint32_t jobs) {
    return (edgec_row_run){0U, 0U, (uint16_t)jobs, 0U};
}

static inline edgec_slice edgec_share_of(const edgec_row_run *run) {
    const edgec_slice share = {run->first, (uint32_t)run->first + run->count};
    return share;
}

/* Rows of a piece from `first` on, which has this channel of the piece and this output pixel. */
static inline edgec_row_run edgec_run_of(const edgec_engine_piece *piece, uint32_t pixel,
                                         uint32_t channel, uint32_t first, uint32_t count) {
    const uint32_t sums = (piece->accumulators + pixel * piece->pixel_stride) / 4U + channel;
    const edgec_row_run run = {(uint16_t)sums, (uint16_t)(3U * piece->pixel_stride / 4U),
                               (uint16_t)first, (uint16_t)count};
    return run;
}

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
                runs[count] = edgec_run_of(piece, pixel, first - begin, first, last - first);
                count++;
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

/* The worker's rows of a linear's piece; returns the number of runs, at most one per slot. All
 * workers have as many: they finish a piece together while the engine computes the next one. */
EDGEC_SETUP uint32_t edgec_piece_runs(const edgec_worker *worker, const edgec_engine_linear *linear,
                                      uint32_t number, edgec_row_run *runs) {
    const edgec_engine_matrix *const matrix = linear->matrix;
    const edgec_engine_piece *const piece = &linear->pieces[number];
    const uint32_t channels = piece->channels;
    const edgec_slice share = edgec_slice_of(worker, matrix->slots * channels);
    uint32_t count = 0U;
    uint32_t pixel = 0U;
    uint32_t begin = 0U; /* of the slot, in the share's order */
    for (uint32_t slot = 0U; slot < matrix->slots && begin < share.last; slot++) {
        const uint32_t from = share.first > begin ? share.first - begin : 0U;
        const uint32_t to = share.last - begin < channels ? share.last - begin : channels;
        const uint32_t row = slot * matrix->channels + piece->first_channel;
        const uint32_t end = row + to < matrix->rows ? row + to : matrix->rows;
        if (row + from < end) {
            runs[count] = edgec_run_of(piece, pixel, from, row + from, end - row - from);
            count++;
        }
        begin += channels;
        pixel += slot % 3U == 2U ? matrix->pixel_row - 2U : 1U;
    }
    return count;
}

/* What becomes of rows: they stay, become l as gates of SwiGLU, or join the residual stream. */
enum { EDGEC_ROWS_STAY, EDGEC_ROWS_GATE, EDGEC_ROWS_ADD };

/* A linear of fused ops. */
typedef struct edgec_row_plan {
    uint16_t weights;  /* bytes from the block's weights to those of the linear */
    uint16_t entry;    /* of the table of linears */
    uint16_t jobs;     /* to be waited for first */
    uint16_t at_once;  /* groups that are added up at a time */
    uint16_t step;     /* from group to group, as edgec_group_step has it */
    uint8_t use;       /* of the rows */
    uint8_t amplitude; /* number of the one that own->amplitude points to */
    uint8_t halves;
    uint8_t plain; /* one group and no tail */
    uint8_t apart; /* the rows of each piece are divided, and finished when it is there */
} edgec_row_plan;

/* The worker's rows of a linear, the same in all blocks. */
typedef struct edgec_own_rows {
    const edgec_row_run *runs;
    const edgec_row_run *end;
    const uint8_t *sums; /* of the chain */
    int32_t *y;          /* of the linear */
    const void *x;       /* the vector that it reads, for those with a tail */
    uint32_t *amplitude; /* where that of the rows is left, or of what they become */
    edgec_row_plan plan;
    const edgec_engine_linear *linear;
} edgec_own_rows;

/* Once per step: the runs of a linear of which the jobs before it have waited for `met`. */
EDGEC_SETUP uint32_t edgec_planned_runs(const edgec_worker *worker, const edgec_own_rows *own,
                                        uint32_t met, edgec_row_run *runs) {
    edgec_row_run *next = runs;
    if (own->plan.apart == 0U) {
        const edgec_slice share = edgec_slice_of(worker, own->linear->matrix->rows);
        return edgec_row_runs(own->linear, share, runs);
    }
    for (uint32_t i = 0U; i < own->linear->piece_count; i++) {
        const uint32_t needed = own->linear->pieces[i].needed;
        if (needed > met) {
            *next++ = edgec_run_of_jobs(needed - met);
            met = needed;
        }
        next += edgec_piece_runs(worker, own->linear, i, next);
    }
    return (uint32_t)(next - runs);
}

/* A linear that is to be finished. */
typedef struct edgec_fused_rows {
    const uint8_t *table;
    edgec_scale scale;
    uint32_t shift; /* the element of linear.shift */
} edgec_fused_rows;

/* In place of a number of halves: two, and the lower sums are to be rounded. */
#define EDGEC_SUMMED 3U

/* v = a row: 9 instructions, 7 with one half; `between` may use z. */
/* clang-format off */
#if EDGEC_ARITHMETIC_FAST
#define EDGEC_X_HALVES EDGEC_X_OPI("slli", v, v, 8) EDGEC_X_ADD_RS(v, z, room)
#define EDGEC_X_SUMMED EDGEC_X_OP("sll", v, v, upper) EDGEC_X_ADD_RS(v, z, room)
#define EDGEC_X_RAISE(rule) (8U - (rule)->shift)
#define EDGEC_X_SINGLE EDGEC_X_RS(v, room)
#define EDGEC_X_SCALED EDGEC_X_MULHHU_19(z, p, a) EDGEC_X_MAC(v, v, z)
#else
#define EDGEC_X_HALVES EDGEC_X_MAC(z, v, upper) EDGEC_X_OP("sll", v, z, room)
#define EDGEC_X_SUMMED EDGEC_X_HALVES
#define EDGEC_X_RAISE(rule) (256U >> (rule)->shift)
#define EDGEC_X_SINGLE EDGEC_X_OP("sll", v, v, room)
#define EDGEC_X_SCALED EDGEC_X_MULHHU(z, p, a) EDGEC_X_OP("mulh", v, v, z)
#endif
#define EDGEC_X_ROW_16(between)                                                                    \
    EDGEC_X_LWP(v, sums, 4) EDGEC_X_LWP(z, lower, 4) EDGEC_X_LWP(p, words, 4)                      \
    EDGEC_X_HALVES EDGEC_X_SCALED between EDGEC_X_OP("sub", p, p, exponent) EDGEC_X_RS(v, p)
/* Lower sums are rounded by the rule's shift. */
#define EDGEC_X_ROW_SUMMED(between)                                                                \
    EDGEC_X_LWP(z, lower, 4) EDGEC_X_LWP(v, sums, 4) EDGEC_X_RS(z, shift) EDGEC_X_LWP(p, words, 4) \
    EDGEC_X_SUMMED EDGEC_X_SCALED between EDGEC_X_OP("sub", p, p, exponent) EDGEC_X_RS(v, p)
#define EDGEC_X_ROW_8(between)                                                                     \
    EDGEC_X_LWP(v, sums, 4) EDGEC_X_LWP(p, words, 4)                                               \
    EDGEC_X_SINGLE EDGEC_X_SCALED between EDGEC_X_OP("sub", p, p, exponent) EDGEC_X_RS(v, p)
#define EDGEC_X_ROW_IN(rule)                                                                       \
    [exponent] "r"((rule)->exponent), [a] "r"((rule)->a_high), [room] "r"((rule)->room),           \
        [upper] "r"(256)
#define EDGEC_X_SUMMED_IN(rule)                                                                    \
    [exponent] "r"((rule)->exponent), [a] "r"((rule)->a_high), [room] "r"((rule)->room),           \
        [upper] "r"(EDGEC_X_RAISE(rule)), [shift] "r"((rule)->shift)
#define EDGEC_X_STORE EDGEC_X_SWP(v, y, 4) EDGEC_X_ABS(v, v) EDGEC_X_MAXU(most, most, v)
/* clang-format on */

/* Rows with one group and no tail; EDGEC_SUMMED halves: any whose sums are added up. */
static inline uint32_t edgec_plain_rows(const edgec_row_rule *rule, uint32_t halves,
                                        const uint8_t *sums, const uint8_t *lower,
                                        const uint8_t *words, uint32_t count, int32_t *y) {
    uint32_t most = 0U;
#if EDGEC_XPULP
    uint32_t v;
    uint32_t z;
    uint32_t p;
    if (halves == 2U) {
        __asm__ volatile(
            EDGEC_X_LOOP(12, EDGEC_X_ROW_16("") EDGEC_X_STORE)
            : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums), [lower] "+&r"(lower),
              [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
            : [n] "r"(count), EDGEC_X_ROW_IN(rule)
            : "memory");
    } else if (halves == EDGEC_SUMMED) {
        __asm__ volatile(
            EDGEC_X_LOOP(13, EDGEC_X_ROW_SUMMED("") EDGEC_X_STORE)
            : [v] "=&r"(v), [z] "=&r"(z), [p] "=&r"(p), [sums] "+&r"(sums), [lower] "+&r"(lower),
              [words] "+&r"(words), [y] "+&r"(y), [most] "+&r"(most)
            : [n] "r"(count), EDGEC_X_SUMMED_IN(rule)
            : "memory");
    } else {
        __asm__ volatile(EDGEC_X_LOOP(10, EDGEC_X_ROW_8("") EDGEC_X_STORE)
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
            const void *const below = lower + 4U * i;
            sum = (sum << 8) + *(const edgec_word *)below;
        }
        y[i] = edgec_ruled_row(rule, sum, word);
        most = edgec_maxu32(most, (uint32_t)edgec_abs32(y[i]));
    }
    return most;
#endif
}

/* The piece of a linear that has a row. */
static inline const edgec_engine_piece *edgec_piece_of(const edgec_engine_linear *linear,
                                                       uint32_t row) {
    const edgec_engine_piece *piece = linear->pieces;
    const uint32_t channels = linear->matrix->channels;
    while (row >= channels) {
        row -= channels;
    }
    while (row - piece->first_channel >= piece->channels) {
        piece++;
    }
    return piece;
}

#endif
