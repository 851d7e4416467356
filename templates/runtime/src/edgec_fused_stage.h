/* Quantizing into the engine's input buffer, without a vector between. */
#ifndef EDGEC_FUSED_STAGE_H
#define EDGEC_FUSED_STAGE_H

#include "edgec_engine.h"
#include "edgec_fused.h"
#include "edgec_xpulp_asm.h"

/* Elements that lie one behind the other in the engine's input. */
typedef struct edgec_stage_run {
    uint32_t at; /* bytes from the part's first element */
    uint32_t count;
} edgec_stage_run;

/* Where elements of a chunk come next. */
typedef struct edgec_stage_place {
    uint32_t at;       /* of the chunk: bytes from the part's first element, modulo 2^32 */
    uint32_t in_chunk; /* elements of the chunk in front of the next one */
    uint32_t in_group;
} edgec_stage_place;

#define EDGEC_STAGE_RUNS 3U

/* The worker's part of a staged vector. */
typedef struct edgec_stage_part {
    const edgec_engine_stage *stage;
    edgec_slice share;
    uint32_t last;      /* of those that the engine sees */
    int8_t *first;      /* the first element, its upper or only half */
    uint32_t below;     /* bytes from there to the lower half */
    void *tail;         /* the vector as the cores read it: columns that the engine does not see */
    uint32_t run_count; /* 0: none, or too many to know */
    union {
        edgec_stage_run runs[EDGEC_STAGE_RUNS];
        edgec_stage_place place; /* of the first one of too many */
    };
} edgec_stage_part;

/* The next run, of at most `left` > 0 elements. */
static inline edgec_stage_run edgec_stage_next(const edgec_engine_stage *stage,
                                               edgec_stage_place *place, uint32_t left) {
    const uint32_t of_chunk = stage->chunk - place->in_chunk;
    const uint32_t of_group = stage->group_size - place->in_group;
    uint32_t count = left < of_chunk ? left : of_chunk;
    count = count < of_group ? count : of_group;
    const edgec_stage_run run = {place->at + place->in_chunk, count};
    place->in_group += count;
    place->in_chunk = 0U;
    place->at += stage->chunk_stride;
    if (place->in_group == stage->group_size) {
        const uint32_t chunks = (stage->group_size + stage->chunk - 1U) / stage->chunk;
        place->at += stage->group_stride - chunks * stage->chunk_stride;
        place->in_group = 0U;
    }
    return run;
}

/* Once per step: divisions. The tail is the caller's. */
EDGEC_SETUP void edgec_place_stage(edgec_stage_part *part, edgec_slice share,
                                   const edgec_engine_stage *stage, uint8_t *input) {
    const uint32_t group =
        stage->group_size < stage->columns ? share.first / stage->group_size : 0U;
    const uint32_t in_group = share.first - group * stage->group_size;
    const uint32_t chunk = in_group / stage->chunk;
    const uint32_t in_chunk = in_group - chunk * stage->chunk;
    const edgec_stage_place place = {0U - in_chunk, in_chunk, in_group};
    part->stage = stage;
    part->share = share;
    part->last = share.last < stage->columns ? share.last : stage->columns;
    part->first = (int8_t *)(input + group * stage->group_stride + chunk * stage->chunk_stride +
                             in_chunk + stage->origins[0]);
    part->below = stage->origins[1] - stage->origins[0];
    edgec_stage_place next = place;
    uint32_t count = 0U;
    uint32_t i = share.first;
    for (; i < part->last && count < EDGEC_STAGE_RUNS; count++) {
        part->runs[count] = edgec_stage_next(stage, &next, part->last - i);
        i += part->runs[count].count;
    }
    part->run_count = count;
    if (i < part->last) {
        part->run_count = 0U;
        part->place = place;
    }
}

/* clang-format off */
#define EDGEC_X_STAGE                                                                              \
    EDGEC_X_RS(q, right)                                                                           \
    EDGEC_X_SBP(q, lower, 1)                                                                       \
    EDGEC_X_RS(q, eight)                                                                           \
    EDGEC_X_SBP(q, to, 1)
#define EDGEC_X_STAGE_8                                                                            \
    EDGEC_X_RS(q, right)                                                                           \
    EDGEC_X_MAC(q, q, less)                                                                        \
    EDGEC_X_RS23(q, q)                                                                             \
    EDGEC_X_SBP(q, to, 1)
/* clang-format on */

/* Elements that lie one behind the other, count > 0; returns what is behind them. int16: the lower
 * byte lies `below` bytes behind the upper one. */
static inline const int32_t *edgec_stage_elements(const edgec_vector_quantizer *quantizer,
                                                  uint32_t halves, const int32_t *t, uint32_t count,
                                                  int8_t *to, uint32_t below) {
#if EDGEC_XPULP
    /* the next element is loaded while one is on its way */
    const uint32_t before_last = count - 1U;
    int32_t next;
    int32_t q;
    if (halves == 2U) {
        int8_t *lower = to + below;
        const uint32_t eight = 8U;
        __asm__ volatile(
            EDGEC_X_LWP(next, t, 4) "beq %[n], x0, 1f\n" EDGEC_X_LOOP(
                6, EDGEC_X_OP("sll", q, next, left) EDGEC_X_LWP(next, t, 4)
                       EDGEC_X_STAGE) "1:\n" EDGEC_X_OP("sll", q, next, left) EDGEC_X_STAGE
            : [q] "=&r"(q), [next] "=&r"(next), [t] "+&r"(t), [to] "+&r"(to), [lower] "+&r"(lower)
            : [n] "r"(before_last), [left] "r"(quantizer->by.left),
              [right] "r"(quantizer->by.right), [eight] "r"(eight)
            : "memory");
    } else {
        __asm__ volatile(EDGEC_X_LWP(next, t, 4) "beq %[n], x0, 1f\n" EDGEC_X_LOOP(
                             6, EDGEC_X_OP("sll", q, next, left) EDGEC_X_LWP(next, t, 4)
                                    EDGEC_X_STAGE_8) "1:\n" EDGEC_X_OP("sll", q, next, left)
                             EDGEC_X_STAGE_8
                         : [q] "=&r"(q), [next] "=&r"(next), [t] "+&r"(t), [to] "+&r"(to)
                         : [n] "r"(before_last), [left] "r"(quantizer->by.left),
                           [right] "r"(quantizer->by.right), [less] "r"(quantizer->reciprocal - 1)
                         : "memory");
    }
#else
    for (const int32_t *const end = t + count; t != end; t++) {
        const int32_t q = edgec_rounded(*t, quantizer->by);
        if (halves == 2U) {
            to[below] = (int8_t)q;
            *to++ = (int8_t)edgec_round_shift(q, 8U);
        } else {
            *to++ = (int8_t)edgec_round_shift(q * quantizer->reciprocal, 23U);
        }
    }
#endif
    return t;
}

/* What is left behind the runs that are known: those of a part that has many, and the columns
 * behind those of the engine. */
EDGEC_RARE static void edgec_stage_rest(const edgec_stage_part *part, uint32_t halves,
                                        edgec_vector_quantizer by, const int32_t *t) {
    edgec_stage_place place = part->place;
    uint32_t i = part->share.first;
    while (part->run_count == 0U && i < part->last) {
        const edgec_stage_run run = edgec_stage_next(part->stage, &place, part->last - i);
        (void)edgec_stage_elements(&by, halves, t + i, run.count, part->first + run.at,
                                   part->below);
        i += run.count;
    }
    for (i = i > part->last ? i : part->last; i < part->share.last; i++) {
        const int32_t value = edgec_rounded(t[i], by.by);
        if (halves == 2U) {
            ((int16_t *)part->tail)[i] = (int16_t)value;
        } else {
            ((int8_t *)part->tail)[i] = (int8_t)edgec_round_shift(value * by.reciprocal, 23U);
        }
    }
}

/* Quantizes the worker's part of t and stages it. */
EDGEC_FOLDED void edgec_fused_stage(const edgec_stage_part *part, uint32_t halves,
                                    const edgec_vector_quantizer *quantizer, const int32_t *t) {
    const int32_t *next = t + part->share.first;
    const edgec_stage_run *run = part->runs;
    for (uint32_t left = part->run_count; left != 0U; left--) {
        next = edgec_stage_elements(quantizer, halves, next, run->count, part->first + run->at,
                                    part->below);
        run++;
    }
    EDGEC_KEEP(next);
    if (!EDGEC_LIKELY(next == t + part->share.last)) {
        edgec_stage_rest(part, halves, *quantizer, t);
    }
}

/* A vector's quantizer: A, and the shift. */
typedef struct edgec_quantized {
    int32_t amax;
    int32_t shift;
} edgec_quantized;

/* As edgec_fused_put; the shift in the upper word: a structure would go through memory. */
EDGEC_SHARED uint64_t edgec_shared_put(const edgec_worker *worker, uint32_t amplitude,
                                       const edgec_stage_part *part, uint32_t halves,
                                       const int32_t *t) {
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_VECTOR, amplitude);
    edgec_barrier(worker);
    const uint32_t all = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_VECTOR);
    const edgec_vector_quantizer quantizer = edgec_vector_quantizer_of(all, halves);
    edgec_fused_stage(part, halves, &quantizer, t);
    return (uint64_t)(uint32_t)quantizer.shift << 32 | (uint32_t)quantizer.amax;
}

/* Quantizes and stages the worker's part of a vector t, of which this is the part's amplitude. The
 * barrier in front of the job is the caller's. */
static inline edgec_quantized edgec_fused_put(const edgec_worker *worker, uint32_t amplitude,
                                              const edgec_stage_part *part, uint32_t halves,
                                              const int32_t *t) {
    const uint64_t both = edgec_shared_put(worker, amplitude, part, halves, t);
    const edgec_quantized found = {edgec_signed((uint32_t)both),
                                   edgec_signed((uint32_t)(both >> 32))};
    return found;
}

#endif
