/* From the dot product of a query and a key to a logit in the log2 domain, Q8. */
#ifndef EDGEC_LOGIT_H
#define EDGEC_LOGIT_H

#include "edgec_kv_scale.h"
#include "edgec_vector.h"

/* How dot products of one head become logits. They are below 2^(15 + drop), with fast arithmetic
 * below 2^(16 + drop). */
typedef struct edgec_logit_scale {
    int32_t factor;   /* of the query: amax, with fast arithmetic times Mc */
    int32_t exponent; /* right shift of the product, before the key's exponent is subtracted */
    uint32_t drop;
#if !EDGEC_ARITHMETIC_FAST
    int32_t multiplier; /* Mc */
    uint32_t lift;      /* dot products are computed 2^lift times as large */
#endif
} edgec_logit_scale;

#if EDGEC_ARITHMETIC_FAST

#define EDGEC_LEAST_LOGIT_SHIFT 0

EDGEC_INLINE edgec_logit_scale edgec_logit_scale_of(const edgec_attention_params *params,
                                                    const int32_t *q_scale) {
    const uint32_t drop = (uint32_t)edgec_max32(edgec_bits32(params->head_dim - 1U) - 2, 0);
    const uint32_t factor = (uint32_t)q_scale[0] * (uint32_t)params->score_multiplier;
    const edgec_logit_scale scale = {(int32_t)edgec_round_shift_u(factor, 16U),
                                     params->score_exponent - 32 - (int32_t)drop - q_scale[1],
                                     drop};
    return scale;
}

EDGEC_INLINE uint32_t edgec_logit_lift(const edgec_logit_scale *scale) {
    (void)scale;
    return 0U;
}

/* Below 2^30. */
static inline int32_t edgec_logit_product(int32_t dot, const edgec_logit_scale *scale,
                                          int32_t k_amax) {
    const int32_t factor = (scale->factor * k_amax >> 16) + 1;
    return edgec_round_shift(dot, scale->drop) * factor;
}

/* The logit of a dot product, near. */
static inline int32_t edgec_logit_near(int32_t dot, const edgec_logit_scale *scale, int32_t k_amax,
                                       uint32_t k_code) {
    const uint32_t n = edgec_kv_shift(scale->exponent, k_code);
    return ((2 * edgec_logit_product(dot, scale, k_amax) >> n) + 1) >> 1;
}

/* The same for any exponent. */
static inline int32_t edgec_logit_far(int32_t dot, const edgec_logit_scale *scale,
                                      edgec_kv_scale k) {
    const int32_t n = edgec_min32(edgec_max32(scale->exponent - edgec_kv_exponent(k), 0), 31);
    return ((2 * edgec_logit_product(dot, scale, k.amax) >> n) + 1) >> 1;
}

#else

#define EDGEC_LEAST_LOGIT_SHIFT 1

EDGEC_INLINE edgec_logit_scale edgec_logit_scale_of(const edgec_attention_params *params,
                                                    const int32_t *q_scale) {
    const uint32_t drop = (uint32_t)edgec_bits32(params->head_dim - 1U) - 1U;
    const edgec_logit_scale scale = {q_scale[0],
                                     params->score_exponent - 31 - (int32_t)drop - q_scale[1], drop,
                                     params->score_multiplier, 16U - drop};
    return scale;
}

EDGEC_INLINE uint32_t edgec_logit_lift(const edgec_logit_scale *scale) {
    return scale->lift;
}

static inline int32_t edgec_logit_factor(const edgec_logit_scale *scale, int32_t k_amax) {
    return ((scale->factor * k_amax + (1 << 14)) >> 15) * scale->multiplier;
}

/* The logit of a lifted dot product, near: the upper half of the product has all of it. */
static inline int32_t edgec_logit_near(int32_t dot, const edgec_logit_scale *scale, int32_t k_amax,
                                       uint32_t k_code) {
    const int32_t upper = edgec_mulh(dot, edgec_logit_factor(scale, k_amax));
    return ((upper >> edgec_kv_shift(scale->exponent - 1, k_code)) + 1) >> 1;
}

/* The same for any exponent. */
static inline int32_t edgec_logit_far(int32_t dot, const edgec_logit_scale *scale,
                                      edgec_kv_scale k) {
    const int32_t n = scale->exponent + 16 + (int32_t)scale->drop - edgec_kv_exponent(k);
    return edgec_requantize(dot >> scale->lift, edgec_logit_factor(scale, k.amax), n < 1 ? 1 : n);
}

#endif

/* Whether the shifts of all keys lie where edgec_logit_near serves. */
EDGEC_INLINE int edgec_logits_are_near(const edgec_logit_scale *scale, edgec_kv_scale last) {
    const int32_t least = scale->exponent - edgec_kv_top(last);
    const int32_t spread = edgec_kv_spread(last);
    return spread < EDGEC_KV_SPREAD && least >= EDGEC_LEAST_LOGIT_SHIFT && least + spread <= 31;
}

#endif
