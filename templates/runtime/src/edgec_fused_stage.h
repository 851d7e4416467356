/* Quantizing into the engine's input buffer, without a vector between. */
#ifndef EDGEC_FUSED_STAGE_H
#define EDGEC_FUSED_STAGE_H

#include "edgec_engine.h"
#include "edgec_fused.h"
#include "edgec_xpulp_asm.h"

/* The worker's part of a staged vector: where its first element lies. */
typedef struct edgec_stage_part {
    const edgec_engine_stage *stage;
    edgec_slice share;
    int8_t *chunk;     /* begin of the chunk, the upper or only half */
    uint32_t in_chunk; /* elements of the chunk in front of the part */
    uint32_t in_group;
    void *tail; /* the vector as the cores read it: columns that the engine does not see */
} edgec_stage_part;

/* Once per step: divisions. */
EDGEC_SETUP edgec_stage_part edgec_stage_part_of(edgec_slice share, const edgec_engine_stage *stage,
                                                 uint8_t *input) {
    edgec_stage_part part = {stage, share, NULL, 0U, 0U, NULL};
    const uint32_t first = part.share.first;
    const uint32_t group = stage->group_size < stage->columns ? first / stage->group_size : 0U;
    part.in_group = first - group * stage->group_size;
    const uint32_t chunk = part.in_group / stage->chunk;
    part.in_chunk = part.in_group - chunk * stage->chunk;
    part.chunk = (int8_t *)(input + group * stage->group_stride + chunk * stage->chunk_stride +
                            stage->origins[0]);
    return part;
}

/* Elements that lie one behind the other, count > 0. int16: the lower byte lies `below` bytes
 * behind the upper one. */
static inline void edgec_stage_elements(const edgec_vector_quantizer *quantizer, uint32_t halves,
                                        const int32_t *t, uint32_t count, int8_t *to,
                                        uint32_t below) {
#if EDGEC_XPULP
    if (halves == 2U) {
        int8_t *lower = to + below;
        int32_t q;
        const uint32_t eight = 8U;
        __asm__ volatile(EDGEC_X_LOOP(6, EDGEC_X_LWP(q, t, 4) EDGEC_X_OP("sll", q, q, left)
                                             EDGEC_X_RS(q, right) EDGEC_X_SBP(q, lower, 1)
                                                 EDGEC_X_RS(q, eight) EDGEC_X_SBP(q, to, 1))
                         : [q] "=&r"(q), [t] "+&r"(t), [to] "+&r"(to), [lower] "+&r"(lower)
                         : [n] "r"(count), [left] "r"(quantizer->by.left),
                           [right] "r"(quantizer->by.right), [eight] "r"(eight)
                         : "memory");
        return;
    }
#endif
    for (const int32_t *const end = t + count; t != end; t++) {
        const int32_t q = edgec_rounded(*t, quantizer->by);
        if (halves == 2U) {
            to[below] = (int8_t)q;
            *to++ = (int8_t)edgec_round_shift(q, 8U);
        } else {
            *to++ = (int8_t)edgec_round_shift(q * quantizer->reciprocal, 23U);
        }
    }
}

/* Behind the columns of the engine. */
EDGEC_RARE static void edgec_stage_tail(const edgec_stage_part *part, uint32_t halves,
                                        edgec_vector_quantizer by, const int32_t *t,
                                        uint32_t first) {
    for (uint32_t i = first; i < part->share.last; i++) {
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
    const edgec_engine_stage *const stage = part->stage;
    const uint32_t below = stage->origins[1] - stage->origins[0];
    const uint32_t last = part->share.last < stage->columns ? part->share.last : stage->columns;
    int8_t *chunk = part->chunk;
    uint32_t in_chunk = part->in_chunk;
    uint32_t in_group = part->in_group;
    uint32_t i = part->share.first;
    while (i < last) {
        const uint32_t left = stage->chunk - in_chunk;
        uint32_t count = last - i < left ? last - i : left;
        const uint32_t of_group = stage->group_size - in_group;
        count = count < of_group ? count : of_group;
        edgec_stage_elements(quantizer, halves, t + i, count, chunk + in_chunk, below);
        i += count;
        in_group += count;
        in_chunk = 0U;
        chunk += stage->chunk_stride;
        if (in_group == stage->group_size) {
            const uint32_t chunks = (stage->group_size + stage->chunk - 1U) / stage->chunk;
            chunk += stage->group_stride - chunks * stage->chunk_stride;
            in_group = 0U;
        }
    }
    if (i < part->share.last) {
        edgec_stage_tail(part, halves, *quantizer, t, i);
    }
}

/* A vector's quantizer: A, and the shift. */
typedef struct edgec_quantized {
    int32_t amax;
    int32_t shift;
} edgec_quantized;

/* Quantizes and stages the worker's part of a vector t, of which this is the part's amplitude. The
 * barrier in front of the job is the caller's. */
EDGEC_SHARED edgec_quantized edgec_fused_put(const edgec_worker *worker, uint32_t amplitude,
                                             const edgec_stage_part *part, uint32_t halves,
                                             const int32_t *t) {
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_VECTOR, amplitude);
    edgec_barrier(worker);
    const uint32_t all = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_VECTOR);
    const edgec_vector_quantizer quantizer = edgec_vector_quantizer_of(all, halves);
    edgec_fused_stage(part, halves, &quantizer, t);
    const edgec_quantized found = {quantizer.amax, quantizer.shift};
    return found;
}

#endif
