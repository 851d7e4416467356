/* What fused ops share: several ops of a block in one pass, with what one hands to the next in
 * registers or in the exchange instead of tensors.
 *
 * The bits are those of the single ops. Kernels are inline: the generated code calls them with
 * constant shapes, which the compiler folds. */
#ifndef EDGEC_FUSED_H
#define EDGEC_FUSED_H

#include "edgec_vector.h"
#include "edgec_xpulp_asm.h"

/* One copy of the code, wherever it is called from: the instruction cache is small. SETUP: what
 * runs once per token at most. */
#if defined(__GNUC__)
#define EDGEC_SHARED EDGEC_HOT __attribute__((noinline, unused)) static
#define EDGEC_SETUP __attribute__((noinline, unused)) static
#define EDGEC_FOLDED __attribute__((always_inline)) static inline
#else
#define EDGEC_SHARED static inline
#define EDGEC_SETUP static inline
#define EDGEC_FOLDED static inline
#endif

/* What cores leave for each other, in place of the partials. An amplitude is twice the largest
 * magnitude, plus 1 when a positive element has it. */
enum {
    EDGEC_AMPLITUDE_RESIDUAL,
    EDGEC_AMPLITUDE_VECTOR, /* about to be quantized */
    EDGEC_AMPLITUDE_GATE,
    EDGEC_AMPLITUDE_UP,
    EDGEC_AMPLITUDES
};

typedef struct edgec_exchange {
    uint32_t amplitude[EDGEC_AMPLITUDES][EDGEC_MAX_CORES];
    uint32_t sum_low[EDGEC_MAX_CORES];
    uint32_t sum_high[EDGEC_MAX_CORES];
} edgec_exchange;

#ifndef __cplusplus
_Static_assert(sizeof(edgec_exchange) <= EDGEC_MAX_CORES * sizeof(edgec_partial),
               "the exchange lies where the partials do");
#endif

static inline edgec_exchange *edgec_exchange_of(const edgec_worker *worker) {
    void *const memory = worker->partials;
    return (edgec_exchange *)memory;
}

static inline uint32_t edgec_amplitude_of(edgec_range range) {
    return edgec_maxu32(2U * (uint32_t)range.max + 1U, 0U - 2U * (uint32_t)range.min);
}

/* Adds a value that may be any int32 but -2^31. */
static inline uint32_t edgec_amplitude_add(uint32_t amplitude, int32_t value) {
    return edgec_maxu32(amplitude, (uint32_t)edgec_abs32(value) << 1);
}

/* The worker's own one. */
static inline uint32_t *edgec_amplitude_at(const edgec_worker *worker, uint32_t which) {
    return &edgec_exchange_of(worker)->amplitude[which][worker->id];
}

static inline void edgec_put_amplitude(const edgec_worker *worker, uint32_t which,
                                       uint32_t amplitude) {
    *edgec_amplitude_at(worker, which) = amplitude;
}

/* Of a team of any size. */
EDGEC_RARE static uint32_t edgec_any_amplitude(const edgec_worker *worker, uint32_t which) {
    const uint32_t *const x = edgec_exchange_of(worker)->amplitude[which];
    uint32_t amplitude = 0U;
    for (uint32_t core = 0U; core < worker->count; core++) {
        amplitude = edgec_maxu32(amplitude, x[core]);
    }
    return amplitude;
}

/* The team's, after a barrier. */
EDGEC_SHARED uint32_t edgec_team_amplitude(const edgec_worker *worker, uint32_t which) {
    if (!EDGEC_LIKELY(worker->count == 8U)) {
        return edgec_any_amplitude(worker, which);
    }
    const uint32_t *x = edgec_exchange_of(worker)->amplitude[which];
    uint32_t most = 0U;
#if EDGEC_XPULP
    uint32_t a;
    uint32_t b;
    __asm__ volatile(EDGEC_X_LOOP(4, EDGEC_X_LWP(a, x, 4) EDGEC_X_LWP(b, x, 4)
                                         EDGEC_X_MAXU(most, most, a) EDGEC_X_MAXU(most, most, b))
                     : [a] "=&r"(a), [b] "=&r"(b), [x] "+&r"(x), [most] "+&r"(most)
                     : [n] "r"(4)
                     : "memory");
#else
    for (uint32_t core = 0U; core < 8U; core++) {
        most = edgec_maxu32(most, x[core]);
    }
#endif
    return most;
}

/* blen(max |x|) - bits */
static inline int32_t edgec_amplitude_shift(uint32_t amplitude, int32_t bits) {
    return edgec_bits32_above(amplitude) - bits;
}

/* rs(x, shift) for either sign of the shift, as edgec_normalizer without a product. */
typedef struct edgec_shifter {
    uint32_t left;
    uint32_t right;
} edgec_shifter;

static inline edgec_shifter edgec_shifter_of(int32_t shift) {
    const edgec_shifter by = {(uint32_t)edgec_max32(1 - shift, 0),
                              (uint32_t)edgec_max32(shift - 1, 0)};
    return by;
}

static inline int32_t edgec_shifted(int32_t x, edgec_shifter by) {
    return ((edgec_signed((uint32_t)x << by.left) >> by.right) + 1) >> 1;
}

/* The same for |x| <= 2^30 and shifts of at most 30, in two instructions. */
static inline edgec_shifter edgec_rounder_of(int32_t shift) {
    const edgec_shifter by = {(uint32_t)edgec_max32(-shift, 0), (uint32_t)edgec_max32(shift, 0)};
    return by;
}

static inline int32_t edgec_rounded(int32_t x, edgec_shifter by) {
    return edgec_round_shift(edgec_signed((uint32_t)x << by.left), by.right);
}

/* A and E of a quantized vector. */
typedef struct edgec_scale {
    int32_t a;
    int32_t e;
} edgec_scale;

/* A quantizer of a vector with elements of at most 2^30, known by its amplitude. */
typedef struct edgec_vector_quantizer {
    edgec_shifter by;
    int32_t shift;
    int32_t amax;       /* A */
    int32_t reciprocal; /* int8 only */
} edgec_vector_quantizer;

/* halves: 1 for int8, 2 for int16. */
static inline edgec_vector_quantizer edgec_vector_quantizer_of(uint32_t amplitude,
                                                               uint32_t halves) {
    edgec_vector_quantizer quantizer;
    quantizer.shift = edgec_amplitude_shift(amplitude, halves == 2U ? 14 : 15);
    quantizer.by = edgec_rounder_of(quantizer.shift);
    quantizer.amax = 1 << 14;
    quantizer.reciprocal = 0;
    if (halves == 1U) {
        const int32_t most = (int32_t)(amplitude >> 1);
        quantizer.amax = (amplitude & 1U) != 0U ? edgec_rounded(most, quantizer.by)
                                                : -edgec_rounded(-most, quantizer.by);
        quantizer.reciprocal =
            quantizer.amax != 0 ? (int32_t)((127U << 23) / (uint32_t)quantizer.amax) : 0;
    }
    return quantizer;
}

/* Leaves the amplitude of the residual stream for the first norm. */
EDGEC_SETUP void edgec_fused_range(const edgec_worker *worker, const int32_t *r, uint32_t n) {
    const edgec_slice share = edgec_slice_of(worker, n);
    uint32_t amplitude = 0U;
    for (uint32_t i = share.first; i < share.last; i++) {
        amplitude = edgec_amplitude_add(amplitude, r[i]);
    }
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_RESIDUAL, amplitude);
}

#endif
